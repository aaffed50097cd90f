"""A report held to its own record of runs, to its crate and to the documented schema."""

import hashlib
import json
import re
import sys

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from helpers import ROOT
from helpers.reports import SMALL_STUDY
from reproduce.cli import main
from reproduce.errors import UserError
from reproduce.report import build, crate
from reproduce.results.archive import Archive


def test_a_report_can_be_made_again_from_its_own_record_without_the_store(finished, paper, written, trials):
    recorded = Archive(written / "runs.json")
    assert recorded.config == SMALL_STUDY
    store = finished[0]
    runs = recorded.finished_runs()
    for trial, result in store.reader.results(trials).items():
        again = recorded.result(trial, runs[trial.config_hash])
        assert (again.run_id, again.epochs, again.outcome) == (result.run_id, result.epochs, result.outcome)
        assert (again.started_at, again.ended_at) == (result.started_at, result.ended_at)
    for mine, theirs in zip(
        recorded.curve(finished[2][0].run_id), store.reader.curve(finished[2][0].run_id), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert build.check(written) == {}


def test_falsified_files_are_found_even_if_the_crate_was_made_to_agree(written):
    names = ["summary.csv", "summary.json", "report.md", "index.html", "environment.json"]
    graph = (written / crate.METADATA).read_text()
    for name in names:
        text = (written / name).read_text()
        place = next(index for index, letter in enumerate(text) if letter.isdigit())
        (written / name).write_text(f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}")
        graph = graph.replace(hashlib.sha256(text.encode()).hexdigest(),
                              hashlib.sha256((written / name).read_bytes()).hexdigest())  # fmt: skip
    assert build.check(written) == dict.fromkeys(names, "changed")
    (written / crate.METADATA).write_text(graph)
    assert build.check(written) == dict.fromkeys(names, "changed")


def replaced(written, name, old, new):
    """Put other text into a file, and have the crate agree."""
    text, graph = (written / name).read_text(), (written / crate.METADATA).read_text()
    (written / name).write_text(text.replace(old, new, 1))
    hashes = [hashlib.sha256(content.encode()).hexdigest() for content in (text, text.replace(old, new, 1))]
    (written / crate.METADATA).write_text(graph.replace(*hashes))


@pytest.mark.parametrize(("moved_by", "found"), [(1e-11, {}), (1e-7, {"summary.json": "changed"})])
def test_only_the_last_digits_of_a_number_may_be_those_of_other_libraries(written, moved_by, found):
    number = re.search(r"\d\.\d{14,}", (written / "summary.json").read_text())[0]
    replaced(written, "summary.json", number, repr(float(number) * (1 + moved_by)))
    assert build.check(written) == found


def test_a_number_that_other_libraries_give_whole_is_the_same(written):
    number = re.search(r"\d+\.\d{14,}", (written / "summary.json").read_text())[0]
    for name, text in (("ours", "1.0"), ("theirs", "0.9999999999999999")):
        (written / name).write_text((written / "summary.json").read_text().replace(number, text))
    assert build._comparable(written / "ours") == build._comparable(written / "theirs")


def test_the_command_names_what_differs_and_what_to_do(written, monkeypatch, capsys):
    (written / "summary.md").unlink()
    monkeypatch.chdir(written.parent)
    monkeypatch.setattr(sys, "argv", ["reproduce", "report", "--check", "--output", "output"])
    with pytest.raises(SystemExit) as left:
        main.main()
    again = (
        "reproduce report --epochs 2 --train-size 640 --learning-rates 0.0006 --range-test-epochs 2 --smoothing 0.9 "
        "--output output"
    )
    assert (left.value.code, capsys.readouterr().out) == (1, (
        "summary.md: missing\n"
        "output: 1 file differs from what its runs give: restore what was changed or is missing and remove what was "
        f"added, or write it again with {again}\n"
    ))  # fmt: skip


def test_a_falsified_run_is_found(written):
    record = json.loads((written / "runs.json").read_text())
    run = next(run for run in record["runs"] if run["name"] == "step 6e-4 seed 0")
    run["epochs"]["test_accuracy_batch_mean"][-1] = 0.999
    (written / "runs.json").write_text(json.dumps(record) + "\n")
    found = build.check(written)
    assert (found["runs.json"], found["summary.csv"]) == ("changed", "changed")


def test_what_was_changed_is_missing_or_was_added_is_told_apart_and_counted_once(written):
    (written / "figure-1.svg").unlink()
    (written / "summary.md").unlink()
    with (written / "figure-2.png").open("ab") as file:
        file.write(b"x")
    (written / "report.md").write_bytes(b"\xff\xfe no text at all")
    (written / "figure-9.svg").write_text("<svg/>")
    (written / "notes").mkdir()
    (written / "notes" / "mine.txt").write_text("mine")
    assert build.check(written) == {
        "figure-1.svg": "missing", "figure-2.png": "changed", "figure-9.svg": "added", "notes/mine.txt": "added",
        "report.md": "changed", "summary.md": "missing",
    }  # fmt: skip


def test_without_a_crate_that_can_be_read_only_that_is_told(written):
    (written / crate.METADATA).write_text("[" * 100_000)
    assert build.check(written) == {crate.METADATA: "changed"}
    (written / crate.METADATA).unlink()
    assert build.check(written) == {crate.METADATA: "missing"}


def test_a_report_that_is_not_there_cannot_be_checked(tmp_path):
    with pytest.raises(UserError, match="in which a report keeps its runs: write one with reproduce report"):
        build.check(tmp_path / "nowhere")


def test_what_is_no_record_of_runs_is_refused_in_one_line(tmp_path):
    (tmp_path / "runs.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match="is no record of runs: format 9, this version reads 1"):
        build.check(tmp_path)


def test_the_page_links_to_every_file_beside_it_but_the_figures(written):
    linked = set(re.findall(r'<dt><a href="([^"]+)">', (written / "index.html").read_text()))
    beside = {path.name for path in written.iterdir() if path.suffix not in (".svg", ".png")}
    assert linked == beside - {"index.html"}


SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())


@pytest.mark.parametrize("of", ["written", "archived"])
def test_every_json_file_is_as_its_schema_documents_it(of, written):
    folder = written if of == "written" else ROOT / "report" / "reference"
    names = {path.name for path in folder.glob("*.json")} - {crate.METADATA}
    files = {"summary.json", "environment.json", "runs.json"}  # a shorter run has no verdicts
    assert names == (files if of == "written" else files | {"claims.json"})
    for name in names:
        validator = Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"})
        assert [error.message for error in validator.iter_errors(json.loads((folder / name).read_text()))] == []


def test_the_schema_describes_every_key_of_a_claim_and_admits_no_other():
    claim = json.loads((ROOT / "report" / "reference" / "claims.json").read_text())["claims"][0]
    validator = Draft202012Validator({**SCHEMA, "$ref": "#/$defs/claims.json"})
    assert not list(validator.iter_errors({"claims": [claim]}))
    for key in claim:
        assert not validator.is_valid({"claims": [{name: value for name, value in claim.items() if name != key}]})
    assert not validator.is_valid({"claims": [claim | {"beauty": 1}]})
