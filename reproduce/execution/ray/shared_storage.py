"""Whether a node of a cluster uses the tracking store, the artifacts and the checkpoints that the command uses."""

import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from reproduce.errors import StoreAwayError, UserError
from reproduce.escaping import without_credentials
from reproduce.paths import HOME
from reproduce.tracking import local_store
from reproduce.tracking.store import TrackingStore, read_creation_time
from reproduce.tracking.store_errors import describe_error

TOKEN = ".seen-by-"


@dataclass(frozen=True)
class SharedStorage:
    """The parts of the command's storage that a node has to find.

    `created_at` is when the store's experiment was made, in ms. `machine` is the only one that may use the store, where
    that is a SQLite file. Tokens are files that the command keeps locked for as long as it runs: `home_token` is there
    on nodes that share the command's home, each of `tokens`, by what it stands for, has to be there on all.
    """

    uri: str
    experiment_id: str
    created_at: int | None
    machine: str | None
    home_token: Path
    tokens: tuple[tuple[str, Path], ...]


@contextmanager
def open_to_nodes(store: TrackingStore) -> Iterator[SharedStorage]:
    """Put a token into each directory that nodes may or have to share, for the block."""
    experiment = store.client.call(store.mlflow.get_experiment, store.experiment_id)
    folders = {}
    if store.file is not None:
        folders[f"the tracking store {store.shown_uri}"] = store.file.parent
    if (artifacts := local_store.local_path(experiment.artifact_location)) is not None:
        folders[f"the artifacts in {artifacts}"] = artifacts
    prefix = f"{TOKEN}{store.home_id}-"
    with ExitStack() as stack:
        home_token = stack.enter_context(_token(store.home, prefix))
        tokens = tuple((what, stack.enter_context(_token(folder, prefix))) for what, folder in folders.items())
        machine = platform.node() if store.file is not None else None
        yield SharedStorage(store.uri, store.experiment_id, experiment.creation_time, machine, home_token, tokens)


@contextmanager
def _token(folder: Path, prefix: str) -> Iterator[Path]:
    """Keep a locked file in the folder for the block, and remove those of commands that were killed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{prefix}*"):
        with suppress(Timeout), FileLock(old, blocking=False):
            old.unlink(missing_ok=True)
    token = folder / f"{prefix}{uuid.uuid4().hex}"
    # Another command would remove a token that is not locked yet: it gets its name afterwards.
    with FileLock(token.with_name(f".{token.name}")) as lock:
        Path(lock.lock_file).rename(token)
        try:
            yield token
        finally:
            token.unlink(missing_ok=True)


def shares_home(storage: SharedStorage) -> bool:
    """Return whether this node's home is the command's."""
    return storage.home_token.exists()


def check(storage: SharedStorage, is_known: bool) -> None:
    """Refuse a node that uses other storage than the command, or that does not see its locks. UserError says why.

    Where the store `is_known` to be there, as other trials use it, it is waited for; StoreAwayError where it stays
    away.
    """
    for what, token in storage.tokens:
        if not token.exists():
            raise UserError(
                f"it sees its own disk in place of {what}: set MLFLOW_TRACKING_URI to a server that all nodes reach "
                "(mlflow server), or be in a directory that they share"
            )
    if storage.machine not in (None, platform.node()):
        raise UserError(
            f"the tracking store {storage.uri} is a SQLite file of {storage.machine}, which machines must not share: "
            "set MLFLOW_TRACKING_URI to a server that all nodes reach (mlflow server)"
        )
    if shares_home(storage):
        with suppress(Timeout), FileLock(storage.home_token, blocking=False):
            raise UserError(
                f"{storage.home_token.parent} is on a file system that does not share locks between machines, so two "
                f"could train one trial: set {HOME} to a directory whose locks all nodes see, or to one that is each "
                "node's own"
            )
    uri = without_credentials(storage.uri)
    try:
        created_at = read_creation_time(storage.uri, storage.experiment_id, is_known)
    except UserError:
        raise
    # A database's driver raises errors of its own, or is not installed.
    except Exception as error:
        if is_known and isinstance(error, StoreAwayError):
            raise
        raise UserError(
            f"it cannot use the tracking store {uri} ({describe_error(error)}): set MLFLOW_TRACKING_URI to one that "
            "all nodes reach, and set its credentials in each node's environment"
        ) from error
    if created_at != storage.created_at:
        raise UserError(
            f"at {uri} it finds another store than this command: set MLFLOW_TRACKING_URI to one that is the same "
            "from every node"
        )
