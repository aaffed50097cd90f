"""Ray for as long as a command lasts: a cluster that is there, or one on this machine. It prints nothing of its own."""

import functools
import logging
import os
import random
import re
import secrets
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.escaping import printable
from reproduce.progress import say, say_if_slow
from reproduce.tracking.store_errors import describe_error
from reproduce.training import provenance

LOCAL = "local"
CONNECT_SECONDS = 10
# Ray itself takes so long to find out that what answers is no cluster.
ANSWER_SECONDS = 40
# STARTING's 60 s for the store of the cluster, and Ray's own 30 s for the node.
START_SECONDS = 90
# Of a node's helper processes, as Ray names its parameters and files.
HELPER_PORTS = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
# Below those that the system gives to outgoing connections.
PORTS = range(20_000, 32_000)
METRICS_PORT = "metrics_export_port"
NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
# Nothing but numbers goes through Ray's store of objects.
OBJECT_STORE_BYTES = 80 * 2**20
# Ray's news, advice and warnings are kept out of what a command says, unless the environment requests them.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# At a wrong address, or on a machine that is no node, Ray would try for minutes.
TIMEOUTS = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_py_gcs_connect_timeout_s": "15",
    "RAY_gcs_server_request_timeout_seconds": "15",
}
# Ray's own 20 and 30 s are short where the cores are busy.
STARTING = {"RAY_gcs_server_port_wait_time_s": "60", "RAY_agent_register_timeout_ms": "60000"}
TOKEN_FILE = Path("~/.ray/auth_token")


@contextmanager
def connect(requested: str | None) -> Iterator[str]:
    """Connect this process to a Ray cluster for the block, and yield its head's address.

    `requested` is that address, HOST:PORT; None is the cluster that was started on this machine. Where there is none,
    and for `local`, Ray is started on this machine, and stopped in the end. UserError where nothing answers, or what
    answers is no Ray cluster.
    """
    address = requested or _started_here() or LOCAL
    cores = provenance.cores()
    with ExitStack() as stack:
        if address == LOCAL:
            say(f"starting Ray on this machine, with {cores} cores, for this command")
            # The names of Ray's sockets, which are in this folder, have room for 107 letters.
            folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
            options = {
                "num_cpus": cores,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": stack.enter_context(folder),
            }
            with say_if_slow(f"waiting for Ray to start, for up to {START_SECONDS} s", patience=2):
                _connect(stack, address, QUIET | STARTING, options)
        else:
            with say_if_slow(f"waiting for the Ray cluster at {address} to answer, for up to {ANSWER_SECONDS} s"):
                if (why := why_unreachable(address)) is not None:
                    raise UserError(
                        f"--ray-address {address}: nothing answers there ({why}); expected the head of a Ray cluster: "
                        "start one with ray start --head, or remove the option and unset RAY_ADDRESS"
                    )
                _connect(stack, address, QUIET | TIMEOUTS, {})
        import ray

        yield str(ray.get_runtime_context().gcs_address)


def _connect(stack: ExitStack, address: str, variables: dict[str, str], options: dict[str, Any]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    _choose_token(address)
    # It reads the variables.
    import ray

    # Ray has no other way to keep what it says of lost workers and nodes off the output: we say that ourselves.
    ray._private.worker._worker_logs_enabled = False
    stack.callback(ray.shutdown)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _silenced_stderr(), ExitStack() as started:
            if address == LOCAL:
                options = options | started.enter_context(_patient_node(Path(options["_temp_dir"])))
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except SystemExit:
        # Ray handled SIGTERM in its own way meanwhile: have it handled in ours.
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:
        raise UserError(_explain_refusal(address, error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _started_here() -> str | None:
    """Return the address of the cluster that this user's `ray start` began on this machine, if it is still there.

    Another user's would run our trials as that user; and anybody can put such a file there.
    """
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
    with suppress(OSError):
        address = file.read_text(encoding="utf-8").strip()
        if address and file.stat().st_uid == os.getuid() and why_unreachable(address) is None:
            return address
    return None


def why_unreachable(address: str) -> str | None:
    """Return why nobody answers at the address; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    # The port is no number, or the host is a name that no name server is asked for, as a..b.
    except ValueError:
        return "it is no address"
    return None


def _choose_token(address: str) -> None:
    """Use the cluster's token where this user has one, as `ray start` does and ray.init does not.

    Ray that is started here requires a token that nobody else knows.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address == LOCAL:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() and not TOKEN_FILE.expanduser().exists():
        return
    os.environ["RAY_AUTH_MODE"] = "token"


@contextmanager
def _patient_node(folder: Path) -> Iterator[dict[str, int]]:
    """Have ray.init start a node in `folder` that waits for its helper processes as long as they need; yield an option.

    A node ends itself if these have not written their ports into files within 15 s, which is no setting and is short
    where the cores are busy. So the ports are chosen here, and the files written beforehand; that takes a session and a
    node with names that are known. The helpers that scale a cluster and that pass on what workers print are left out.
    """
    import ray
    from ray._private import parameter

    node, session = ray.NodeID.from_random().hex(), f"session_{os.getpid()}"
    ports = dict(zip((*HELPER_PORTS, METRICS_PORT), _free_ports(), strict=False))
    (folder / session).mkdir()
    for name, port in ports.items():
        (folder / session / f"{name}_{node}").write_text(str(port), encoding="utf-8")
    usual, option = parameter.RayParams, {f"_{METRICS_PORT}": ports.pop(METRICS_PORT)}
    parameter.RayParams = functools.partial(
        usual, session_name=session, no_monitor=True, include_log_monitor=False, **ports
    )
    before = os.environ.get(NODE_ID)
    os.environ[NODE_ID] = node
    try:
        yield option
    finally:
        parameter.RayParams = usual
        os.environ.pop(NODE_ID)
        if before is not None:
            os.environ[NODE_ID] = before


def _free_ports() -> Iterator[int]:
    """Yield ports that are free, of those that no connection is given by itself meanwhile."""
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("", port)):
            yield port


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Drop what Ray's own threads write to the standard error in the block, past Python; what Python writes is kept."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        # Whatever else stands in its place does not write there.
        own = os.fdopen(kept, "w", buffering=1, closefd=False) if sys.stderr is sys.__stderr__ else sys.stderr
        with redirect_stderr(own):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _explain_refusal(address: str, error: Exception) -> str:
    if address == LOCAL:
        return f"Ray cannot be started on this machine: {describe_error(error)}: use --executor local"
    said = "".join(traceback.format_exception(error))
    if "InvalidAuthToken" in said:
        return (
            f"--ray-address {address}: the cluster requires another token than this machine has: put the "
            "cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token, and set RAY_AUTH_MODE to token"
        )
    if "No node info found" in said:
        return (
            f"--ray-address {address}: this machine is not a node of the cluster, and Ray accepts commands on "
            f"nodes only: first type ray start --address={address}, with --num-cpus=0 --num-gpus=0 to train nothing "
            "here"
        )
    mismatch = re.search("[Vv]ersion mismatch.*", said, re.DOTALL)
    why = printable(mismatch[0])[:300] if mismatch else "what answers there is not the head of a Ray cluster"
    return f"--ray-address {address}: {why}; expected HOST:PORT of one with this version of Ray"
