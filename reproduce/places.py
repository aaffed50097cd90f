"""Where things are read, kept and listened to, tried before any work; a UserError names what to correct."""

import errno
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from reproduce.errors import UserError, shown

HOME = "REPRODUCE_HOME"  # the variable that says where data, checkpoints and locks are kept
STORE_LOCK = "store.lock"  # there: of whoever opens the store


def own(place: Path, variable: str) -> Path:
    """The directory of data and checkpoints, made if need be; `variable` is what moves it."""
    if (why := unwritable(place)) is not None:
        raise UserError(
            f"{place}, where data and checkpoints are kept, cannot be written to ({why}): "
            f"name another directory in {variable}"
        )
    try:
        with suppress(Timeout), FileLock(place / STORE_LOCK, blocking=False, fallback_to_soft=False):
            pass  # a soft lock would outlive whoever held it
    except OSError as error:
        raise UserError(
            f"{place}, where data and checkpoints are kept, gives no locks ({error.strerror}), without which two could "
            f"train one trial: name a directory on another file system in {variable}"
        ) from error
    return place


def unwritable(directory: Path) -> str | None:
    """Why nothing can be put into the directory, which is made if need be; None where it can."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".try-"):  # permissions alone do not tell
            return None
    except FileExistsError:
        return "it is a file"
    except OSError as error:
        return error.strerror


def is_real_folder(path: Path) -> bool:
    """Whether a folder stands there itself: a link leads to what is not ours to read or remove."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Have nothing there, whatever was; what a link leads to stays."""
    if is_real_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def usual_data_dir() -> Path | None:
    """Where to look for the images when no option says so: the container's image brings them along."""
    named = os.environ.get("REPRODUCE_DATA_DIR")
    if named and not _is_directory(Path(named)):
        raise UserError(f"REPRODUCE_DATA_DIR is {shown(named)}, expected a directory that is there: correct it")
    return Path(named) if named else None


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def check_output(output: Path) -> None:
    """Refuse what no report could be written to, whatever it holds. Nothing is made there yet."""
    try:
        place = output.resolve()
        there = place.exists()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise UserError(f"--output {output} leads nowhere: name a directory") from error
    directory = place if there else next((parent for parent in place.parents if parent.exists()), place)
    why = unwritable(directory) if directory.is_dir() else os.strerror(errno.ENOTDIR)
    if why is not None:
        raise UserError(f"--output {output}: {directory} cannot be written to ({why}): name another directory")


def check_port(host: str, port: int) -> None:
    """Refuse an address that a server could not listen on."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(f"--port {port} cannot be had on {host} ({error.strerror}): name another") from error
        raise UserError(f"--host {shown(host)} is no address of this machine: name another") from error
