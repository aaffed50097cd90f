"""The tracking store goes away, is held by somebody, or loses what passes: `make test-faults`."""

import sqlite3
import time

import pytest

from helpers.faults import PATIENCE_SECONDS, SWEEP, WHILE, wait_for
from helpers.flaky_proxy import FlakyProxy
from helpers.servers import Postgres, Server, free_port, lacks_postgres

pytestmark = pytest.mark.faults


@pytest.fixture
def expected(uninterrupted):
    """What the sweep leaves where nothing breaks."""
    return uninterrupted(SWEEP)[0]


@pytest.fixture
def server(tmp_path):
    ours = Server(tmp_path / "server").start()
    yield ours
    ours.kill()


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
    ledger.add("the database locked for 30 s", WHILE[SWEEP], 1, ours.damage(expected), "waits, then continues")


def sweep_while(ours, take_away, seconds, bring_back):
    """A sweep whose store is gone for a while, which it has to wait for and say so."""
    running = ours.start(*SWEEP)
    wait_for(first_epochs_are_saved(ours), running, "the first epochs")
    take_away()
    time.sleep(seconds)
    bring_back()
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert "does not answer" in said
    assert "is back" in said
    assert "Traceback" not in said


def test_a_server_that_is_killed_and_gone_for_a_minute_is_waited_for(workshop, expected, server, ledger):
    ours = workshop(uri=f"http://127.0.0.1:{server.port}")
    sweep_while(ours, server.kill, 60, server.start)
    ledger.add("the server killed, and gone for 60 s", WHILE[SWEEP], 1, ours.damage(expected), "waits, then continues")


@pytest.mark.skipif(bool(lacks_postgres()), reason=str(lacks_postgres()))
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_postgresql_behind_the_server_that_is_stopped_and_gone_is_waited_for(
    workshop, expected, ledger, tmp_path, mode
):
    database = Postgres().start()
    server = Server(tmp_path / "server", database.uri_without_password).start()
    try:
        ours = workshop(uri=server.uri)
        # immediate is without a word to those who are connected
        sweep_while(ours, lambda: database.stop(mode), 30, database.start)
        damage = ours.damage(expected)
    finally:
        server.kill()
        database.remove()
    ledger.add("the server's PostgreSQL stopped, and gone for 30 s", WHILE[SWEEP], 1, damage, "waits, then continues")


def test_a_server_that_stays_away_ends_the_command_which_goes_on_later(workshop, expected, server, ledger):
    ours = workshop(uri=f"http://127.0.0.1:{server.port}", REPRODUCE_STORE_PATIENCE="3")
    running = ours.start(*SWEEP)
    wait_for(first_epochs_are_saved(ours), running, "the first epochs")
    server.kill()
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    last = next(line for line in said.splitlines() if line.startswith("error: "))
    assert last.startswith(f"error: the tracking store http://127.0.0.1:{server.port} does not answer")
    assert last.endswith("resumes from there")
    assert "Traceback" not in said
    server.start()
    ours.run(*SWEEP)
    ledger.add("the server killed, and gone for longer than it is waited for", WHILE[SWEEP], 1, ours.damage(expected),
               "ends in one line; the same command resumes")  # fmt: skip


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
    ledger.add("a request to the server lost", WHILE[SWEEP], proxy.dropped, damage, "the request is repeated")
    ledger.add(
        "a server's answer lost", WHILE[SWEEP], proxy.swallowed, damage, "the request is repeated, and counted once"
    )


def test_a_store_that_is_not_there_is_said_at_once(workshop):
    ours = workshop(uri=f"http://127.0.0.1:{free_port()}")
    running = ours.start(*SWEEP)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 2
    assert said.splitlines()[-1].startswith(f"error: the tracking store {ours.uri} does not answer")
    assert not (ours.home / "trials").exists()
