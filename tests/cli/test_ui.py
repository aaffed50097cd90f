"""How `reproduce ui` ends, a real server being stopped."""

import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress

import psutil
import pytest

from helpers import ROOT
from helpers.commands import typed
from helpers.faults import PATIENCE_SECONDS, wait_for
from helpers.servers import free_port


@pytest.fixture
def ui(tmp_path):
    """Start the UI as in a terminal: in a process group of its own, which gets Ctrl-C as a whole."""
    (tmp_path / "home").mkdir()
    port, log = free_port(), tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "REPRODUCE_HOME": str(tmp_path / "home")}
    with log.open("wb") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "reproduce", "ui", "--port", str(port)], cwd=tmp_path, env=environment, stdout=file,
            stderr=file, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    yield running, f"http://127.0.0.1:{port}/health", log
    for process in [*psutil.Process(running.pid).children(recursive=True), running] if running.poll() is None else []:
        process.kill()


def answers(address):
    with suppress(OSError):
        return urllib.request.urlopen(address).status == 200
    return False


def test_a_store_that_cannot_be_opened_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+pg8000://x/y")
    code, printed = typed(monkeypatch, capsys, "ui", "--port", str(free_port()))
    assert (code, printed.count("\n")) == (2, 1)
    assert printed.startswith("error: the tracking store postgresql+pg8000://x/y cannot be used: No module")


@pytest.mark.system
def test_the_server_ends_with_a_command_that_is_killed(ui):
    running, address, _ = ui
    wait_for(lambda: answers(address), running, "the server")
    everyone = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    assert psutil.wait_procs(everyone, PATIENCE_SECONDS)[1] == []


@pytest.mark.system
@pytest.mark.parametrize(
    ("number", "code", "last"),
    [(signal.SIGINT, 130, "interrupted: nothing is lost"), (signal.SIGTERM, 143, "terminated: nothing is lost")],
)
@pytest.mark.parametrize("started", [True, False], ids=["as it answers", "as it starts"])
def test_the_ui_ends_as_other_commands_do_and_leaves_no_server(ui, number, code, last, started):
    running, address, log = ui
    command = psutil.Process(running.pid)
    wait_for(lambda: answers(address) if started else command.children(), running, "the server")
    everyone = command.children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    assert running.wait(PATIENCE_SECONDS) == code
    assert psutil.wait_procs(everyone, PATIENCE_SECONDS)[1] == []
    said = log.read_text()
    assert said.splitlines()[-1] == last
    assert "Aborted" not in said
    assert "Traceback" not in said
