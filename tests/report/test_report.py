import csv
import hashlib
import json
import re
import sqlite3
import threading
import time

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from helpers import ROOT
from helpers.small import run, small_config
from reproduce.analysis import lr_range_test, suggestion_rules
from reproduce.errors import UserError
from reproduce.report import build, crate, figures
from reproduce.results import comparisons
from reproduce.results.archive import Archive
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.trial import format_rate

WISHES = small_config(learning_rates=(6e-4,), schedulers=("step", "multistep"))


def write(store, paper, output, config=WISHES):
    return build.write(RunCollection(store.reader, paper, config, 0.9), output)


def test_the_tables_hold_what_the_store_holds(finished, paper, tmp_path):
    store, _, done = finished
    assert write(store, paper, tmp_path / "output") == 0
    with (tmp_path / "output" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "optimizer", "scheduler", "learning_rate", "seed", "protocol", "epochs", "engine", "train_loss",
        "test_accuracy", "test_accuracy_batch_mean", "outcome", "run_id",
    ]  # fmt: skip
    for row, item in zip(rows, done[1:], strict=True):
        metrics = store.mlflow.get_run(item.run_id).data.metrics
        assert (row["run_id"], row["scheduler"], row["outcome"]) == (item.run_id, item.trial.schedule.name, "finished")
        assert float(row["learning_rate"]) == 6e-4
        for name in ("train_loss", "test_accuracy", "test_accuracy_batch_mean"):
            assert float(row[name]) == metrics[name]


def test_the_papers_value_and_ours_stand_side_by_side(finished, paper, tmp_path):
    store, _, done = finished
    write(store, paper, tmp_path / "output")
    ours = store.mlflow.get_run(done[1].run_id).data.metrics["test_accuracy_batch_mean"]
    (row,) = [line for line in (tmp_path / "output" / "summary.md").read_text().splitlines() if "| StepLR" in line]
    assert row.startswith(f"| StepLR | 6e-4 | 0.9884 | {ours:.4f} |")
    first = json.loads((tmp_path / "output" / "summary.json").read_text())["trials"][0]
    assert first["paper"]["test_accuracy"] == 0.9884295886075949
    assert first["test_accuracy_batch_mean"] == ours
    assert first["parameters"]["decay_steps"] == 4500


def test_a_taste_says_so_on_its_face_and_names_what_is_missing(finished, paper, tmp_path):
    store, _, done = finished
    store.mlflow.delete_run(done[2].run_id)
    assert write(store, paper, tmp_path / "output") == 1
    lines = (tmp_path / "output" / "report.md").read_text().splitlines()
    assert lines[2].startswith("> **This is a taste, not the reproduction.** It was run with 640 training images")
    assert "> **1 of 3 runs are missing:** multistep 6e-4 seed 0." in lines
    assert "multistep,0.0006,0,as-drawn,2,fused,,,,missing," in (tmp_path / "output" / "summary.csv").read_text()
    page = (tmp_path / "output" / "index.html").read_text()
    assert "Hollow markers" not in page
    assert "Where a grid was run" not in page


@pytest.mark.parametrize(
    ("own", "commands"),
    [
        (
            {},
            [
                "reproduce main --epochs 2 --seeds 4 --train-size 640",
                "reproduce report --epochs 2 --seeds 4 --train-size 640",
            ],
        ),
        (
            {"engine": "torch"},
            [
                "reproduce main --epochs 2 --seeds 4 --train-size 640 --engine torch",
                "reproduce report --epochs 2 --seeds 4 --train-size 640 --engine torch",
            ],
        ),
        ({"schedulers": ("step",)}, ["reproduce report --epochs 2 --seeds 4 --train-size 640 --scheduler step"]),
    ],
)
def test_a_taste_names_the_commands_that_make_it(store, paper, tmp_path, own, commands):
    config = StudyConfig(**{"epochs": 2, "train_size": 640, "seeds": (4,), "engine": "fused"} | own)
    build.write(RunCollection(store.reader, paper, config, 0.98), tmp_path / "output")
    page = (tmp_path / "output" / "index.html").read_text()
    found = [re.sub("<[^>]*>", "", code) for code in re.findall("<code>(.*?)</code>", page)]
    assert [code for code in found if code.startswith("reproduce")] == commands


