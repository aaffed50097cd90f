"""Ray, for as long as a command lasts: a cluster that is there, or one on this machine. It says nothing of its own."""

import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.escaping import printable, without_credentials
from reproduce.progress import say, say_if_slow
from reproduce.training import provenance

LOCAL = "local"
CONNECT_SECONDS = 10  # to wait for somebody at an address
ANSWER_SECONDS = 40  # for Ray itself to find out that something else answers there
OBJECT_STORE_BYTES = 80 * 2**20  # nothing but numbers goes through it
# Ray's news, advice and warnings are kept out of what a command says, unless the environment asks for them.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# At a wrong address, or on a machine that is no node, Ray would try for minutes.
IMPATIENT = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_py_gcs_connect_timeout_s": "15",
    "RAY_gcs_server_request_timeout_seconds": "15",
}


@contextmanager
def connect(address: str | None) -> Iterator[tuple[Any, str]]:
    """Ray's module and the address of the head that it is connected to.

    `address` is the cluster's, HOST:PORT; None is the one that was started on this machine. Where there is none, and
    for `local`, Ray is started on this machine, and stopped in the end. UserError where nobody answers, or not as a Ray
    cluster.
    """
    found = address or _started_here() or LOCAL
    line = f"waiting for the Ray cluster at {found} to answer, for up to {ANSWER_SECONDS} s"
    with say_if_slow(line):
        why = silent(found) if found != LOCAL else None
    if why is not None:
        raise UserError(
            f"--ray-address {found}: nobody answers there ({why}); expected the head of a Ray cluster: start one with "
            "ray start --head, or leave the option and RAY_ADDRESS out"
        )
    cores = provenance.cores()
    for name, value in (QUIET if found == LOCAL else QUIET | IMPATIENT).items():
        os.environ.setdefault(name, value)
    _choose_token(found)
    import ray

    # The only way to keep what a cluster says of lost workers and nodes off the standard output: we say it ourselves.
    ray._private.worker._worker_logs_enabled = False
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    before = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        if found == LOCAL:
            # For Ray's sockets, whose names may have 107 letters.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp",
                                                                     ignore_cleanup_errors=True))  # fmt: skip
            say(f"starting Ray on this machine, with {cores} cores, for this command")
            quiet |= {"num_cpus": cores, "include_dashboard": False, "_temp_dir": folder,
                      "object_store_memory": OBJECT_STORE_BYTES}  # fmt: skip
        stack.callback(ray.shutdown)
        try:
            with say_if_slow(line) if found != LOCAL else nullcontext(), _silence():
                ray.init(address=found, **quiet)
        except SystemExit:  # Ray's own way with SIGTERM, which is not ours
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
            raise
        except Exception as error:
            raise UserError(_refusal(found, error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)
        yield ray, ray.get_runtime_context().gcs_address


def _started_here() -> str | None:
    """The address of the cluster that this user's `ray start` began on this machine, if it is still there.

    Another user's would run our trials as that user; and anybody can put such a file there.
    """
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
    with suppress(OSError):
        address = file.read_text(encoding="utf-8").strip()
        if address and file.stat().st_uid == os.getuid() and silent(address) is None:
            return address
    return None


def silent(address: str) -> str | None:
    """Why nobody answers at the address; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:  # of a port; or of a name that no name server is asked for, as a..b
        return "it is no address"
    return None


def _choose_token(address: str) -> None:
    """Have this process show Ray's token where there is one; what it starts itself asks for one that nobody knows."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address == LOCAL:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or Path(
        "~/.ray/auth_token"
    ).expanduser().exists():
        os.environ["RAY_AUTH_MODE"] = "token"  # as `ray start` does, and ray.init does not


@contextmanager
def _silence() -> Iterator[None]:
    """Without what Ray's own threads write to the standard error, past Python."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _refusal(address: str, error: BaseException) -> str:
    said, cause = [], error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    if address == LOCAL:
        return f"Ray cannot be started on this machine: {brief(error)}: use --executor local"
    if any("InvalidAuthToken" in text for text in said):
        return (
            f"--ray-address {address}: the cluster asks for another token than this machine has: have RAY_AUTH_TOKEN "
            "or ~/.ray/auth_token hold the cluster's, and RAY_AUTH_MODE say token"
        )
    if any("No node info found" in text for text in said):
        return (
            f"--ray-address {address}: this machine is none of the cluster's nodes, through which alone Ray lets a "
            f"command in: first type ray start --address={address}, and --num-cpus=0 --num-gpus=0 to train nothing here"
        )
    why = next((text for text in said if "ersion mismatch" in text), "what answers there is no head of a Ray cluster")
    return f"--ray-address {address}: {printable(why)[:300]}; expected HOST:PORT of one with this version of Ray"


def brief(error: BaseException) -> str:
    """What an error says, in one line that can be shown."""
    return printable(without_credentials(str(error) or type(error).__name__))[:300]
