"""Real commands, each followed by report or verify with the same options."""

import csv
import re

import pytest

from helpers.commands import parsed
from helpers.small import run
from reproduce.cli import main
from reproduce.report import build
from reproduce.study import planning
from reproduce.study.config import StudyConfig


@pytest.fixture
def followed(store, monkeypatch, capsys):
    """What a command is followed by, on trials that were trained: its exit code, and what it printed."""
    monkeypatch.setenv("REPRODUCE_HOME", str(store.home))

    def follow(*arguments):
        monkeypatch.setattr("sys.argv", ["reproduce", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main.main()
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return follow


def parents(store):
    """How each parent run ended, the newest first."""
    return [run.info.status for run in store.client.search_runs("tags.kind = 'parent'")]


SMALL = ("--train-size", "640", "--epochs", "1")


STEP = (*SMALL, "--scheduler", "step", "--learning-rates", "1e-3,3e-3", "--decay-steps", "2", "--gamma", "0.5",
        "--seeds", "0,1")  # fmt: skip


def train(store, paper, config, plan):
    """Have what is planned trained, and its trials."""
    planned = plan(paper, config.model_copy(update={"engine": "fused"}))
    run(store, planned)
    return planned


def rows(folder):
    with (folder / "summary.csv").open(newline="") as file:
        return [(row["scheduler"], float(row["learning_rate"]), int(row["seed"]), row["outcome"])
                for row in csv.DictReader(file)]  # fmt: skip


@pytest.mark.system
def test_the_readmes_sweep_is_followed_by_a_page_of_that_sweep(store, paper, followed, tmp_path):
    config = parsed("sweep", STEP)
    train(store, paper, config, planning.trials)
    code, printed, told = followed("report", *STEP)
    assert (code, told) == (0, "")
    first, last = printed.splitlines()
    assert first == "report: report/output/index.html, the same as text in report.md beside it"
    assert last.startswith("to compare the runs, type reproduce ui, and open http://127.0.0.1:5000/#/experiments/")
    assert rows(tmp_path / "report" / "output") == [
        ("step", rate, seed, "finished") for rate in (1e-3, 3e-3) for seed in (0, 1)
    ]
    text = (tmp_path / "report" / "output" / "report.md").read_text()
    assert "missing" not in text
    assert "schedule parameters of your own; no range test.\n" in text
    assert build.check(tmp_path / "report" / "output") == {}
    code, printed, told = followed("verify", *STEP)
    assert (code, told) == (3, "")
    assert printed == (
        "none of the paper's 42 statements depends on a run with --epochs 1 --seeds 0,1 --train-size 640 "
        "--learning-rates 0.001,0.003 --scheduler step --decay-steps 2 --gamma 0.5: reproduce verify "
        "without options judges all statements\n"
    )
    assert parents(store) == ["FINISHED", "FINISHED"]


def test_a_range_test_too_short_for_onecycle_is_followed_by_a_page_of_it_alone(store, paper, followed, tmp_path):
    options = ("--train-size", "256", "--epochs", "1", "--smoothing", "0.5")
    train(store, paper, StudyConfig(train_size=256, range_test_epochs=1), planning.range_tests)
    assert followed("report", *options)[::2] == (0, "")
    output = tmp_path / "report" / "output"
    assert rows(output) == []
    text = (output / "report.md").read_text()
    assert "1 epoch instead of 30; a range test of your own; no model.\n" in text
    assert "No model of this kind is in the store.\n" in text
    assert "missing" not in text
    codes = re.findall("<code>(.*?)</code>", (output / "index.html").read_text())
    assert [code for code in (re.sub("<[^>]*>", "", code) for code in codes) if code.startswith("reproduce")] == [
        "reproduce report --epochs 1 --train-size 256 --range-test-epochs 1 --smoothing 0.5"
    ]
    assert build.check(output) == {}
    assert followed("report", "--train-size", "256", "--epochs", "1", "--seeds", "7")[0] == 2
    assert parents(store) == ["FINISHED", "FINISHED"]


@pytest.mark.system
def test_a_grid_is_followed_by_a_page_of_its_rates(store, paper, followed, tmp_path):
    options = (*SMALL, "--range-test-epochs", "2", "--learning-rates", "1e-3,1e-2", "--optimizer", "sgd")
    config = StudyConfig(
        train_size=640, epochs=1, range_test_epochs=2, learning_rates=(1e-3, 1e-2), optimizer="sgd", engine="fused"
    )
    train(store, paper, config, lambda *of: planning.range_tests(*of) + planning.grid_trials(*of))
    assert followed("report", *options)[::2] == (0, "")
    assert rows(tmp_path / "report" / "output") == [("none", rate, 0, "finished") for rate in (1e-3, 1e-2)]
    assert build.check(tmp_path / "report" / "output") == {}


def test_a_report_of_what_was_not_run_leaves_the_one_that_is_there_and_no_failed_run(store, paper, followed, tmp_path):
    train(store, paper, StudyConfig(train_size=640, epochs=1, schedulers=("none",)), planning.trials)
    assert followed("report", *SMALL)[0] == 0
    before = (tmp_path / "report" / "output" / "report.md").read_bytes()
    code, _, told = followed("report", *SMALL, "--seeds", "7")
    assert (code, told) == (2, (
        f"error: the tracking store {store.uri} has no run of this kind, and report/output holds a report, "
        "which is kept: give the options that made the runs, such as --epochs 1 --train-size 10000\n"
    ))  # fmt: skip
    assert (tmp_path / "report" / "output" / "report.md").read_bytes() == before
    assert parents(store) == ["FINISHED", "FINISHED"]