def test_the_axis_of_a_single_epoch_has_one_tick(store, paper):
    config = small_config(learning_rates=(6e-4,), schedulers=("step",), epochs=1)
    (trial,) = planning.trials(paper, config)
    run(store, [trial])
    for axes in figures.schedule("step", [[RunCollection(store.reader, paper, config, 0.9).result(trial)]], paper).axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_several_seeds_are_one_row_with_their_interval(store, paper, tmp_path):
    config = small_config(learning_rates=(6e-4,), schedulers=("step",), seeds=(0, 1, 2))
    _, done = run(store, planning.range_tests(paper, config) + planning.trials(paper, config))
    assert write(store, paper, tmp_path / "output", config) == 0
    metrics = [store.mlflow.get_run(item.run_id).data.metrics for item in done[3:]]
    accuracies = np.array([found["test_accuracy_batch_mean"] for found in metrics])
    half = 4.302653 * accuracies.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    (row,) = [line for line in (tmp_path / "output" / "summary.md").read_text().splitlines() if "| StepLR" in line]
    assert f"| {accuracies.mean():.4f} ± {half:.4f} |" in row
    proposals = [RunCollection(store.reader, paper, config, 0.9).proposal(item.trial) for item in done[:3]]
    rates = [proposal.learning_rate for proposal in proposals if proposal]
    page = (tmp_path / "output" / "report.md").read_text()
    assert ("| all seeds |" in page) == (len(rates) > 1)
    if len(rates) > 1:
        middle = format_rate(float(np.exp(np.log(rates).mean())), 3)
        assert f"| all seeds | {middle}, 95% interval " in page


def test_what_every_rule_suggests_is_read_off_the_curve_beside_it(finished, paper, tmp_path):
    write(finished[0], paper, tmp_path / "output")
    with (tmp_path / "output" / "range-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["step"]) for row in rows] == [("0", str(step)) for step in range(10)]
    rates, losses, smoothed = (
        np.array([float(row[name]) for row in rows]) for name in ("learning_rate", "loss", "smoothed_loss")
    )
    np.testing.assert_array_equal(smoothed, lr_range_test.smooth(losses, 0.9))
    (test,) = json.loads((tmp_path / "output" / "summary.json").read_text())["range_tests"]
    expected = suggestion_rules.read_all(lr_range_test.Curve(rates, losses), 0.9)
    assert test["suggestions"] == {name: found.learning_rate if found else None for name, found in expected.items()}
    page = (tmp_path / "output" / "report.md").read_text()
    assert test["doubts"] == {name: found.doubt for name, found in expected.items() if found.doubt}
    assert f"| minimum / 10 | {expected['minimum / 10'].short} |" in page


def test_the_same_runs_give_the_same_bytes(finished, paper, tmp_path):
    store, _, _ = finished

    def hashes(output):
        write(store, paper, output)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.iterdir()}

    first = hashes(tmp_path / "one")
    assert first == hashes(tmp_path / "two")
    figures = {"figure-1", "figure-2", "figure-4b", "figure-5", "figure-conclusion", "figure-rules"}
    assert {name for name in first if name.endswith(".svg")} == {f"{name}.svg" for name in figures}


def test_the_proposal_is_read_off_the_recorded_curve_with_the_smoothing_asked_for(finished, paper):
    store, _, done = finished
    (trial,) = planning.range_tests(paper, WISHES)
    rates, losses = store.reader.curve(done[0].run_id)
    expected = lr_range_test.propose(lr_range_test.Curve(rates, losses), 0.5)
    assert RunCollection(store.reader, paper, WISHES, 0.5).proposal(trial) == expected


def test_the_newest_finished_run_of_a_specification_is_taken(finished, paper, trials, monkeypatch, tmp_path):
    store, _, done = finished
    monkeypatch.setattr("reproduce.training.provenance.code_sha256", lambda: "another")
    _, (newer,) = run(store, trials[1:2], jobs=1)
    assert newer.run_id != done[1].run_id
    assert store.reader.results(trials)[trials[1]].run_id == newer.run_id
    write(store, paper, tmp_path / "output")
    assert (
        "> These runs were not all made alike. They differ in: code."
        in (tmp_path / "output" / "report.md").read_text().splitlines()
    )


