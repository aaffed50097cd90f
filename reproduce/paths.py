"""Where things are read, kept and listened to, tried before any work; a UserError names what to correct."""

import errno
import os
import shutil
import socket
import stat
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from reproduce.errors import UserError, shown

HOME = "REPRODUCE_HOME"  # the variable that says where data, checkpoints and locks are kept
STORE_LOCK = "store.lock"  # there: of whoever opens the store
DATA_EXPECTED = "a directory, or a zip or tar, that is there"
HEAD_BYTES = 512  # of a file, that tell whether it is an archive
ZIP, GZ = b"PK\3\4", b"\x1f\x8b"


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


def new_folder(inside: Path, prefix: str) -> Path:
    """An empty folder that nobody else has, with the rights that the umask leaves; those of `tempfile` are private."""
    folder = inside / f"{prefix}{uuid.uuid4().hex}"
    folder.mkdir()
    return folder


def usual_data_dir() -> Path | None:
    """Where to look for the images when no option says so: the container's image brings them along."""
    named = os.environ.get("REPRODUCE_DATA_DIR")
    if not named:
        return None
    if (why := no_data(Path(named))) is not None:
        raise UserError(f"REPRODUCE_DATA_DIR is {shown(named)}, but {why}; expected {DATA_EXPECTED}: correct it")
    return Path(named)


def no_data(place: Path) -> str | None:
    """Why no data can be read there; None where it is a directory or an archive, whatever that holds."""
    try:
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            with os.scandir(place):
                return None
        if not stat.S_ISREG(kind):
            return "it is no file and no directory"
        with place.open("rb") as opened:
            return None if is_archive(opened.read(HEAD_BYTES)) else "it is a file, and no zip or tar"
    except OSError as error:
        return why_unreadable(place, error)


def is_archive(head: bytes) -> bool:
    """Whether something that begins so is a zip, a tar or a gz."""
    return head.startswith((ZIP, GZ)) or is_tar(head)


def is_tar(head: bytes) -> bool:
    """Whether something that begins so is a tar that is not compressed."""
    return head[257:262] == b"ustar"


def why_unreadable(path: Path, error: OSError) -> str:
    """Why the system does not let something be read, in words for whoever named it."""
    if error.errno == errno.ENOENT:
        with suppress(OSError):  # it is no link, or has gone meanwhile
            return f"it is a link to {path.readlink()}, which is not there"
        return "it is not there"
    if error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return error.strerror or str(error)
    closed = next((folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), None)
    return f"there is no permission to look into {closed}" if closed else "there is no permission to read it"


def check_port(host: str, port: int) -> None:
    """Refuse an address that a server could not listen on."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(f"--port {port} cannot be had on {host} ({error.strerror}): name another") from error
        raise UserError(f"--host {shown(host)} is no address of this machine: name another") from error
