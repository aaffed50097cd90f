"""What to do about an error: the one place that decides which remedy goes with which cause.

A remedy is given only where it helps. It says that the same command resumes only after causes that the tests
create.
"""

import os
import shlex
from importlib.util import find_spec

from reproduce.errors import StoreAwayError, TrackingError, TrialsFailedError

RESUMES = "what is done is recorded; the same command resumes from there"
# What commands that record no trials say in its place.
COMMANDS_WITHOUT_TRIALS = {
    "report": "nothing that was recorded is lost; the same command writes the report again",
    "verify": "nothing is lost; the same command judges again",
    "data": "complete files are kept; the same command gets the others",
    "ui": "nothing is lost",
}
UNSET, NAME_ANOTHER = "correct MLFLOW_TRACKING_URI, or unset it", "set MLFLOW_TRACKING_URI to another store"
NO_ROOM = ("disk is full", "no space left", "quota exceeded")
NO_RIGHT = ("readonly database", "read-only", "permission denied", "operation not permitted")
# Words of stores and of MLflow in an error, in lower case, and what then helps.
STORE_REMEDIES = (
    (("out-of-date database schema", "can't locate revision"), "make a copy of it, then run: mlflow db upgrade {uri}"),
    (("must be in the 'active' state",), "restore the experiment, or set MLFLOW_EXPERIMENT_NAME to another"),
    (("no module named", "can't load plugin"), "use an installed driver, such as postgresql+psycopg2://… or sqlite:///…"),
    (("failed to convert", "invalid poolclass", "active workspace is required"),
     "correct that MLflow setting, or unset its variable"),
    (NO_ROOM, "make room on its disk"),
    (NO_RIGHT, "correct its permissions"),
    (("authentication failed", "no password supplied", "error code 401", "error code 403"),
     "correct the user name and the password for it"),
    (("malformed", "disk i/o error"), "replace it with a copy of it, or set MLFLOW_TRACKING_URI to another store"),
)  # fmt: skip


def suggest_for_store(uri: str, error: Exception) -> str:
    """Return what to do about a store that could not be opened, by the error. `uri` is without credentials."""
    # SQLAlchemy's usual driver for PostgreSQL.
    if uri.startswith("postgresql://") and find_spec("psycopg") is None:
        return "start it with postgresql+psycopg2://, for the installed driver"
    for words, remedy in STORE_REMEDIES:
        if any(word in str(error).lower() for word in words):
            return remedy.format(uri=shlex.quote(uri))
    if isinstance(error, StoreAwayError):
        return "wait until it is free, and try again" if uri.startswith("sqlite") else f"start it, or {UNSET}"
    return UNSET if os.environ.get("MLFLOW_TRACKING_URI") else NAME_ANOTHER


def suggest_after(error: BaseException, command: str) -> str:
    """Return what is true once a command has ended by that error or interruption, and what to do next."""
    kept = COMMANDS_WITHOUT_TRIALS.get(command)
    said = f"{error} {getattr(error, 'strerror', '')}".lower()
    if isinstance(error, TrialsFailedError):
        return "what is done is recorded; the same command tries the failed trials again"
    if isinstance(error, StoreAwayError):
        return kept or "what is done is recorded; once the store answers, the same command resumes from there"
    if isinstance(error, TrackingError | OSError):
        if any(words in said for words in NO_ROOM):
            return f"make room: {kept or RESUMES}"
        if any(words in said for words in NO_RIGHT):
            return f"correct its permissions: {kept or RESUMES}"
        return kept or "what is done is in the store, or in the checkpoints"
    return kept or RESUMES
