"""What a report says, held to the store it is about."""

import csv
import hashlib
import json
import re
import sqlite3

import numpy as np
import pytest

from helpers import ROOT
from helpers.reports import SMALL_STUDY, write_report
from helpers.small import run, small_config
from reproduce.analysis import lr_range_test, suggestion_rules
from reproduce.report import build, figure_axes, figure_style, figures
from reproduce.results import comparisons
from reproduce.results.archive import Archive
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.fields import Code, format_rate, loss_name


def test_the_tables_hold_what_the_store_holds(finished, paper, tmp_path):
    store, _, done = finished
    assert write_report(store, paper, tmp_path / "output") == 0
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
    write_report(store, paper, tmp_path / "output")
    ours = store.mlflow.get_run(done[1].run_id).data.metrics["test_accuracy_batch_mean"]
    (row,) = [line for line in (tmp_path / "output" / "summary.md").read_text().splitlines() if "| StepLR" in line]
    assert row.startswith(f"| StepLR | 6e-4 | 0.9884 | {ours:.4f} |")
    first = json.loads((tmp_path / "output" / "summary.json").read_text())["trials"][0]
    assert first["paper"]["test_accuracy"] == 0.9884295886075949
    assert first["test_accuracy_batch_mean"] == ours
    assert first["parameters"]["decay_steps"] == 4500


def test_a_shorter_run_says_so_at_the_top_and_names_what_is_missing(finished, paper, tmp_path):
    store, _, done = finished
    store.mlflow.delete_run(done[2].run_id)
    assert write_report(store, paper, tmp_path / "output") == 1
    lines = (tmp_path / "output" / "report.md").read_text().splitlines()
    assert lines[2].startswith("> **This is a shorter run, not the reproduction.** It was run with 640 training images")
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
def test_a_shorter_run_names_the_commands_that_make_it(store, paper, tmp_path, own, commands):
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
    assert write_report(store, paper, tmp_path / "output", config) == 0
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
    write_report(finished[0], paper, tmp_path / "output")
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
        write_report(store, paper, output)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.iterdir()}

    first = hashes(tmp_path / "one")
    assert first == hashes(tmp_path / "two")
    figures = {"figure-1", "figure-2", "figure-4b", "figure-5", "figure-conclusion", "figure-rules"}
    assert {name for name in first if name.endswith(".svg")} == {f"{name}.svg" for name in figures}


def test_the_proposal_is_read_off_the_recorded_curve_with_the_smoothing_asked_for(finished, paper):
    store, _, done = finished
    (trial,) = planning.range_tests(paper, SMALL_STUDY)
    rates, losses = store.reader.curve(done[0].run_id)
    expected = lr_range_test.propose(lr_range_test.Curve(rates, losses), 0.5)
    assert RunCollection(store.reader, paper, SMALL_STUDY, 0.5).proposal(trial) == expected


def test_the_newest_finished_run_of_a_specification_is_taken(finished, paper, trials, monkeypatch, tmp_path):
    store, _, done = finished
    monkeypatch.setattr("reproduce.training.provenance.code_sha256", lambda: "another")
    _, (newer,) = run(store, trials[1:2], jobs=1)
    assert newer.run_id != done[1].run_id
    assert store.reader.results(trials)[trials[1]].run_id == newer.run_id
    write_report(store, paper, tmp_path / "output")
    assert (
        "> These runs were not all made alike. They differ in: code."
        in (tmp_path / "output" / "report.md").read_text().splitlines()
    )


def test_an_empty_store_gives_a_report_that_names_everything(store, paper, tmp_path):
    assert write_report(store, paper, tmp_path / "output", StudyConfig()) == 16
    text = (tmp_path / "output" / "report.md").read_text()
    assert "**16 of 16 runs are missing:** range_test adam seed 0; none 0.06 seed 0; none 6e-5 seed 0;" in text


def test_the_archived_page_names_what_made_every_run_it_rests_on():
    page = re.sub(r"<[^>]*>", "", (ROOT / "report" / "reference" / "index.html").read_text())
    for command in ("main", "grid", "range_test --optimizer lamb",
                    "sweep --optimizer sgd --scheduler none --learning-rates proposed",
                    "sweep --scheduler step --learning-rates 6e-6 --protocol as-written"):  # fmt: skip
        assert f"reproduce {command} --seeds 0,1,2" in page.partition("To run it again")[2]


def test_models_whose_rates_differ_by_seed_are_one_row(store, paper, tmp_path):
    config = small_config(schedulers=("none",), seeds=(0, 1), rates_by_seed={0: (1e-4, 1e-3), 1: (4e-4, 4e-3)})
    run(store, planning.trials(paper, config))
    write_report(store, paper, tmp_path / "output", config)
    lines = (tmp_path / "output" / "summary.md").read_text().splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["≈ 2e-4", "≈ 2e-3"]


