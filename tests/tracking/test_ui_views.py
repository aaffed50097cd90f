"""The views of MLflow's UI: what they show, that commands write them, and that what a user changed of them stays."""

import base64
import json
import zlib

import numpy as np
import pytest
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE

from helpers.small import small_config
from reproduce.analysis.lr_range_test import Curve
from reproduce.study import planning
from reproduce.tracking.parent_run import open_parent_run
from reproduce.tracking.reader import RAMP
from reproduce.tracking.ui_views import (
    MEANS,
    RANGE_TESTS,
    TABLE,
    TAG,
    TRIALS,
    VIEWS,
    prepare_to_show,
    where_to_compare,
    write_views,
)
from reproduce.tracking.writer import ramp_metrics
from reproduce.training.epoch_record import EpochRecord

NONE = np.empty((0, 3))
NOTE = "mlflow.note.content"


def tags_of(store):
    return store.client.mlflow.get_experiment(store.experiment_id).tags


def envelope(store, view):
    return json.loads(tags_of(store)[f"{TAG}{view.key}"])


def state(store, view):
    kind, _, packed = envelope(store, view)["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def cards(store, view):
    return [(card["type"], card.get("metricKey")) for card in state(store, view)["compareRunCharts"]]


def test_a_command_writes_a_view_of_its_trials_flat_sorted_and_charted(finished):
    store, _, _ = finished
    assert envelope(store, TRIALS)["name"] == "Every trial"
    assert cards(store, TRIALS) == [
        ("LINE", "test_accuracy"), ("LINE", "train_loss"), ("LINE", "learning_rate"), ("BAR", "test_accuracy"),
        ("PARALLEL", None),
    ]  # fmt: skip
    found = state(store, TRIALS)
    assert (found["searchFilter"], found["orderByKey"], found["orderByAsc"], found["runsHiddenMode"]) == (
        "tags.kind = 'trial'", "metrics.`test_accuracy`", False, "SHOW_ALL",
    )  # fmt: skip
    assert [card.get("scaleType") for card in found["compareRunCharts"][:3]] == ["linear", "log", "log"]


def test_a_ranking_and_a_mean_are_of_finished_trials(finished):
    store, _, done = finished
    interrupted = store.client.mlflow.create_run(store.experiment_id, tags={"kind": "trial"})
    store.client.mlflow.log_metric(interrupted.info.run_id, "test_accuracy", 0.5)
    store.client.mlflow.set_terminated(interrupted.info.run_id, "KILLED")

    def listed(view):
        found = store.client.mlflow.search_runs([store.experiment_id], state(store, view)["searchFilter"])
        return {run.info.run_id for run in found}

    assert listed(TABLE) == listed(MEANS) == listed(TRIALS) - {interrupted.info.run_id}
    assert len(listed(TABLE)) == len(done) - 1  # without the range test


def test_parallel_coordinates_have_an_axis_for_each_parameter_that_varies(finished):
    store, _, done = finished
    *_, parallel = state(store, TRIALS)["compareRunCharts"]
    assert parallel["selectedParams"] == ["scheduler"]
    assert parallel["selectedMetrics"] == ["test_accuracy"]
    store.client.mlflow.create_run(
        store.experiment_id, tags={"kind": "trial"}, run_name=done[1].trial.run_name
    )  # without any parameter, as one that was just begun
    write_views(store.client, store.experiment_id)
    *_, parallel = state(store, TRIALS)["compareRunCharts"]
    assert parallel["selectedParams"][:2] == ["scheduler", "learning_rate"]


def test_means_are_grouped_and_have_no_parallel_coordinates(finished):
    store, _, _ = finished
    grouped = [key["groupByData"] for key in state(store, MEANS)["groupBy"]["groupByKeys"]]
    assert grouped == ["scheduler", "learning_rate"]
    assert "PARALLEL" not in dict(cards(store, MEANS))


def test_means_are_over_seeds_and_nothing_else(finished):
    store, _, _ = finished
    for seed, epochs in ((0, 1), (1, 1), (0, 30)):
        parameters = {"scheduler": "step", "learning_rate": "0.1", "seed": str(seed), "epochs": str(epochs)}
        run = store.client.mlflow.create_run(store.experiment_id, tags={"kind": "trial"})
        store.client.mlflow.log_batch(run.info.run_id, params=[Param(*pair) for pair in parameters.items()])
    write_views(store.client, store.experiment_id)
    grouped = [key["groupByData"] for key in state(store, MEANS)["groupBy"]["groupByKeys"]]
    assert grouped[:2] == ["scheduler", "learning_rate"]
    assert "epochs" in grouped
    assert "seed" not in grouped


def test_range_tests_are_charted_by_rate(finished):
    store, _, done = finished
    (card,) = state(store, RANGE_TESTS)["compareRunCharts"]
    assert (card["metricKey"], card["selectedXAxisMetricKey"], card["xAxisKey"]) == (*RAMP, "metric")
    history = {name: store.client.mlflow.get_metric_history(done[0].run_id, name) for name in RAMP}
    rates, losses = store.reader.curve(done[0].run_id)
    assert [point.step for point in history[RAMP[0]]] == list(range(10))
    np.testing.assert_allclose([point.value for point in history[RAMP[0]]], losses)
    np.testing.assert_allclose([point.value for point in history[RAMP[1]]], np.log10(rates))


def test_a_long_ramp_is_logged_as_means_of_as_many_steps_as_the_ui_draws(store, paper):
    trial = planning.range_tests(paper, small_config(train_size=60_000))[0]
    run_id, _ = store.writer.open_trial(trial, "a" * 64, "parent")
    steps = np.arange(700)
    history = [
        EpochRecord(1, 1.0, np.nan, np.nan, 1e-3, 1.0, 1.0, steps.astype(np.float32), 1e-6 * 1.01**steps, False, NONE)
    ]
    store.writer.finish_trial(run_id, history, store.home, None, {})
    losses = store.client.mlflow.get_metric_history(run_id, RAMP[0])
    assert [(point.step, point.value) for point in losses[:2]] == [(0, 1.0), (3, 4.0)]
    assert (len(losses), losses[-1].step, losses[-1].value) == (234, 699, 699.0)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize(
    "change",
    [
        lambda tag: json.dumps(json.loads(tag) | {"updatedAt": json.loads(tag)["updatedAt"] + 1}),
        lambda tag: json.dumps(json.loads(tag) | {"name": "Mine"}),
        lambda _: "not of this version",
        lambda _: "[]",
    ],
    ids=["saved anew", "renamed", "no JSON", "another JSON"],
)  # fmt: skip
def test_a_view_that_the_user_changed_is_left_alone(finished, view, change):
    store, _, _ = finished
    changed = change(tags_of(store)[f"{TAG}{view.key}"])
    store.client.mlflow.set_experiment_tag(store.experiment_id, f"{TAG}{view.key}", changed)
    write_views(store.client, store.experiment_id)
    assert tags_of(store)[f"{TAG}{view.key}"] == changed


def test_a_view_of_an_earlier_command_follows_the_trials_that_there_are_now(finished):
    store, _, _ = finished
    old = envelope(store, TABLE) | {"state": "deflate;of few trials"}
    store.client.mlflow.set_experiment_tag(store.experiment_id, f"{TAG}{TABLE.key}", json.dumps(old))
    write_views(store.client, store.experiment_id)
    assert state(store, TABLE)["searchFilter"] == "tags.kind = 'trial' and attributes.status = 'FINISHED'"


def test_the_first_line_of_each_note_links_to_every_view(finished):
    store, parent_id, _ = finished
    note = store.client.mlflow.get_run(parent_id).data.tags[NOTE].splitlines()[0]
    assert note == tags_of(store)[NOTE]
    for view in VIEWS:
        mode = "TABLE" if view is TABLE else "CHART"
        assert (
            f"[{view.name}](#/experiments/{store.experiment_id}/runs?viewStateShareKey={view.key}"
            f"&compareRunsMode={mode}&workflowType=machine_learning)"
        ) in note


def test_a_note_that_the_user_wrote_is_left_alone(finished):
    store, _, _ = finished
    store.client.mlflow.set_experiment_tag(store.experiment_id, NOTE, "what I found")
    write_views(store.client, store.experiment_id)
    assert tags_of(store)[NOTE] == "what I found"


def address(store, view):
    return f"/#/experiments/{store.experiment_id}/runs?viewStateShareKey={view.key}&"


def test_the_last_line_leads_to_the_trials_or_to_range_tests_where_there_is_nothing_else(finished):
    store, _, done = finished
    for ui in (None, "http://127.0.0.1:5000"):
        told = where_to_compare(store.client, store.experiment_id, ui)
        assert told.startswith(f"type reproduce ui, and open http://127.0.0.1:5000{address(store, TRIALS)}")
    for item in done[1:]:
        store.client.mlflow.delete_run(item.run_id)
    assert address(store, RANGE_TESTS) in where_to_compare(store.client, store.experiment_id, None)
    store.client.mlflow.delete_run(done[0].run_id)
    assert where_to_compare(store.client, store.experiment_id, None) is None


def test_the_last_line_leads_to_another_experiment_where_the_commands_own_has_no_trial(finished):
    store, _, _ = finished
    other = store.client.mlflow.create_experiment("of a report")
    assert address(store, TRIALS) in where_to_compare(store.client, other, None)


@pytest.mark.parametrize(
    ("uri", "ui", "told"),
    [
        ("http://someone:hidden@server:5000/", None, "open http://***@server:5000/#/experiments/"),
        ("http://server:80", "http://127.0.0.1:5000", "open http://server:80/#/experiments/"),
        ("http://server:5000", "http://127.0.0.1:8080", "open http://127.0.0.1:8080/#/experiments/"),
        ("sqlite:///x.db", "https://elsewhere/mlflow", "open https://elsewhere/mlflow/#/experiments/"),
    ],
)
def test_a_ui_whose_address_is_known_is_opened_there(finished, monkeypatch, uri, ui, told):
    store, _, _ = finished
    client = store.client.no_wait
    monkeypatch.setattr(client, "uri", uri)
    monkeypatch.setattr(type(client), "no_wait", property(lambda own: own))
    assert where_to_compare(client, store.experiment_id, ui).startswith(told)


def test_an_answer_that_does_not_come_costs_no_last_line_and_no_wait(finished, monkeypatch):
    store, _, _ = finished

    def away(*_, **__):
        raise MlflowException("gone", error_code=TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(store.client.mlflow, "search_runs", away)
    assert where_to_compare(store.client, store.experiment_id, None) is None


def test_a_store_that_refuses_views_ends_no_command(finished, monkeypatch, capsys):
    store, _, _ = finished

    def refuse(*_):
        raise MlflowException("tags are not for you", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(store.client.mlflow, "set_experiment_tag", refuse)
    store.client.mlflow.delete_experiment_tag(store.experiment_id, f"{TAG}{TABLE.key}")
    write_views(store.client, store.experiment_id)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the views of MLflow's UI are not written: the tracking store ")
    assert line.endswith("tags are not for you")


def test_a_tag_that_another_command_has_just_written_is_written_again(finished, monkeypatch):
    store, _, _ = finished
    really, tried = store.client.mlflow.set_experiment_tag, []

    def collide(*arguments):
        tried.append(arguments)
        if len(tried) == 1:
            raise MlflowException("UNIQUE constraint failed", error_code=BAD_REQUEST)
        really(*arguments)

    store.client.mlflow.delete_experiment_tag(store.experiment_id, f"{TAG}{TABLE.key}")
    monkeypatch.setattr(store.client.mlflow, "set_experiment_tag", collide)
    write_views(store.client, store.experiment_id)
    assert tried[0] == tried[1]
    assert state(store, TABLE)["searchFilter"] == "tags.kind = 'trial' and attributes.status = 'FINISHED'"


def test_the_ui_is_opened_on_the_newest_trials_whose_view_is_written_where_it_is_missing(finished):
    store, _, _ = finished
    store.client.mlflow.delete_experiment_tag(store.experiment_id, f"{TAG}{TRIALS.key}")
    assert prepare_to_show(store.uri, "http://here").startswith(f"http://here{address(store, TRIALS)}")
    assert state(store, TRIALS)["searchFilter"] == "tags.kind = 'trial'"


def test_the_ui_of_a_store_without_trials_has_no_view_to_open(store):
    assert prepare_to_show(store.uri, "http://here") is None


def test_a_note_of_the_users_on_a_commands_run_stays(store, monkeypatch):
    run = store.client.mlflow.create_run(store.experiment_id, tags={NOTE: "mine"})
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    with open_parent_run(store, "report", {}) as run_id:
        assert run_id == run.info.run_id
    assert store.client.mlflow.get_run(run_id).data.tags[NOTE] == "mine"


def test_a_ramp_that_diverges_at_once_has_no_points():
    assert ramp_metrics(Curve(np.empty(0), np.empty(0)), 0) == []
