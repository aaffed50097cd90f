"""The tracking store goes away, is held by somebody, or loses what passes: `make test-faults`."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest
from faults import PATIENCE_SECONDS, SWEEP, WHILE, wait_for
from flaky import FlakyProxy

pytestmark = pytest.mark.faults


@pytest.fixture
def expected(uninterrupted):
    """What the sweep leaves where nothing breaks."""
    return uninterrupted(SWEEP)[0]


class Server:
    """A real `mlflow server` with a database and artifacts of its own."""

    def __init__(self, directory) -> None:
        directory.mkdir()
        self.directory, self.port, self.process = directory, free_port(), None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db",
                   "--artifacts-destination", str(self.directory / "artifacts")]  # fmt: skip
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=environment, start_new_session=True, stdout=log, stderr=log
            )
        wait_for(self.answers, what="the server")
        return self

    def answers(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).status == 200
        except OSError:
            return False

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path):
    ours = Server(tmp_path / "server").start()
    yield ours
    ours.kill()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def first_epochs_are_saved(ours):
    return lambda: len(list(ours.home.glob("trials/*/epoch-*"))) >= 2


def test_a_database_that_somebody_locks_for_half_a_minute_is_waited_for(workshop, expected, ledger):
    ours = workshop()
    running = ours.start(*SWEEP)
    wait_for(first_epochs_are_saved(ours), running, "the first epochs")
    with sqlite3.connect(ours.directory / "mlflow.db", isolation_level=None, timeout=60) as held:
        held.execute("BEGIN EXCLUSIVE")
        time.sleep(30)
        held.execute("ROLLBACK")
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert "Traceback" not in said
    ledger.add("the database locked for 30 s", WHILE[SWEEP], 1, ours.damage(expected), "waits, then goes on")


def test_a_server_that_is_killed_and_gone_for_a_minute_is_waited_for(workshop, expected, server, ledger):
    ours = workshop(uri=f"http://127.0.0.1:{server.port}")
    running = ours.start(*SWEEP)
    wait_for(first_epochs_are_saved(ours), running, "the first epochs")
    server.kill()
    time.sleep(60)
    server.start()
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert "does not answer" in said
    assert "is back" in said
    assert "Traceback" not in said
    ledger.add("the server killed, and gone for 60 s", WHILE[SWEEP], 1, ours.damage(expected), "waits, then goes on")


def test_a_server_that_stays_away_ends_the_command_which_goes_on_later(workshop, expected, server, ledger):
    ours = workshop(uri=f"http://127.0.0.1:{server.port}", REPRODUCE_STORE_PATIENCE="3")
    running = ours.start(*SWEEP)
    wait_for(first_epochs_are_saved(ours), running, "the first epochs")
    server.kill()
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    last = next(line for line in said.splitlines() if line.startswith("error: "))
    assert last.startswith(f"error: the tracking store http://127.0.0.1:{server.port} does not answer")
    assert last.endswith("goes on from there")
    assert "Traceback" not in said
    server.start()
    ours.run(*SWEEP)
    ledger.add("the server killed, and gone for longer than it is waited for", WHILE[SWEEP], 1, ours.damage(expected),
               "ends in one line; the same command goes on")  # fmt: skip


def test_requests_and_answers_that_are_lost_are_made_again_and_counted_once(workshop, expected, server, ledger):
    proxy = FlakyProxy(server.port, drop=0.05, swallow=0.05)
    ours = workshop(uri=f"http://127.0.0.1:{proxy.port}")
    said = ours.run(*SWEEP)
    proxy.close()
    assert "Traceback" not in said
    assert proxy.dropped
    assert proxy.swallowed
    ours.uri = f"http://127.0.0.1:{server.port}"
    damage = ours.damage(expected)
    ledger.add("a request to the server lost", WHILE[SWEEP], proxy.dropped, damage, "made again")
    ledger.add("a server's answer lost", WHILE[SWEEP], proxy.swallowed, damage, "made again, and counted once")


def test_a_store_that_is_not_there_is_said_at_once(workshop):
    ours = workshop(uri=f"http://127.0.0.1:{free_port()}")
    running = ours.start(*SWEEP)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 2
    assert said.splitlines()[-1].startswith(f"error: the tracking store {ours.uri} does not answer")
    assert not (ours.home / "trials").exists()
