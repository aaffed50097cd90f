"""MLflow's UI, served on the tracking store and opened on the view of the trials."""

import os
import socket
import subprocess
import sys
import time

import click
import mlflow

from reproduce import paths
from reproduce.errors import UserError
from reproduce.escaping import without_credentials
from reproduce.execution import interruption
from reproduce.tracking.store import check_store_to_show
from reproduce.tracking.ui_views import is_server, prepare_to_show

# Between two looks at whether the server answers.
POLL_SECONDS = 0.2
# Addresses to listen on that stand for all of this machine's.
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def serve(host: str, port: int) -> int:
    """Serve the UI until it is stopped, and return the server's exit code. UserError where it cannot be served."""
    paths.check_port(host, port)
    uri = mlflow.get_tracking_uri()
    if is_server(uri):
        shown = without_credentials(uri)
        raise UserError(f"MLFLOW_TRACKING_URI names a server, which has the UI itself: open {shown}")
    uri = check_store_to_show(paths.find_home())
    server_address = _make_address(host, port)
    address = prepare_to_show(uri, server_address)
    # The UI needs none of the server's background jobs: it starts in half the time and a fourth of the memory.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    # As an argument everybody could read it.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    # MLflow and its own child would each say something of Ctrl-C. SIGTERM ends both.
    with interruption.blocked_interrupts():
        server = subprocess.Popen(command, preexec_fn=interruption.stop_with_parent)
    try:
        _await_answer(server, ANY_HOST.get(host, host), port)
        if server.poll() is None:
            click.echo(f"the trials, charted: {address}" if address else f"there are no trials yet: {server_address}")
            if address and sys.stdout.isatty() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
                click.launch(address)
        return server.wait()
    finally:
        server.terminate()
        server.wait()


def _make_address(host: str, port: int) -> str:
    shown = ANY_HOST.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _await_answer(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    """Wait until the server takes connections, or has ended."""
    while server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=POLL_SECONDS).close()
            return
        except OSError:
            time.sleep(POLL_SECONDS)
