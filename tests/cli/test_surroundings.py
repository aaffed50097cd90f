"""Variables, stores, homes, ports, data and outputs that cannot be used are named in one line, before any work."""

import errno
import fcntl
import os
import shutil
import socket
import sqlite3

import pytest

from helpers import ROOT
from helpers.commands import one_line, typed
from reproduce import paths
from reproduce.cli import run_command
from reproduce.report import output_folder


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("REPRODUCE_HOME", "file", "{here}/file{home} (it is a file): name another directory in REPRODUCE_HOME"),
        ("REPRODUCE_HOME", "/proc/nowhere", "/proc/nowhere{home} (No such file or directory): name another"),
        ("MLFLOW_TRACKING_URI", "nonsense://me:secret@x", "MLFLOW_TRACKING_URI is 'nonsense://***@x', whose kind "),
        ("MLFLOW_TRACKING_URI", "file:/tmp/nowhere", "MLFLOW_TRACKING_URI is 'file:/tmp/nowhere', a folder, in which "),
        (
            "MLFLOW_TRACKING_URI", "sqlite:///file",
            "{store} {here}/file is no SQLite database (file is not a database): set MLFLOW_TRACKING_URI to another",
        ),
        ("MLFLOW_TRACKING_URI", "postgresql+pg8000://x/y", "{store} postgresql+pg8000://x/y cannot be used: No module"),
        ("MLFLOW_TRACKING_URI", "http://[x", "MLFLOW_TRACKING_URI is 'http://[x', which is no address (Invalid"),
        ("MLFLOW_RUN_ID", "nope", "MLFLOW_RUN_ID is 'nope': it is not in the store; correct or unset it"),
        ("MLFLOW_EXPERIMENT_ID", "99", "MLFLOW_EXPERIMENT_ID is '99': it is not in the store; correct or"),
    ],
)  # fmt: skip
def test_a_variable_that_leads_nowhere_is_named(
    monkeypatch, capsys, surroundings, empty_database, variable, value, message
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_database}")
    monkeypatch.setenv(variable, value)
    code, printed = typed(monkeypatch, capsys, "verify")
    assert code == 2
    line = one_line(printed)
    home = ", where data and checkpoints are kept, cannot be written to"
    assert line.startswith("error: " + message.format(here=surroundings, home=home, store="the tracking store")), line