def test_an_empty_store_gives_a_report_that_names_everything(store, paper, tmp_path):
    assert write(store, paper, tmp_path / "output", StudyConfig()) == 16
    text = (tmp_path / "output" / "report.md").read_text()
    assert "**16 of 16 runs are missing:** range_test adam seed 0; none 0.06 seed 0; none 6e-5 seed 0;" in text


@pytest.mark.parametrize("foreign", ["mlflow.db", "notes.txt", ".git/config", "figure-1.txt"])
def test_a_directory_that_holds_anything_else_is_refused_and_left_as_it_was(store, paper, tmp_path, foreign):
    output = tmp_path / "mine"
    (output / foreign).parent.mkdir(parents=True)
    (output / foreign).write_text("keep me")
    (output / "report.md").write_text("and me")
    with pytest.raises(UserError, match="is no part of a report"):
        write(store, paper, output)
    assert ((output / foreign).read_text(), (output / "report.md").read_text()) == ("keep me", "and me")


def test_a_report_is_not_replaced_by_one_without_a_single_run(store, paper, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "report.md").write_text("keep me")
    with pytest.raises(UserError, match="holds a report, which is kept"):
        write(store, paper, tmp_path / "output")
    assert (tmp_path / "output" / "report.md").read_text() == "keep me"


@pytest.fixture
def written(finished, paper, tmp_path):
    """The report on the three runs."""
    write(finished[0], paper, tmp_path / "output")
    return tmp_path / "output"


def test_a_report_can_be_made_again_from_its_own_record_without_the_store(finished, paper, written, trials):
    recorded = Archive(written / "runs.json")
    assert recorded.config == WISHES
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


@pytest.mark.parametrize("name", ["summary.csv", "summary.json", "report.md", "index.html", "environment.json"])
def test_a_falsified_file_is_found_even_if_the_crate_was_made_to_agree(written, name):
    text = (written / name).read_text()
    place = next(index for index, letter in enumerate(text) if letter.isdigit())
    (written / name).write_text(f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}")
    assert build.check(written) == {name: "changed"}
    graph = (written / crate.METADATA).read_text()
    graph = graph.replace(hashlib.sha256(text.encode()).hexdigest(),
                          hashlib.sha256((written / name).read_bytes()).hexdigest())  # fmt: skip
    (written / crate.METADATA).write_text(graph)
    assert build.check(written) == {name: "changed"}


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


def test_the_page_links_to_every_file_beside_it_but_the_figures(written):
    linked = set(re.findall(r'<dt><a href="([^"]+)">', (written / "index.html").read_text()))
    beside = {path.name for path in written.iterdir() if path.suffix not in (".svg", ".png")}
    assert linked == beside - {"index.html"}


def test_the_archived_page_names_what_made_every_run_it_rests_on():
    page = re.sub(r"<[^>]*>", "", (ROOT / "report" / "reference" / "index.html").read_text())
    for command in ("main", "grid", "range_test --optimizer lamb",
                    "sweep --optimizer sgd --scheduler none --learning-rates proposed",
                    "sweep --scheduler step --learning-rates 6e-6 --protocol as-written"):  # fmt: skip
        assert f"reproduce {command} --seeds 0,1,2" in page.partition("To run it again")[2]


def test_a_report_that_is_not_there_cannot_be_checked(tmp_path):
    with pytest.raises(UserError, match="in which a report keeps its runs: write one with reproduce report"):
        build.check(tmp_path / "nowhere")


def test_what_is_no_record_of_runs_is_refused_in_one_line(tmp_path):
    (tmp_path / "runs.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match="is no record of runs: format 9, this version reads 1"):
        build.check(tmp_path)


def test_models_whose_rates_differ_by_seed_are_one_row(store, paper, tmp_path):
    config = small_config(schedulers=("none",), seeds=(0, 1), rates_by_seed={0: (1e-4, 1e-3), 1: (4e-4, 4e-3)})
    run(store, planning.trials(paper, config))
    write(store, paper, tmp_path / "output", config)
    lines = (tmp_path / "output" / "summary.md").read_text().splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["≈ 2e-4", "≈ 2e-3"]


SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())


