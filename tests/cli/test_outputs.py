"""Outputs that are closed, unread or of another encoding, and commands that are stopped."""

import io
import os
import signal
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.commands import typed
from reproduce.cli import process
from reproduce.tracking import remedies


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["data"]])
def test_an_output_that_nobody_reads_is_no_traceback(own_home, arguments):
    environment = os.environ | {"REPRODUCE_HOME": str(own_home)}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([sys.executable, "-m", "reproduce", *arguments], cwd=ROOT, env=environment,
                              stdout=writing, stderr=subprocess.PIPE, text=True)  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (process.EXIT_NO_READER, "")


def test_outputs_that_are_closed_take_everything(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    process.have_streams()
    for stream in (sys.stdout, sys.stderr):
        assert not stream.isatty()
        stream.write("9 ± 1\n")
        stream.close()
    command = f"{sys.executable} -m reproduce sweep --epochs 0"
    done = subprocess.run(["sh", "-c", f"{command} >&- 2>&-"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_letters_that_an_encoding_has_not_are_written_plainly(monkeypatch):
    for encoding, expected in (
        ("ascii", b"9 +- 1 x 2, ~ 3... \\xfc\n"),
        ("latin-1", b"9 \xb1 1 \xd7 2, ~ 3... \xfc\n"),
    ):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        process.have_streams()
        print("9 ± 1 × 2, ≈ 3… ü", flush=True)
        assert written.getvalue() == expected


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        *((name, remedies.RESUMES) for name in ("main", "sweep", "grid", "range_test")),
        ("report", "nothing that was recorded is lost; the same command writes the report again"),
        ("verify", "nothing is lost; the same command judges again"),
        ("data", "complete files are kept; the same command gets the others"),
    ],
)  # fmt: skip
def test_a_command_that_was_stopped_says_what_is_true_of_it(monkeypatch, capsys, surroundings, command, kept):
    for stop, how, code in ((KeyboardInterrupt, "interrupted", 130), (process.Terminated, "terminated", 143)):

        def stopped(*arguments, stop=stop):
            if stop is process.Terminated:
                signal.raise_signal(signal.SIGTERM)
            raise stop

        monkeypatch.setattr("reproduce.cli.request.load_paper", stopped)
        monkeypatch.setattr("reproduce.data.verified_cache.prepare", stopped)
        left, printed = typed(monkeypatch, capsys, command)
        assert (left, printed.strip()) == (code, f"{how}: {kept}")


def handling_ctrl_c():
    """Handle Ctrl-C as in a terminal: a process that is started in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_stopped_while_it_is_still_importing_it_ends_without_a_traceback(tmp_path):
    (tmp_path / "click.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    (tmp_path / "click-8.dist-info").mkdir()  # so that it counts as installed, and not as in the way
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "reproduce"], cwd=tmp_path, env=environment, capture_output=True,
        preexec_fn=handling_ctrl_c,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
