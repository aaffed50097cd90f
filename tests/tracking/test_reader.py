"""The newest finished runs are found, wherever they are, and what is gone of them is told."""

import shutil
import time

import numpy as np
import pytest
from mlflow.entities import Metric, Param

from helpers.small import run, small_config
from reproduce.study import planning
from reproduce.tracking import local_store, reader, retrying_client


def test_runs_are_found_on_every_page_of_every_page_of_experiments(store, monkeypatch):
    monkeypatch.setattr(retrying_client, "PAGE", 2)
    made = set()
    for number in range(5):
        store.writer.experiment_id = store.mlflow.create_experiment(f"experiment {number}")
        made.add(store.writer.create_run({"kind": "trial", "wanted": "yes"}, "a trial"))
    found = [run.info.run_id for run in store.client.search_runs("tags.wanted = 'yes'")]
    assert (len(found), set(found)) == (5, made)


def test_the_proposal_is_that_of_the_range_test_trained_or_reused_last(store, paper):
    (test,) = planning.range_tests(paper, small_config())
    params = [Param(key, str(value)) for key, value in test.model_dump(exclude={"schedule"}).items()]
    made = {}
    for rate in (1e-3, 2e-3):
        tags = {"kind": "range_test", "outcome": "finished", "specification": str(rate)}
        run_id = store.writer.create_run(tags | {"proposed_learning_rate": str(rate)}, "a range test")
        store.mlflow.log_batch(run_id, [Metric(name, 1.0, 0, 1) for name in ("train_loss", "learning_rate")], params)
        store.mlflow.set_terminated(run_id)
        made[rate] = store.mlflow.get_run(run_id)
        time.sleep(0.002)
    assert store.reader.newest_proposal(test).learning_rate == 2e-3
    store.writer.mark_reused(made[1e-3], "a command")
    assert store.reader.newest_proposal(test).learning_rate == 1e-3


@pytest.mark.parametrize("by_name", [0, 100], ids=["read through", "by name"])
def test_of_many_trials_the_newest_finished_runs_are_found(store, small_trial, monkeypatch, by_name):
    monkeypatch.setattr(reader, "SEARCHED_ONE_BY_ONE", by_name)

    def made(cache_key, **more):
        tags = {"kind": "trial", "specification": "the same", "outcome": "finished"} | cache_key | more
        run_id = store.writer.create_run(tags, "a trial")
        store.mlflow.log_batch(run_id, metrics=[Metric(name, 0.5, 0, 1) for name in reader.METRICS])
        store.mlflow.set_terminated(run_id, "FINISHED")
        time.sleep(0.002)  # runs are told apart by the millisecond that they began in
        return run_id

    made({"fingerprint": "a"})
    newest = made({"fingerprint": "a"})
    store.mlflow.set_terminated(made({"fingerprint": "a"}), "KILLED")
    other = made({"fingerprint": "b"})
    made({"fingerprint": "c"})
    made({})
    found = store.reader.find_finished_runs(["a", "b", "d"])
    assert {cache_key: run.info.run_id for cache_key, run in found.items()} == {"a": newest, "b": other}


def test_a_range_test_whose_curve_is_gone_is_trained_again_and_said(finished, trials, capfd):
    store, _, done = finished
    shutil.rmtree(local_store.local_path(store.mlflow.get_run(done[0].run_id).info.artifact_uri))
    assert store.reader.result(done[0].trial, store.mlflow.get_run(done[0].run_id)) is None
    assert capfd.readouterr().err == (
        f"run {done[0].run_id} counts as missing, because its curve.csv is gone: put its artifacts back, "
        "or type the command that trained range_test adam seed 0 again\n"
    )
    _, again = run(store, trials)
    assert [item.state for item in again] == ["trained", "reused", "reused"]
    np.testing.assert_array_equal(store.reader.curve(again[0].run_id)[1].size, 10)
