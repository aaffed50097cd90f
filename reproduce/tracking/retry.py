"""Wait for a tracking store that is away for a while, and tell it from one that refuses.

A database locked by somebody else, a server that restarts or a network that fails come back; a full disk, a database
that cannot be written to or a run that is not there do not, and end a command at once. Of a server's own troubles, its
full disk say, MLflow passes on only that there are some: those are waited for.
"""

import functools
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from sqlalchemy.exc import OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.escaping import printable, sentences, without_credentials
from reproduce.progress import said_if_slow, say

PATIENCE = "REPRODUCE_STORE_PATIENCE"  # seconds, in the environment
USUAL_SECONDS = 300  # a server's restart, or somebody's backup of the database, takes less
LONGEST_WAIT_SECONDS = 10
# What SQLite, PostgreSQL and the system say of what does not pass by itself; MLflow calls all of it temporary.
LASTING = ("disk is full", "readonly database", "no such table", "no such column", "unable to open", "disk i/o error",
           "malformed", "not a database", "no space left on device", "authentication failed", "no password supplied",
           "no pg_hba.conf entry", "does not exist")  # fmt: skip
# All that a call may raise: those of requests are OSErrors.
TROUBLES = (MlflowException, OperationalError, sqlite3.OperationalError, OSError)
PASSING_STATUS = (408, 429, 500, 502, 503, 504)


def seconds() -> float:
    """How long to wait for the store: 5 minutes, or as the environment says. UserError where that is no number."""
    text = os.environ.get(PATIENCE, str(USUAL_SECONDS))
    try:
        wanted = float(text)
    except ValueError:
        wanted = -1.0
    if not 0 <= wanted < float("inf"):
        raise UserError(f"{PATIENCE} is {text!r}, expected a number of seconds from 0, as 300")
    return wanted


def is_away(error: BaseException) -> bool:
    """Whether the store may be back soon, to judge by the error."""
    while error is not None:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return error.response.status_code in PASSING_STATUS
        if isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.RetryError):
            return True
        if isinstance(error, requests.exceptions.ChunkedEncodingError):  # cut off in the middle of its answer
            return True
        # What a database itself says, where there is no server before it.
        databases = isinstance(error, OperationalError | sqlite3.OperationalError)
        temporary = isinstance(error, MlflowException) and error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE)
        if temporary or databases:
            return not any(words in str(error).lower() for words in LASTING)
        error = error.__cause__ or error.__context__
    return False


class Patient:
    """An MLflow client whose calls are made again while the store is away.

    Each call raises StoreAwayError once `patience` seconds have gone without an answer, and TrackingError at once where
    the store refuses. A call may so be made twice, where its answer was lost: see `Connection.create_run`.
    """

    def __init__(self, client: Any, uri: str, patience: float) -> None:
        self.at_once = client
        self.uri, self.patience = uri, patience

    def __getattr__(self, name: str) -> Callable:
        return functools.partial(self.persist, getattr(self.at_once, name))

    def persist(self, call: Callable, *arguments: Any, **named: Any) -> Any:
        """What the call returns, made as often as it takes."""
        announced, was_away = threading.Event(), threading.Event()
        wait = f"waiting for it, for up to {self.patience:g} s"

        def announce(state: RetryCallState) -> None:
            was_away.set()
            if not announced.is_set():
                announced.set()
                say(f"{self.away(state.outcome.exception())}; {wait}")

        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and is_away(error)),
            wait=wait_exponential(multiplier=0.5, max=LONGEST_WAIT_SECONDS),
            stop=stop_after_delay(self.patience),
            before_sleep=announce,
            reraise=True,
        )

        def attempt() -> Any:
            with said_if_slow(f"the tracking store {self.uri} takes long to answer; {wait}", announced):
                return call(*arguments, **named)

        try:
            result = attempts(attempt)
        except TROUBLES as error:
            if is_away(error):
                raise StoreAwayError(self.away(error)) from error
            raise TrackingError(f"the tracking store {self.uri} refused: {one_line(error)}") from error
        if was_away.is_set():
            say(f"the tracking store {self.uri} is back")
        return result

    def away(self, error: BaseException) -> str:
        """What is said of a store that is away."""
        return f"the tracking store {self.uri} does not answer ({one_line(error)})"


def one_line(error: BaseException) -> str:
    """What an error says, in a line that can be shown and recorded."""
    said = _cause(error) or str(error).partition("[SQL:")[0]  # of SQLAlchemy's, without its statements
    return sentences(printable(without_credentials(said)))


def _cause(error: object) -> str | None:
    """What the system itself said of a connection that failed, deep inside what the libraries make of it."""
    while isinstance(error, BaseException):
        if isinstance(error, OSError) and error.strerror:
            return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        error = error.__cause__ or error.__context__ or inner
    return None
