"""Nothing leaves the machine: system calls of a study and of the UI, traced, reach for no other host."""

import ipaddress
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from helpers import ROOT, archived_store, needs
from helpers.faults import PATIENCE_SECONDS
from helpers.servers import start_ui

STRACE = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none", "-o"]


def outside(trace: Path) -> set[str]:
    """The addresses of other machines in a trace, whatever was done with them."""
    own = {address.address.partition("%")[0] for found in psutil.net_if_addrs().values() for address in found}
    found = re.findall(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"', trace.read_text(errors="replace"))
    parsed = {
        address.removeprefix("::ffff:"): ipaddress.ip_address(address.removeprefix("::ffff:")) for address in found
    }
    return {name for name, address in parsed.items()
            if name not in own and not address.is_loopback and not address.is_unspecified}  # fmt: skip


def settings(**more):
    names = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    return {key: value for key, value in os.environ.items() if key not in names} | {"PYTHONPATH": str(ROOT)} | more


@needs("strace")
@pytest.mark.parametrize("variables", [{}, {"DO_NOT_TRACK": "1"}], ids=["nothing set", "DO_NOT_TRACK=1"])
def test_nothing_is_sent_to_another_host(own_home, tmp_path, variables):
    command = [sys.executable, "-m", "reproduce", "main", "--epochs", "1", "--train-size", "640", "--device", "cpu"]
    subprocess.run([*STRACE, tmp_path / "trace", *command], cwd=tmp_path, check=True, capture_output=True,
                   env=settings(REPRODUCE_HOME=str(own_home), **variables))  # fmt: skip
    assert "connect(" in (tmp_path / "trace").read_text(errors="replace")
    assert outside(tmp_path / "trace") == set()


@needs("strace")
def test_the_ui_sends_nothing_to_another_host(own_home, tmp_path, empty_database, browser):
    archived_store.fill(tmp_path, empty_database)
    running, address = start_ui(tmp_path, settings(REPRODUCE_HOME=str(own_home)), [*STRACE, tmp_path / "trace"])
    try:
        window = browser.new_page()
        window.set_default_timeout(PATIENCE_SECONDS * 1000)
        window.goto(address)
        window.get_by_text("15 matching runs").wait_for()
        window.close()
    finally:
        for process in psutil.Process(running.pid).children():
            process.send_signal(signal.SIGTERM)
        running.wait(PATIENCE_SECONDS)
    assert "sendto(" in (tmp_path / "trace").read_text(errors="replace")
    assert outside(tmp_path / "trace") == set()
