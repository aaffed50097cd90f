"""Whether a node of a cluster sees the tracking store, the artifacts and the data that the command sees."""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from reproduce import connection, patience
from reproduce.errors import UserError

TOKEN, STALE_SECONDS = ".seen-by-", 24 * 3600


@dataclass(frozen=True)
class Seen:
    """How a node finds out whether it sees what the command sees."""

    uri: str
    shown_uri: str
    experiment_id: str
    created_at: int
    home_id: str
    tokens: dict[str, Path]  # files that are there while the command runs


@contextmanager
def to_be_seen(store: Any) -> Iterator[Seen]:
    """What this command sees of the store, with a token in each directory that the nodes would have to share."""
    experiment = store.client.get_experiment(store.experiment_id)
    folders = {}
    if store.uri.startswith(connection.SQLITE):
        file = Path(store.uri.removeprefix(connection.SQLITE).partition("?")[0])
        folders[f"the tracking store {store.shown_uri}"] = file.parent
    root = urlsplit(experiment.artifact_location)
    if root.scheme in ("", "file"):
        folders[f"the artifacts in {root.path}"] = Path(unquote(root.path) if root.scheme else root.path)
    ours = f"{TOKEN}{store.home_id}-"
    with ExitStack() as stack:
        tokens = {}
        for what, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"{ours}*"):  # of a command that was killed
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink(missing_ok=True)
            tokens[what] = folder / f"{ours}{uuid.uuid4().hex}"
            tokens[what].touch()
            stack.callback(tokens[what].unlink, missing_ok=True)
        yield Seen(store.uri, store.shown_uri, store.experiment_id, experiment.creation_time, store.home_id, tokens)


def check(seen: Seen) -> None:
    """UserError where this node does not see what the command sees."""
    check_files(seen)
    _check_store(seen)


def check_files(seen: Seen) -> None:
    """UserError where this node has other disks than the command."""
    for what, token in seen.tokens.items():
        if not token.exists():
            raise UserError(
                f"it does not see {what} but its own disk: have MLFLOW_TRACKING_URI name a server that all nodes reach "
                "(mlflow server), or be in a directory that they share"
            )


def _check_store(seen: Seen) -> None:
    try:
        created_at = connection.created_at(seen.uri, seen.experiment_id)
    except UserError:
        raise
    except Exception as error:  # a database's driver raises what it likes, or is not installed
        raise UserError(
            f"it cannot use the tracking store {seen.shown_uri} ({patience.one_line(error)}): have "
            "MLFLOW_TRACKING_URI name one that all nodes reach, and give the nodes what that asks for in their own "
            "environment"
        ) from error
    if created_at != seen.created_at:
        raise UserError(
            f"at {seen.shown_uri} it finds another store than this command: have MLFLOW_TRACKING_URI name one that is "
            "the same from every node"
        )
