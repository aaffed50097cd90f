"""Whether a tracking store that failed may be back soon, and what its error says in one line.

A database that is locked, a server that restarts and a network that fails come back. A full disk, a database that
cannot be written to and a run that does not exist do not. Of a server's own troubles, such as its full disk, MLflow
passes on only that there are some: those count as temporary.
"""

import sqlite3

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from sqlalchemy.exc import OperationalError

from reproduce.escaping import printable, sentences, without_credentials

# What SQLite, PostgreSQL and the system say of what stays as it is. MLflow calls all of it temporary.
LASTING = ("disk is full", "readonly database", "no such table", "no such column", "unable to open", "disk i/o error",
           "malformed", "not a database", "no space left on device", "authentication failed", "no password supplied",
           "no pg_hba.conf entry", "does not exist")  # fmt: skip
# All that a call of a store may raise. The errors of requests are OSErrors.
STORE_ERRORS = (MlflowException, OperationalError, sqlite3.OperationalError, OSError)
TEMPORARY_STATUS = (408, 429, 500, 502, 503, 504)
LOST_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.RetryError,
    requests.exceptions.ChunkedEncodingError,
)


def is_temporary(error: BaseException | None) -> bool:
    """Return whether the store may be back soon, to judge by the error and its causes."""
    while error is not None:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return error.response.status_code in TEMPORARY_STATUS
        if isinstance(error, LOST_CONNECTION):
            return True
        from_database = isinstance(error, OperationalError | sqlite3.OperationalError)
        said_by_mlflow = isinstance(error, MlflowException) and error.error_code == ErrorCode.Name(
            TEMPORARILY_UNAVAILABLE
        )
        if from_database or said_by_mlflow:
            return not any(words in str(error).lower() for words in LASTING)
        error = error.__cause__ or error.__context__
    return False


def describe_error(error: BaseException) -> str:
    """Return what an error says, in one line that can be shown and recorded."""
    # SQLAlchemy adds its statements.
    said = _system_message(error) or str(error).partition("[SQL:")[0]
    return sentences(printable(without_credentials(said))) or type(error).__name__


def _system_message(error: object) -> str | None:
    """Return what the system said of a connection that failed, deep inside the libraries' own errors."""
    while isinstance(error, BaseException):
        if isinstance(error, requests.Timeout):
            return "no answer in time"
        if isinstance(error, OSError) and error.strerror:
            return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        error = error.__cause__ or error.__context__ or inner
    return None