def test_a_run_that_has_lost_a_point_counts_as_missing_and_is_named(finished, trials, tmp_path, capfd):
    store, _, done = finished
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "DELETE FROM metrics WHERE key = 'test_accuracy' AND step = 1 AND run_uuid = ?", [done[1].run_id]
        )
    assert list(store.reader.results(trials)) == [trials[0], trials[2]]
    assert capfd.readouterr().err == (
        f"run {done[1].run_id} counts as missing, because its test_accuracy is not recorded exactly once for each of 2 "
        "epochs: train step 6e-4 seed 0 again with --force\n"
    )


def test_runs_of_somebody_else_in_the_store_are_no_trials(finished, trials):
    store, _, done = finished
    for tags in ({"outcome": "won"}, {"outcome": "won", "kind": "trial", "specification": trials[1].config_hash}):
        run_id = store.mlflow.create_run(store.experiment_id, tags=tags).info.run_id
        store.mlflow.set_terminated(run_id, "FINISHED")
    assert store.reader.seeds() == (0,)
    assert [result.run_id for result in store.reader.results(trials).values()] == [item.run_id for item in done]


def test_an_optimizer_whose_range_tests_propose_nothing_stands_in_the_table_with_the_reason(paper):
    recorded = Archive(ROOT / "report" / "reference" / "runs.json")
    collection = RunCollection(recorded, paper, recorded.config, recorded.smoothing)
    rows = comparisons.optimizer_table(collection, (0, 1, 2)).rows
    assert [row for row in rows if row[0] == "lars"] == [
        ["lars", "proposed", "none: the loss still falls at the ramp's end, 0.994: raise --lr-end", "—", "—"]
    ]
    assert [row[:3] for row in rows if row[0] == "adam"] == [
        ["adam", "proposed", "8.01e-5, 8.7e-5, 6.95e-5"],
        ["adam", "× 10", "8.01e-4, 8.7e-4, 6.95e-4"],
        ["adam", "× 0.1", "8.01e-6, 8.7e-6, 6.95e-6"],
    ]


@pytest.mark.parametrize(
    ("loss", "label", "top"),
    [
        ("cross_entropy", "training loss of the batch (cross entropy)", 2.6),
        ("mse", "training loss of the batch (mean squared error)", 0.6),
        (Code(code="losses.py:smooth", sha256="0" * 64), "training loss of the batch (losses.py:smooth)", 0.6),
    ],
)
def test_a_range_tests_figure_names_its_loss_and_ends_above_where_it_starts(loss, label, top):
    curve = lr_range_test.Curve(np.geomspace(1e-5, 1, 40), np.array([0.5] * 30 + [90.0] * 10))
    (axes, *_) = figures.range_test({0: curve}, 0.0, {0: None}, shows=(0, 0.5), loss=loss_name(loss)).axes
    assert (axes.get_ylabel(), axes.get_ylim()) == (label, (0, pytest.approx(top)))


@pytest.mark.parametrize("first", [float("nan"), float("inf"), -0.9, 0.0])
def test_a_loss_that_starts_at_no_end_of_an_axis_leaves_it_to_the_curve(first):
    curve = lr_range_test.Curve(np.geomspace(1e-5, 1, 40), np.array([first] + [0.5] * 39))
    for shows in ((0, 1), (0, 0.5)):
        (axes, *_) = figures.range_test({0: curve}, 0.0, {0: None}, shows=shows, loss="losses.py:own").axes
        assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("loss", "start", "highest", "ticks", "top"),
    [
        ("cross entropy", 2.3, 1.0, [0, 0.5, 1, 1.5, 2, 2.5, 10, 100], 2.6),
        ("cross entropy", 2.3, 40.0, [0, 0.5, 1, 1.5, 2, 2.5, 10, 100], 52),
        ("mean squared error", 0.12, 1e18, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 1, 10], 25),
        ("mean squared error", 0.8, 3.0, [0, 0.2, 0.4, 0.6, 0.8, 1, 10, 100], 3.9),
    ],
)
def test_the_axis_of_a_range_test_is_linear_up_to_where_its_losses_start(loss, start, highest, ticks, top):
    axes = figure_style.Figure().subplots()
    figure_axes.axis_of_explosion(axes, highest, loss, [np.array([start])])
    assert axes.get_yticks().tolist() == pytest.approx(ticks)
    assert axes.get_ylim() == (0, pytest.approx(top))
