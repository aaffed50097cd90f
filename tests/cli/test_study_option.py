"""A study of a user's own from its file to its page, by the commands: chosen, trained, judged, moved, checked."""

import json

import mlflow
import pytest
from jsonschema import Draft202012Validator

from helpers import CACHE, ROOT
from helpers.commands import typed
from helpers.own_study import write_study
from reproduce.cli import main, studies

TRAINED = ("--device", "cpu", "--engine", "fused", "--jobs", "1")


@pytest.fixture
def place(empty_place, monkeypatch):
    """A directory with a study, an empty store and the data, in which commands are typed."""
    monkeypatch.setenv("REPRODUCE_FUSED_DIR", str(CACHE / "fused"))
    write_study(empty_place / "two_rates")
    return empty_place


def test_a_study_of_ones_own_is_trained_judged_moved_and_checked(place, monkeypatch, capsys):
    code, said = typed(monkeypatch, capsys, "main", "--study", "two_rates", *TRAINED, "--output", "out")
    assert (code, said.count(": trained, ")) == (0, 6)
    assert "range_test" not in said
    claims = {claim["id"]: claim for claim in json.loads((place / "out" / "claims.json").read_text())["claims"]}
    assert {name: claim["verdict"] for name, claim in claims.items()} == {"A": "reproduced", "B": "not reproduced"}
    assert claims["B"]["command"].startswith("reproduce sweep --study two_rates --scheduler exponential ")
    page = (place / "out" / "report.md").read_text()
    assert page.startswith("# Two rates for SGD\n")
    assert "ange test" not in page.replace("range test's smoothed loss", "").replace("range test proposes", "")
    assert "from the spread\nbetween these seeds" in page
    assert "A. Student, “A note on rates”, 2026" in page
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    for name in ("claims.json", "summary.json", "runs.json"):
        validator = Draft202012Validator({**schema, "$ref": f"#/$defs/{name}"})
        assert [*validator.iter_errors(json.loads((place / "out" / name).read_text()))] == []
    assert (place / "out" / "study.yaml").read_bytes() == (place / "two_rates" / "study.yaml").read_bytes()

    # Under another name, chosen by the variable or before the command, its runs are found again.
    (place / "two_rates").rename(place / "renamed")
    monkeypatch.setenv("REPRODUCE_STUDY", "renamed")
    monkeypatch.setattr("sys.argv", ["reproduce", "sweep", *TRAINED])
    with pytest.raises(SystemExit) as left:
        main.main()
    out, err = capsys.readouterr()
    assert (left.value.code, err.splitlines()[-1]) == (0, "6 reused")
    mlflow.set_tracking_uri(None)
    (recorded,) = {run.info.experiment_id for run in
                   mlflow.search_runs(search_all_experiments=True, output_format="list",
                                      filter_string="tags.kind = 'trial'")}  # fmt: skip
    assert f"/#/experiments/{recorded}/runs?" in out.splitlines()[-1]
    monkeypatch.delenv("REPRODUCE_STUDY")
    code, said = typed(monkeypatch, capsys, "--study", "renamed", "verify")
    assert code == 0

    # The report is checked by the study that it holds.
    assert typed(monkeypatch, capsys, "report", "--check", "--output", "out")[0] == 0
    held = place / "out" / "study.yaml"
    held.write_text(held.read_text().replace("says: 1e-5 ends at 0.9", "says: 1e-5 ends at 0.95"))
    assert typed(monkeypatch, capsys, "report", "--check", "--output", "out")[0] == 1


def test_a_study_is_checked_before_anything_is_trained(place, monkeypatch, capsys):
    assert typed(monkeypatch, capsys, "check-study", "two_rates") == (0, "")
    file = place / "two_rates" / "study.yaml"
    file.write_text(file.read_text().replace("epochs: 5,", "epochs: 0,"))
    line = "two_rates/study.yaml:3:61: protocol.epochs: expected more than 0, got 0"
    for command in (("check-study", "two_rates"), ("main", "--study", "two_rates"), ("--study", "two_rates", "verify")):
        assert typed(monkeypatch, capsys, *command) == (2, f"error: {line}\n")
    assert not (place / "mlflow.db").exists()


def test_a_folder_with_a_study_takes_no_report(place, monkeypatch, capsys):
    code, said = typed(monkeypatch, capsys, "main", "--study", "two_rates", *TRAINED, "--output", "two_rates")
    assert code == 2
    assert "--output two_rates holds 'study.yaml', which is no part of a report" in said
    assert [path.name for path in (place / "two_rates").iterdir()] == ["study.yaml"]


def test_the_variants_are_those_of_the_study(place, monkeypatch, capsys):
    said = typed(monkeypatch, capsys, "sweep", "--study", "two_rates", "--protocol", "lat")
    assert said == (
        2,
        "error: Invalid value for '--protocol': got 'lat', expected one of each-step, late, did you mean late?\n",
    )


def test_a_new_study_is_commented_passes_its_check_and_is_not_written_over(place, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reproduce", "new-study", "my study"])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 0
    assert capsys.readouterr().out == (
        "my study/study.yaml is a study that runs as it is: edit it, then type reproduce check-study 'my study'\n"
    )
    assert studies.check("my study") == (
        "my study/study.yaml: 4 models of 10 epochs with 3 seeds, 3 range tests, 2 claims", []
    )  # fmt: skip
    assert sorted(path.name for path in (place / "my study").iterdir()) == ["network.py", "study.yaml"]
    said = "error: my study/study.yaml is there already: name another folder, or edit that file\n"
    assert typed(monkeypatch, capsys, "new-study", "my study") == (2, said)


def test_the_studies_are_listed_with_what_they_rerun(monkeypatch, capsys):
    assert studies.list_shipped() == [
        "lenet5_mnist: P. Manocha, “CS5260 Assignment 6”, National University of Singapore, 2022",
        "digits: A. Student, “A note on rates”, 2026",
        "super_convergence: coxy1989, “superconv, a repetition of super-convergence on MNIST”, 2019",
    ]