@pytest.mark.parametrize("of", ["written", "archived"])
def test_every_json_file_is_as_its_schema_documents_it(of, written):
    folder = written if of == "written" else ROOT / "report" / "reference"
    names = {path.name for path in folder.glob("*.json")} - {crate.METADATA}
    files = {"summary.json", "environment.json", "runs.json"}  # a taste has no verdicts
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


def test_what_a_killed_report_had_begun_is_cleared_and_no_part_of_the_next(finished, paper, tmp_path):
    store, _, _ = finished
    output = tmp_path / "report"
    (output / build.WRITING).mkdir(parents=True)
    (output / build.WRITING / "figure-1.png").write_bytes(b"half")
    write(store, paper, output)
    assert not (output / build.WRITING).exists()
    assert (output / "index.html").is_file()


def test_a_report_that_another_command_writes_to_the_same_place_is_waited_for(finished, paper, tmp_path, capfd):
    store, _, _ = finished
    output = tmp_path / "report"
    holding, seen = threading.Event(), []

    def hold():
        with build._held(output):
            holding.set()
            while "waiting for it" not in "".join(seen):
                seen.append(capfd.readouterr().err)
                time.sleep(0.01)

    other = threading.Thread(target=hold)
    other.start()
    holding.wait()
    kept = []
    build.write(
        RunCollection(store.reader, paper, WISHES, 0.9),
        output,
        keep=lambda written: kept.append(sorted(written.iterdir())),
    )
    other.join()
    assert f"another command is writing a report to {output}; waiting for it" in "".join(seen)
    assert kept == [sorted(output.iterdir())]


def test_a_run_that_has_lost_a_point_counts_as_missing_and_is_named(finished, trials, tmp_path, capfd):
    store, _, done = finished
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "DELETE FROM metrics WHERE key = 'test_accuracy' AND step = 1 AND run_uuid = ?", [done[1].run_id]
        )
    assert list(store.reader.results(trials)) == [trials[0], trials[2]]
    assert capfd.readouterr().err == (
        f"run {done[1].run_id} counts as missing, as its test_accuracy is not there once for each of 2 epochs: "
        "train step 6e-4 seed 0 again with --force\n"
    )


def test_runs_of_somebody_else_in_the_store_are_no_trials(finished, trials):
    store, _, done = finished
    for tags in ({"outcome": "won"}, {"outcome": "won", "kind": "trial", "specification": trials[1].config_hash}):
        run_id = store.mlflow.create_run(store.experiment_id, tags=tags).info.run_id
        store.mlflow.set_terminated(run_id, "FINISHED")
    assert store.reader.seeds() == (0,)
    assert [result.run_id for result in store.reader.results(trials).values()] == [item.run_id for item in done]


def test_a_report_that_somebody_else_goes_on_writing_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "LOCK_SECONDS", 1)
    with build._held(tmp_path), pytest.raises(UserError) as refused, build._held(tmp_path):
        pass
    assert str(refused.value) == (
        f"another command is writing a report to {tmp_path}, and has been for 1 s: end it, as it may be suspended"
    )


def test_an_optimizer_whose_range_tests_propose_nothing_stands_in_the_table_with_the_reason(paper):
    recorded = Archive(ROOT / "report" / "reference" / "runs.json")
    _, rows = comparisons.optimizer_rows(RunCollection(recorded, paper, recorded.config, recorded.smoothing), (0, 1, 2))
    assert [row for row in rows if row[0] == "lars"] == [
        ["lars", "proposed", "none: the loss still falls at the ramp's end, 0.994: raise --lr-end", "—", "—"]
    ]
    assert [row[:3] for row in rows if row[0] == "adam"] == [
        ["adam", "proposed", "8.01e-5, 8.7e-5, 6.95e-5"],
        ["adam", "× 10", "8.01e-4, 8.7e-4, 6.95e-4"],
        ["adam", "× 0.1", "8.01e-6, 8.7e-6, 6.95e-6"],
    ]
