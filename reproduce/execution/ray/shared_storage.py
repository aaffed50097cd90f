"""Whether a node of a cluster sees the tracking store, the artifacts and the checkpoints that the command sees."""

import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from reproduce.errors import StoreAwayError, UserError
from reproduce.paths import HOME
from reproduce.tracking.store import read_creation_time
from reproduce.tracking.store_errors import describe_error

TOKEN = ".seen-by-"


@dataclass(frozen=True)
class Seen:
    """How a node finds out whether it sees what the command sees.

    The tokens are files that the command holds a lock on for as long as it runs. `machine` is the only one that may use
    the store, where that is a file.
    """

    uri: str
    shown_uri: str
    experiment_id: str
    created_at: int
    machine: str | None
    in_home: Path
    elsewhere: tuple[tuple[str, Path], ...]  # of what, and the token


@contextmanager
def to_be_seen(store: Any) -> Iterator[Seen]:
    """What this command sees of the store, with a token in each directory that the nodes may, or have to, share."""
    experiment = store.client.call(store.mlflow.get_experiment, store.experiment_id)
    folders, machine = {}, None
    if store.file is not None:
        machine = platform.node()
        folders[f"the tracking store {store.shown_uri}"] = store.file.parent
    root = urlsplit(experiment.artifact_location)
    if root.scheme in ("", "file"):
        folders[f"the artifacts in {root.path}"] = Path(unquote(root.path) if root.scheme else root.path)
    ours = f"{TOKEN}{store.home_id}-"
    with ExitStack() as stack:
        in_home = stack.enter_context(_token(store.home, ours))
        elsewhere = tuple((what, stack.enter_context(_token(folder, ours))) for what, folder in folders.items())
        yield Seen(
            store.uri, store.shown_uri, store.experiment_id, experiment.creation_time, machine, in_home, elsewhere
        )


@contextmanager
def _token(folder: Path, ours: str) -> Iterator[Path]:
    """A file of that name in the folder, locked; those that nobody holds any more are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{ours}*"):
        with suppress(Timeout), FileLock(old, blocking=False):  # of a command that was killed
            old.unlink(missing_ok=True)
    token = folder / f"{ours}{uuid.uuid4().hex}"
    lock = FileLock(token.with_name(f".{token.name}"))  # it bears that name only once it is locked
    with lock:
        Path(lock.lock_file).rename(token)
        try:
            yield token
        finally:
            token.unlink(missing_ok=True)


def check(seen: Seen, known: bool) -> None:
    """UserError where this node does not see what the command sees, or does not see its locks.

    A store that is `known` to be there, as others use it already, is waited for; StoreAwayError where it stays away.
    """
    for what, token in seen.elsewhere:
        if not token.exists():
            raise UserError(
                f"it does not see {what} but its own disk: have MLFLOW_TRACKING_URI name a server that all nodes reach "
                "(mlflow server), or be in a directory that they share"
            )
    if seen.machine not in (None, platform.node()):
        raise UserError(
            f"the tracking store {seen.shown_uri} is a SQLite file of {seen.machine}, which machines must not share: "
            "have MLFLOW_TRACKING_URI name a server that all nodes reach (mlflow server)"
        )
    if shares_home(seen):
        with suppress(Timeout), FileLock(seen.in_home, blocking=False):
            raise UserError(
                f"{seen.in_home.parent} is on a file system that keeps a machine's locks to itself, so that two could "
                f"train one trial: have {HOME} name a directory whose locks all nodes see, or one that is each node's "
                "own"
            )
    _check_store(seen, known)


def shares_home(seen: Seen) -> bool:
    """Whether this node's home is the command's."""
    return seen.in_home.exists()


def _check_store(seen: Seen, known: bool) -> None:
    try:
        created_at = read_creation_time(seen.uri, seen.experiment_id, known)
    except UserError:
        raise
    except Exception as error:  # a database's driver raises what it likes, or is not installed
        if known and isinstance(error, StoreAwayError):
            raise
        raise UserError(
            f"it cannot use the tracking store {seen.shown_uri} ({describe_error(error)}): have "
            "MLFLOW_TRACKING_URI name one that all nodes reach, and give the nodes what that asks for in their own "
            "environment"
        ) from error
    if created_at != seen.created_at:
        raise UserError(
            f"at {seen.shown_uri} it finds another store than this command: have MLFLOW_TRACKING_URI name one that is "
            "the same from every node"
        )
