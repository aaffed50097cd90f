"""What stops a process does so wherever it strikes."""

import os
import select
import signal
import subprocess
import sys
import time
import weakref

import click
import pytest

from helpers import ROOT
from helpers.faults import PATIENCE_SECONDS
from reproduce.cli import process
from reproduce.execution import interruption
from reproduce.tracking import remedies


class Thing:
    """Something that can be referred to weakly."""


def ends(monkeypatch, capfd, work):
    """The exit code and the one line with which a command that does this work ends."""

    @click.group(cls=process.Commands)
    def commands():
        pass

    commands.command("work")(work)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(sys, "argv", ["reproduce", "work"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            process.run(commands)
    finally:
        signal.signal(signal.SIGTERM, before)
    (line,) = capfd.readouterr().err.strip().splitlines() or [""]  # click begins it after the ^C of a terminal
    return left.value.code, line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_strikes_in_a_weak_references_callback_is_not_lost(monkeypatch, capfd, number, code):
    reached = []

    def work():
        thing = Thing()
        watched = weakref.ref(thing, lambda reference: (signal.raise_signal(number), reached.append("never")))
        del thing  # the handler raises in the callback, where Python goes on as if nothing was
        assert watched() is None
        time.sleep(60)
        reached.append("the end")

    left, line = ends(monkeypatch, capfd, work)
    assert (left, reached) == (code, [])
    assert line.endswith(remedies.RESUMES)


def test_a_signal_for_which_a_library_leaves_with_a_code_of_its_own_is_told_as_ever(monkeypatch, capfd):
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit:
            sys.exit(1)  # as Ray does while it waits

    assert ends(monkeypatch, capfd, work) == (143, f"terminated: {remedies.RESUMES}")
    assert ends(monkeypatch, capfd, lambda: sys.exit(1)) == (1, "")  # nobody told that one to stop


def test_what_else_cannot_be_raised_is_told_as_ever(monkeypatch, capfd):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    interruption.resend_swallowed({KeyboardInterrupt: signal.SIGINT})
    thing = Thing()
    watched = weakref.ref(thing, lambda reference: 1 / 0)
    del thing
    assert watched() is None
    assert "ZeroDivisionError" in capfd.readouterr().err


CHILD = """
import os, time
from reproduce.execution import interruption

interruption.end_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_process_does_not_outlive_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert select.select([child], [], [], PATIENCE_SECONDS)[0] == [child]
    os.close(child)
