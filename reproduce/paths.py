"""Where files are read, kept and listened to, tried before any work. A UserError names what to correct."""

import errno
import os
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from reproduce.errors import UserError, shown

# The variable that names the folder of data, checkpoints and locks.
HOME = "REPRODUCE_HOME"
# In that folder, the lock of a command that opens the store.
STORE_LOCK = "store.lock"
DATA_EXPECTED = "a directory, or a zip or tar, that exists"
# Bytes of a file that tell whether it is an archive.
HEAD_BYTES = 512
ZIP, GZ = b"PK\3\4", b"\x1f\x8b"


def find_home() -> Path:
    """Return the folder that the variable names, else `.reproduce` in this directory. UserError where there is none."""
    named = os.environ.get(HOME) or ".reproduce"
    try:
        return Path(named).resolve()
    # Links may lead to each other.
    except (OSError, RuntimeError) as error:
        raise UserError(f"{HOME} is {shown(named)}, which leads nowhere: name a directory") from error


def prepare_home(home: Path) -> Path:
    """Return the folder of data, checkpoints and locks, made where it does not exist.

    UserError where it cannot be written to or has no locks.
    """
    if (why := why_unwritable(home)) is not None:
        raise UserError(
            f"{home}, where data and checkpoints are kept, cannot be written to ({why}): "
            f"name another directory in {HOME}"
        )
    try:
        # Without fallback_to_soft: a soft lock stays when its process is killed.
        with suppress(Timeout), FileLock(home / STORE_LOCK, blocking=False, fallback_to_soft=False):
            pass
    except OSError as error:
        raise UserError(
            f"{home}, where data and checkpoints are kept, has no locks ({error.strerror}), without which two could "
            f"train one trial: name a directory on another file system in {HOME}"
        ) from error
    return home


def why_unwritable(directory: Path) -> str | None:
    """Return why nothing can be put into the directory, made where it does not exist; None where something can."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Permissions alone do not tell.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".try-"):
            return None
    except FileExistsError:
        return "it is a file"
    except OSError as error:
        return error.strerror


def is_real_folder(path: Path) -> bool:
    """Return whether the path is a folder and no link, which may lead to another program's files."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, if it exists. What a link leads to stays."""
    if is_real_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def default_data_dir() -> Path | None:
    """Return where to look for the images without an option: REPRODUCE_DATA_DIR, set in the container's image."""
    named = os.environ.get("REPRODUCE_DATA_DIR")
    if not named:
        return None
    if (why := why_no_data(Path(named))) is not None:
        raise UserError(f"REPRODUCE_DATA_DIR is {shown(named)}, but {why}; expected {DATA_EXPECTED}: correct it")
    return Path(named)


def why_no_data(place: Path) -> str | None:
    """Return why no data can be read there; None for a directory or an archive, whatever it contains."""
    try:
        mode = place.stat().st_mode
        if stat.S_ISDIR(mode):
            with os.scandir(place):
                return None
        if not stat.S_ISREG(mode):
            return "it is no file and no directory"
        with place.open("rb") as opened:
            return None if is_archive(opened.read(HEAD_BYTES)) else "it is a file, and no zip or tar"
    except OSError as error:
        return why_unreadable(place, error)


def is_archive(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a zip, a tar or a gz."""
    return head.startswith((ZIP, GZ)) or is_tar(head)


def is_tar(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a tar without compression."""
    return head[257:262] == b"ustar"


def why_unreadable(path: Path, error: OSError) -> str:
    """Return why the system does not read the path, in words for the user who named it."""
    if error.errno == errno.ENOENT:
        # It may be no link, or may be gone.
        with suppress(OSError):
            return f"it is a link to {path.readlink()}, which is not there"
        return "it is not there"
    if error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return error.strerror or str(error)
    closed = next((folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), None)
    return f"there is no permission to look into {closed}" if closed else "there is no permission to read it"


def check_port(host: str, port: int) -> None:
    """Raise UserError for an address on which a server could not listen."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            # As the server does.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(f"--port {port} is not free on {host} ({error.strerror}): name another") from error
        raise UserError(f"--host {shown(host)} is no address of this machine: name another") from error
