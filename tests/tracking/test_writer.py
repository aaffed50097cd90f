"""What a trial and its command leave in the store, also after a kill, a failure or a lost answer."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest

from helpers import ROOT
from helpers.faults import PATIENCE_SECONDS
from helpers.small import kernel, run, small_config
from reproduce import progress
from reproduce.analysis import lr_range_test
from reproduce.data import datasets
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.tracking.locks import trial_lock
from reproduce.tracking.reader import METRICS, VALIDATION, RunReader
from reproduce.training import checkpoints, loop


def test_a_sweep_records_a_parent_and_a_child_a_trial(finished):
    store, parent_id, done = finished
    parent = store.mlflow.get_run(parent_id)
    assert (parent.info.status, parent.data.params["scheduler"], parent.data.tags["trials_trained"]) == (
        "FINISHED", "test", "3",
    )  # fmt: skip
    assert parent.data.metrics == {}
    for item in done:
        child = store.mlflow.get_run(item.run_id)
        assert (item.state, child.info.status, child.data.tags["outcome"]) == ("trained", "FINISHED", "finished")
        assert child.data.tags["mlflow.parentRunId"] == parent_id
        assert child.data.tags["specification"] == item.trial.config_hash
        for key in ("commit", "uncommitted_changes", "code_sha256"):
            assert child.data.tags[key] == parent.data.tags[key]


def test_names_are_the_same_on_every_trial_and_each_metric_stands_once_an_epoch(finished):
    store, _, done = finished
    for item in done[1:]:
        data = store.mlflow.get_run(item.run_id).data
        assert data.params.items() >= {
            "optimizer": "adam", "learning_rate": "0.0006", "epochs": "2", "batch_size": "128", "seed": "0",
            "engine": "fused", "scheduler": item.trial.schedule.name,
        }.items()  # fmt: skip
        assert data.metrics.keys() == {*METRICS, "wall_seconds"}
        for name in METRICS:
            assert [metric.step for metric in store.mlflow.get_metric_history(item.run_id, name)] == [1, 2]


def test_the_range_tests_curve_and_proposal_are_in_its_run(finished):
    store, _, done = finished
    run_id = done[0].run_id
    rates, losses = store.reader.curve(run_id)
    np.testing.assert_allclose(rates, 1e-6 * 10 ** (6 * np.arange(10) / 10), rtol=1e-12)
    path = store.mlflow.download_artifacts(run_id, "range_test.csv")
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "learning_rate", "loss", "smoothed_loss"]
    assert [float(row["loss"]) for row in rows] == losses.tolist()
    tags = store.mlflow.get_run(run_id).data.tags
    proposal = lr_range_test.propose(lr_range_test.Curve(rates, losses), 0.9)
    assert tags["proposed_learning_rate"] == (repr(proposal.learning_rate) if proposal else str(proposal))
    assert tags["weak_ground"] == (proposal.weak if proposal else "no")
    assert "test_accuracy" not in store.mlflow.get_run(run_id).data.metrics


def test_the_data_set_is_recorded_with_its_full_hash(finished):
    store, _, done = finished
    (given,) = store.mlflow.get_run(done[1].run_id).inputs.dataset_inputs
    assert given.dataset.name == "mnist"
    assert {tag.key: tag.value for tag in given.tags}["sha256"] == datasets.files_sha256("mnist")
    assert json.loads(given.dataset.source) == datasets.SHA256["mnist"]


def test_the_logged_network_computes_what_was_measured(finished, whole_mnist):
    store, _, done = finished
    mlflow.set_tracking_uri(store.uri)
    model = mlflow.pyfunc.load_model(f"runs:/{done[1].run_id}/model")
    logits = model.predict(whole_mnist.test.images.astype(np.float32) / 255)
    accuracy = (logits.argmax(1) == whole_mnist.test.labels).mean()
    assert accuracy == store.mlflow.get_run(done[1].run_id).data.metrics["test_accuracy"]
    assert model.metadata.signature.inputs.input_types() == [np.dtype(np.float32)]
    folder = store.mlflow.get_logged_model(model.metadata.model_id).artifact_location
    endings = {path.suffix for path in Path(folder.removeprefix("file://")).rglob("*") if path.is_file()}
    assert ".safetensors" in endings
    assert not endings & {".pkl", ".pt", ".pth"}


def test_what_is_finished_is_reused_unless_forced(finished, trials):
    store, _, done = finished
    parent_id, again = run(store, trials)
    assert [(item.run_id, item.state) for item in again] == [(item.run_id, "reused") for item in done]
    assert store.mlflow.get_run(parent_id).data.tags["trials_reused"] == "3"
    reused = store.mlflow.get_run(done[1].run_id).data.tags
    assert (reused["times_reused"], reused["last_reused_by"]) == ("1", parent_id)
    note = store.mlflow.get_run(parent_id).data.tags["mlflow.note.content"]
    assert all(item.run_id in note for item in done)
    _, forced = run(store, trials[1:2], force=True)
    assert forced[0].state == "trained"
    assert forced[0].run_id != done[1].run_id
    losses = [store.mlflow.get_run(i).data.metrics["train_loss"] for i in (forced[0].run_id, done[1].run_id)]
    assert losses[0] == losses[1]


def test_another_version_of_the_code_is_another_trial(finished, trials, monkeypatch):
    store, _, _ = finished
    monkeypatch.setattr("reproduce.training.provenance.code_sha256", lambda: "another")
    _, again = run(store, trials[1:2], jobs=1)
    assert again[0].state == "trained"


def test_a_diverged_trial_is_a_result(store, paper):
    config = small_config(optimizer="sgd", schedulers=("none",), learning_rates=(1e38,))
    _, (item,) = run(store, planning.trials(paper, config))
    child = store.mlflow.get_run(item.run_id)
    assert (child.info.status, child.data.tags["outcome"]) == ("FINISHED", "diverged")
    assert "diverged in epoch 1" in item.note


def test_a_failing_trial_is_named_and_stops_no_other(store, trials, monkeypatch):
    def train(trial, *rest):
        if trial.schedule.name == "step":
            raise RuntimeError("no room left")
        return whole(trial, *rest)

    whole = loop.train
    monkeypatch.setattr(loop, "train", train)
    _, done = run(store, trials[1:], jobs=1)
    assert [item.state for item in done] == ["failed", "trained"]
    assert done[0].note == "RuntimeError: no room left"
    assert store.mlflow.get_run(done[0].run_id).info.status == "FAILED"
    monkeypatch.setattr(loop, "train", whole)
    _, again = run(store, trials[1:2], jobs=1)
    assert (again[0].state, again[0].run_id) == ("resumed", done[0].run_id)


KILLED_TRIAL = ("--scheduler", "step", "--learning-rates", "6e-3", "--epochs", "8", "--train-size", "6400")


@pytest.mark.system
def test_a_trial_killed_with_sigkill_goes_on_in_its_run_to_the_same_bits(own_home, paper, whole_mnist, tmp_path):
    command = [sys.executable, "-m", "reproduce", "sweep", *KILLED_TRIAL, "--device", "cpu"]
    environment = os.environ | {
        "REPRODUCE_HOME": str(own_home), "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }  # fmt: skip
    config = StudyConfig(schedulers=("step",), learning_rates=(6e-3,), epochs=8, train_size=6400, engine="fused")
    trial = planning.trials(paper, config)[0]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(own_home.glob("trials/*/epoch-0003")):
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < deadline, "the third epoch was never saved"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "lenet5-mnist"]
    killed = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert [found.info.status for found in killed] == ["RUNNING"]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 resumed" in done.stderr
    (resumed,) = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert (resumed.info.run_id, resumed.info.status) == (killed[0].info.run_id, "FINISHED")
    assert resumed.data.tags["resumed"].startswith("after epoch ")
    for name in METRICS:
        assert [m.step for m in client.get_metric_history(resumed.info.run_id, name)] == list(range(1, 9))
    parents = client.search_runs([experiment.experiment_id], "tags.kind = 'parent'", order_by=["attributes.start_time"])
    assert [parent.info.status for parent in parents] == ["KILLED", "FINISHED"]

    list(loop.train(trial, whole_mnist, tmp_path / "uninterrupted", kernel=kernel()))
    expected = checkpoints.last_weights(tmp_path / "uninterrupted").read_bytes()
    (model,) = client.search_logged_models([experiment.experiment_id])
    (weights,) = Path(model.artifact_location.removeprefix("file://")).rglob("*.safetensors")
    assert weights.read_bytes() == expected


def test_a_trial_that_another_process_holds_is_waited_for_and_then_reused(finished, trials, monkeypatch, capfd):
    store, _, done = finished
    cache_key = store.mlflow.get_run(done[1].run_id).data.tags["fingerprint"]
    holding, waits, ended = threading.Event(), threading.Event(), threading.Event()
    say = progress.say

    def note(line):
        say(line)
        waits.set()

    def hold():
        with trial_lock(store.home, cache_key):
            (store.home / "trials" / cache_key / "under-way").write_text("b0b")
            holding.set()
            waits.wait(PATIENCE_SECONDS)
            ended.set()

    monkeypatch.setattr(progress, "say", note)

    find = RunReader.find_finished_run
    monkeypatch.setattr(
        RunReader, "find_finished_run", lambda self, cache_key: find(self, cache_key) if ended.is_set() else None
    )
    threading.Thread(target=hold).start()
    holding.wait()
    _, (again,) = run(store, trials[1:2], jobs=1)
    assert "another command is training 1 of these trials (run b0b); waiting for it" in capfd.readouterr().err
    assert (again.state, again.run_id) == ("reused", done[1].run_id)


def test_a_range_tests_validation_stands_in_its_run_by_step(store, paper):
    config = small_config(validation_size=128, validation_interval=3)
    (item,) = run(store, planning.range_tests(paper, config))[1]  # 512 images in 2 epochs: 8 steps
    with Path(store.mlflow.download_artifacts(item.run_id, "validation.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 3, 6]
    rates, _ = store.reader.curve(item.run_id)
    assert [float(row["learning_rate"]) for row in rows] == rates[[0, 3, 6]].tolist()
    for name in VALIDATION:
        history = sorted(store.mlflow.get_metric_history(item.run_id, name), key=lambda metric: metric.step)
        assert [(metric.step, metric.value) for metric in history] == [
            (int(row["step"]), float(row[name])) for row in rows
        ]


def test_more_values_than_mlflow_takes_at_once_are_all_written(store):
    validation = np.column_stack([np.arange(1200.0), np.arange(1200) / 1200, np.full(1200, 0.5)])
    curve = np.ones(3, np.float32), np.ones(3)
    record = checkpoints.EpochRecord(1, 1.0, np.nan, np.nan, 1e-3, 1.0, 1.0, *curve, False, validation)
    run_id = store.writer.create_run({}, "many")
    store.writer.log_epoch(run_id, record)
    store.writer.log_epoch(run_id, record)  # as after an answer that was lost
    for name, values in zip(VALIDATION, validation.T[1:], strict=True):
        history = sorted(store.mlflow.get_metric_history(run_id, name), key=lambda metric: metric.step)
        assert [metric.value for metric in history] == values.tolist()
    assert store.writer.logged_epochs(run_id) == {1}


def test_an_epoch_that_the_store_has_lost_is_written_again_at_the_end(store, small_trial, tmp_path, whole_mnist):
    history = list(loop.train(small_trial, whole_mnist, tmp_path / "trained", kernel=kernel()))
    run_id, _ = store.writer.open_trial(small_trial, "fingerprint", "parent")
    store.writer.log_epoch(run_id, history[1])
    (tmp_path / "files").mkdir()
    store.writer.finish_trial(run_id, history, tmp_path / "files", None, {})
    losses = {m.step: m.value for m in store.mlflow.get_metric_history(run_id, "train_loss")}
    assert losses == {record.epoch: record.train_loss for record in history}


def test_what_a_kill_left_of_a_finished_trial_is_cleared_and_force_trains_again(finished, trials, whole_mnist):
    store, _, done = finished
    directory = store.home / "trials" / store.mlflow.get_run(done[1].run_id).data.tags["fingerprint"]
    list(loop.train(trials[1], whole_mnist, directory, kernel=kernel()))
    assert checkpoints.saved_epochs(directory) == [1, 2]
    assert run(store, trials[1:2])[1][0].state == "reused"
    assert checkpoints.saved_epochs(directory) == []
    list(loop.train(trials[1], whole_mnist, directory, kernel=kernel()))
    started = time.time() * 1000
    _, (forced,) = run(store, trials[1:2], force=True, jobs=1)
    assert all(metric.timestamp >= started for metric in store.mlflow.get_metric_history(forced.run_id, "train_loss"))
    assert checkpoints.saved_epochs(directory) == []


def test_a_network_is_recorded_once_where_the_answer_that_it_was_is_lost(finished, monkeypatch):
    store, _, done = finished
    log_outputs, calls = mlflow.MlflowClient.log_outputs, []

    def answer_lost(self, *arguments, **named):
        calls.append(log_outputs(self, *arguments, **named))
        if len(calls) == 1:  # the library below makes the request again, and is refused
            log_outputs(self, *arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_outputs", answer_lost)
    _, (again,) = run(store, [done[1].trial], force=True, jobs=1)
    assert len(calls) == 2
    run_of_it = store.mlflow.get_run(again.run_id)
    (network,) = store.mlflow.search_logged_models(
        [run_of_it.info.experiment_id], filter_string=f"source_run_id = '{again.run_id}'"
    )
    assert (run_of_it.info.status, network.status) == ("FINISHED", "READY")
