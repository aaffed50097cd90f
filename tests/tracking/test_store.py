"""A store is opened: made once, whole, and only where a command can record in it."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading

import mlflow
import pytest
from filelock import FileLock

from helpers import ROOT
from helpers.faults import PATIENCE_SECONDS
from reproduce import paths
from reproduce.errors import UserError
from reproduce.tracking import local_store, retrying_client
from reproduce.tracking import store as tracking_store
from reproduce.tracking.retrying_client import RetryingClient
from reproduce.tracking.store import open_store, reopen_store


@pytest.mark.system
def test_processes_that_start_at_once_on_a_new_store_do_not_collide(tmp_path):
    program = (
        "from pathlib import Path\nfrom reproduce.tracking.store import open_store\n"
        "print(open_store(Path('home')).experiment_id)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    command = [sys.executable, "-c", program]
    started = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in started] == ["1", "1", "1"]


def test_a_new_store_appears_with_all_its_tables_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search, seen = mlflow.MlflowClient.search_experiments, []

    def looking(self, *arguments, **named):
        seen.append((tmp_path / "whole.db").exists())
        return search(self, *arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "search_experiments", looking)
    begun = tmp_path / f".whole.db-{open_store(tmp_path / 'home', 'sqlite:///before.db').home_id}"
    begun.mkdir()
    (begun / "whole.db").write_bytes(b"half")
    open_store(tmp_path / "home", "sqlite:///whole.db")
    assert seen == [False, False]
    assert not begun.exists()
    with sqlite3.connect("whole.db") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall()
    mlflow.set_tracking_uri(None)


def test_a_store_that_another_command_opens_is_not_waited_for_without_end(store, monkeypatch):
    monkeypatch.setattr(tracking_store, "LOCK_SECONDS", 0)
    with FileLock(store.home / paths.STORE_LOCK), pytest.raises(UserError) as refused:
        open_store(store.home, store.uri)
    assert str(refused.value) == (
        f"another command of {store.home} is opening its store, and has been for 0 s: end it if it is suspended"
    )


def test_a_server_that_never_answers_is_asked_once_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_store, "OPENING_SECONDS", 0)
    monkeypatch.setattr(tracking_store, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError) as refused:
            open_store(tmp_path / "home", uri)
        asked, _ = silent.accept()
        with asked:
            assert asked.recv(6) == b"HEAD /"
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert str(refused.value).startswith(f"the tracking store {uri} does not answer (no answer in time): start it, or ")
    mlflow.set_tracking_uri(None)


def test_artifacts_that_nobody_may_write_end_a_command_before_it_trains(store, tmp_path):
    (tmp_path / "file").touch()
    number = store.mlflow.create_experiment("mine", (tmp_path / "file" / "mlruns").as_uri())
    mine = reopen_store(store.home, store.uri, number)
    with pytest.raises(UserError) as refused:
        mine.check_artifacts()
    assert str(refused.value) == (
        f"{tmp_path}/file/mlruns, where this experiment's artifacts go, cannot be written to (Not a directory): "
        "make it writable, or set MLFLOW_EXPERIMENT_NAME to an experiment of your own"
    )


def test_variables_that_would_change_what_is_recorded_are_removed(store, monkeypatch):
    for variable in retrying_client.REMOVED_VARIABLES:
        monkeypatch.setenv(variable, "true")
    open_store(store.home, store.uri)
    assert not set(retrying_client.REMOVED_VARIABLES) & os.environ.keys()


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """The address of a store that does not exist, in a folder that does."""
    monkeypatch.chdir(tmp_path)
    yield f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(None)


def refusal(folder, uri, **how):
    with pytest.raises(UserError) as refused:
        open_store(folder / "home", uri, **how)
    assert [path.name for path in folder.iterdir()] == ["home"]
    return str(refused.value)


def test_a_command_that_trains_nothing_makes_no_store(nowhere, tmp_path):
    assert refusal(tmp_path, nowhere, trains=False) == (
        f"there is no tracking store {tmp_path}/mlflow.db, expected one that has runs: set MLFLOW_TRACKING_URI to "
        "it, or make the runs first, for example with reproduce main"
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MLFLOW_RUN_ID", "nope", "is 'nope': it is not in the store; correct or unset it"),
        ("MLFLOW_EXPERIMENT_ID", "7", "is '7': it is not in the store; correct or unset it"),
        ("MLFLOW_EXPERIMENT_NAME", "", "is '', expected the name of an experiment: unset it, or name one"),
    ],
)
def test_a_variable_that_is_refused_leaves_no_new_store(nowhere, tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    assert refusal(tmp_path, nowhere) == f"{variable} {message}"


def test_a_new_store_takes_the_experiment_that_every_store_has(nowhere, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert open_store(tmp_path / "home", nowhere).experiment_id == "0"


def test_a_store_that_takes_long_to_make_is_said_to_be_made(nowhere, tmp_path, monkeypatch):
    said, told = [], threading.Event()

    def say(line):
        said.append(line)
        told.set()

    def make(file, home_id):
        assert told.wait(PATIENCE_SECONDS)
        raise UserError("no more of it")

    monkeypatch.setattr("reproduce.progress.say", say)
    monkeypatch.setattr("reproduce.progress.SILENT_SECONDS", 0.2)
    monkeypatch.setattr(local_store, "make_store", make)
    with pytest.raises(UserError, match="no more of it"):
        open_store(tmp_path / "home", nowhere)
    assert said == [f"the tracking store {tmp_path}/mlflow.db is new and is being made, which takes some seconds"]


def test_a_command_that_trains_nothing_lists_the_finished_runs_once(store, monkeypatch):
    searched = []
    search = RetryingClient.search_runs

    def searching(self, condition):
        searched.append(condition)
        return search(self, condition)

    monkeypatch.setattr(RetryingClient, "search_runs", searching)
    reading = open_store(store.home, store.uri, trains=False)
    assert reading.reader.seeds() == ()
    assert reading.reader.finished_runs() == {}
    assert len(searched) == 1
    store.reader.finished_runs()
    store.reader.finished_runs()
    assert len(searched) == 3
