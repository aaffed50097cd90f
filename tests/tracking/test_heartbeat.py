"""Heartbeats tell a run that is under way from one whose process is gone."""

import threading
import time

import pytest
import requests

from helpers.faults import PATIENCE_SECONDS
from reproduce.tracking import heartbeat
from reproduce.tracking.locks import trial_lock
from reproduce.tracking.retrying_client import RetryingClient
from reproduce.tracking.store import open_store


@pytest.mark.parametrize(("silent_for", "status"), [(400, "RUNNING"), (430, "KILLED")])
def test_of_a_run_from_another_home_the_heartbeat_tells(store, small_trial, tmp_path, silent_for, status):
    other = open_store(tmp_path / "other", store.uri)
    run_id, _ = other.writer.open_trial(small_trial, "fingerprint", "parent")
    store.mlflow.set_tag(run_id, "alive_at", str(int(time.time()) - silent_for))
    assert bool(store.heartbeat.find_running_elsewhere("fingerprint")) is (status == "RUNNING")
    assert other.heartbeat.find_running_elsewhere("fingerprint") is None  # its own it knows by the lock
    with trial_lock(store.home, "fingerprint"):  # as of a command that waited here; the file stays
        pass
    store.heartbeat.end_stale_runs()
    assert store.mlflow.get_run(run_id).info.status == status
    mine, resumed = store.writer.open_trial(small_trial, "fingerprint", "parent")
    assert (mine == run_id, resumed) == ((False, False) if status == "RUNNING" else (True, True))


def test_a_run_that_goes_on_in_another_home_is_that_homes_from_the_first_moment(store, small_trial, tmp_path):
    run_id, _ = store.writer.open_trial(small_trial, "fingerprint", "parent")
    store.mlflow.set_terminated(run_id, "KILLED")
    other = open_store(tmp_path / "other", store.uri)
    assert other.writer.open_trial(small_trial, "fingerprint", "parent") == (run_id, True)
    assert store.heartbeat.find_running_elsewhere("fingerprint").info.run_id == run_id
    store.heartbeat.end_stale_runs()
    assert store.mlflow.get_run(run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("announce_outage", "said"), [(True, ["away", "back"]), (False, [])])
def test_a_command_whose_workers_nobody_hears_announces_an_outage(store, monkeypatch, capfd, announce_outage, said):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.01)
    run_id, calls, there = store.writer.create_run({}, "a run"), [], threading.Event()

    class Away:
        def log_batch(self, run_id, tags):
            calls.append(run_id)
            if len(calls) in (2, 3):  # the first is made before the run begins
                raise requests.ConnectionError("refused")
            if len(calls) > 5:
                there.set()

    store.client.mlflow = Away()
    with store.heartbeat.record_heartbeat(run_id, announce_outage):
        assert there.wait(PATIENCE_SECONDS)
    lines = capfd.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] if line.endswith("back") else "away" for line in lines] == said
    if announce_outage:
        assert lines == [
            f"the tracking store {store.shown_uri} does not answer (refused); the trials wait for it, each for up to "
            "300 s",
            f"the tracking store {store.shown_uri} is back",
        ]


def test_a_run_that_ends_while_it_is_looked_at_stays_finished(store, small_trial, monkeypatch):
    run_id, _ = store.writer.open_trial(small_trial, "fingerprint", "parent")
    with trial_lock(store.home, "fingerprint"):
        pass
    listed = store.client.search_runs("attributes.status = 'RUNNING'")
    store.mlflow.set_terminated(run_id, "FINISHED")
    monkeypatch.setattr(RetryingClient, "search_runs", lambda self, condition: listed)
    store.heartbeat.end_stale_runs()
    assert store.mlflow.get_run(run_id).info.status == "FINISHED"