@pytest.mark.parametrize("command", ["report", "verify"])
def test_a_store_that_does_not_exist_is_named_and_not_made(monkeypatch, capsys, surroundings, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///wrong.db")
    code, printed = typed(monkeypatch, capsys, command)
    assert code == 2
    line = one_line(printed)
    assert line.startswith(f"error: there is no tracking store {surroundings}/wrong.db, expected one that has runs: ")
    assert {path.name for path in surroundings.iterdir()} == {"file", ".reproduce"}


def test_a_home_on_a_file_system_without_locks_is_refused(monkeypatch, capsys, surroundings):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    code, printed = typed(monkeypatch, capsys, "sweep", "--epochs", "1")
    assert code == 2
    assert one_line(printed) == (
        f"error: {surroundings}/.reproduce, where data and checkpoints are kept, has no locks (Function not "
        "implemented), without which two could train one trial: name a directory on another file system in "
        "REPRODUCE_HOME"
    )


def test_a_store_of_another_version_of_mlflow_is_told(monkeypatch, capsys, surroundings, empty_database):
    shutil.copy(empty_database, "other.db")
    with sqlite3.connect("other.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'deadbeef0000'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    code, printed = typed(monkeypatch, capsys, "verify")
    assert code == 2
    line = one_line(printed)
    store = f"sqlite:///{surroundings}/other.db"
    assert line.startswith(f"error: the tracking store {store} refused: Detected out-of-date database schema")
    assert "deadbeef0000" in line
    assert line.endswith(f": make a copy of it, then run: mlflow db upgrade {store}")


def test_a_server_that_does_not_listen_is_told(monkeypatch, capsys, surroundings):
    monkeypatch.setattr("reproduce.tracking.store.OPENING_SECONDS", 0)
    with socket.socket() as bound:  # to a port on which nothing listens
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        code, printed = typed(monkeypatch, capsys, "verify")
    assert (code, printed) == (
        2,
        f"error: the tracking store http://***@127.0.0.1:{port} does not answer (Connection refused): "
        "start it, or correct MLFLOW_TRACKING_URI, or unset it\n",
    )


def test_a_port_that_is_taken_and_an_address_of_another_machine_are_told(monkeypatch, capsys):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        port = bound.getsockname()[1]
        code, printed = typed(monkeypatch, capsys, "ui", "--port", str(port))
        taken = f"error: --port {port} is not free on 127.0.0.1 (Address already in use): name another\n"
        assert (code, printed) == (2, taken)
    paths.check_port("127.0.0.1", port)  # free again
    code, printed = typed(monkeypatch, capsys, "ui", "--host", "192.0.2.1")  # that of documentation
    assert (code, printed) == (2, "error: --host '192.0.2.1' is no address of this machine: name another\n")


@pytest.mark.parametrize("arguments", [["data"], ["sweep"], ["range_test"]])
def test_a_data_directory_that_is_not_there_is_told_before_any_work(monkeypatch, capsys, surroundings, arguments):
    monkeypatch.setenv("REPRODUCE_DATA_DIR", "nowhere")
    code, printed = typed(monkeypatch, capsys, *arguments)
    told = "REPRODUCE_DATA_DIR is 'nowhere', but it is not there; expected a directory, or a zip or tar, that exists"
    assert (code, printed) == (2, f"error: {told}: correct it\n")
    assert not (surroundings / "mlflow.db").exists()


def test_a_number_of_cores_that_is_none_is_told(monkeypatch, capsys, surroundings):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "many")
    code, printed = typed(monkeypatch, capsys, "sweep")
    assert (code, printed) == (
        2, "error: LOKY_MAX_CPU_COUNT is 'many', expected a whole number: correct or unset it\n",
    )  # fmt: skip


def test_an_empty_home_is_none_that_was_named(monkeypatch, surroundings):
    monkeypatch.setenv("REPRODUCE_HOME", "")
    assert paths.find_home() == surroundings / ".reproduce"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/", "--output / holds "),
        (str(ROOT), f"--output {ROOT} holds "),
        ("file/below", "--output file/below: {here}/file cannot be written to (Not a directory): name another"),
        ("/proc/report", "--output /proc/report: /proc cannot be written to (No such file or directory)"),
        ("loop", "--output loop leads nowhere: name a directory"),
        ("to-file/report", "--output to-file/report: {here}/file cannot be written to (Not a directory)"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_is_told_before_any_work(monkeypatch, capsys, surroundings, output, message):
    for worker in ("run", "open_store"):
        monkeypatch.setattr(run_command, worker, None)
    (surroundings / "loop").symlink_to("pool")
    (surroundings / "pool").symlink_to("loop")
    (surroundings / "to-file").symlink_to("file")
    for command in ("main", "report"):
        code, printed = typed(monkeypatch, capsys, command, "--output", output)
        assert code == 2
        assert one_line(printed).startswith("error: " + message.format(here=surroundings))
    assert {path.name for path in surroundings.iterdir()} == {"file", "loop", "pool", "to-file"}


def test_an_output_that_can_be_is_not_made_before_there_is_a_report(surroundings):
    (surroundings / "there").mkdir()
    (surroundings / "link").symlink_to("there")
    (surroundings / "to-come").symlink_to("nothing-yet")
    before = sorted(surroundings.rglob("*"))
    for name in ("there", "link", "to-come", "a/b/c"):
        output_folder.check_output(surroundings / name)
    assert sorted(surroundings.rglob("*")) == before
