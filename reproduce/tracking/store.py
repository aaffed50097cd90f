"""A tracking store, opened: checked, made where there is none, and ready to be read and written."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import requests
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.store.db.db_types import DATABASE_ENGINES

from reproduce.errors import TrackingError, UserError
from reproduce.escaping import without_credentials
from reproduce.files import write_atomically
from reproduce.paths import STORE_LOCK, why_unwritable
from reproduce.progress import say_if_slow
from reproduce.tracking import local_store, mlflow_variables, relocation
from reproduce.tracking.heartbeat import Heartbeat
from reproduce.tracking.reader import RunReader
from reproduce.tracking.remedies import suggest_for_store
from reproduce.tracking.retrying_client import RetryingClient, configure_mlflow, retry_timeout
from reproduce.tracking.store_errors import describe_error
from reproduce.tracking.writer import RunWriter

# To wait for a store when a command starts. What takes longer is likely a wrong address.
OPENING_SECONDS = 10
# For a server or a database to take a connection, for the drivers that know a `connect_timeout`.
CONNECT_SECONDS = 5
# For a server to answer its first request.
ANSWER_SECONDS = 10
DRIVERS_WITH_TIMEOUT = ("psycopg2", "psycopg", "mysqldb", "pymysql")
# To wait for another command of this home that opens the store.
LOCK_SECONDS = 120


@dataclass(frozen=True)
class TrackingStore:
    """An open store, and what reads it, writes to it and keeps the heartbeats of its runs.

    `home` is the folder of caches, checkpoints and locks, and `home_id` tells it from all other homes. `shown_uri` is
    the address without credentials, and `file` the file of a SQLite store. New runs go to the experiment of that id.
    """

    home: Path
    home_id: str
    uri: str
    shown_uri: str
    file: Path | None
    experiment_id: str
    client: RetryingClient
    reader: RunReader
    writer: RunWriter
    heartbeat: Heartbeat

    @property
    def mlflow(self) -> MlflowClient:
        """MLflow's own client of the store, without retries."""
        return self.client.mlflow

    def check_artifacts(self) -> None:
        """Raise UserError where the experiment's artifacts go to a place on this machine that cannot be written to."""
        location = self.client.call(self.mlflow.get_experiment, self.experiment_id).artifact_location
        place = local_store.local_path(location)
        if place is not None and (why := why_unwritable(place)) is not None:
            raise UserError(
                f"{place}, where this experiment's artifacts go, cannot be written to ({why}): "
                f"make it writable, or set {mlflow_variables.EXPERIMENT_NAME} to an experiment of your own"
            )


def open_store(
    home: Path,
    uri: str | None = None,
    command: str | None = None,
    trains: bool = True,
    experiment: str = mlflow_variables.EXPERIMENT,
) -> TrackingStore:
    """Open the store for a command, and make the store and the experiment where they do not exist.

    UserError where the store cannot be used, is away, or holds no experiment of that name, and where the home cannot be
    written to.

    Args:
        home: the folder of caches, checkpoints and locks.
        uri: the store's address; None for what MLflow's variables name, by default SQLite in this directory.
        command: the command that records in it, for which `mlflow run` may have made a run.
        trains: whether the command trains. For one that does not, a SQLite store that does not exist is a UserError.
        experiment: the name of the experiment for new runs, where MLflow's variables name none.
    """
    configure_mlflow()
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    uri, file = mlflow_variables.resolve_store(mlflow.get_tracking_uri())
    client = RetryingClient(uri, min(retry_timeout(), OPENING_SECONDS))
    with _lock_home(home) as home_id:
        try:
            if file is None:
                client.call(_reach, uri)
            elif os.path.lexists(file):
                local_store.check_file(file)
                client.call(relocation.relocate, file, home)
            else:
                _make(file, home_id, trains)
            choose = mlflow_variables.choose_experiment
            # The first call of the client is what opens the store, and is made again as the other calls are.
            experiment_id = client.call(lambda: choose(client.mlflow, file, command, experiment))
        except UserError:
            raise
        except Exception as error:
            raise _explain(uri, error) from error
    return _assemble(home, home_id, file, experiment_id, client, trains)


def reopen_store(home: Path, uri: str, experiment_id: str) -> TrackingStore:
    """Open, in a worker, the store that its command has opened, and wait for it as long as the command does."""
    configure_mlflow()
    mlflow.set_tracking_uri(uri)
    uri, file = mlflow_variables.resolve_store(uri)
    return _assemble(home, _read_home_id(home), file, experiment_id, RetryingClient(uri, retry_timeout()))


def _assemble(
    home: Path, home_id: str, file: Path | None, experiment_id: str, client: RetryingClient, trains: bool = True
) -> TrackingStore:
    client = client.with_timeout(retry_timeout())
    client.call(lambda: client.mlflow)
    reader = RunReader(client, once=not trains)
    heartbeat = Heartbeat(client, home, home_id)
    writer = RunWriter(client, heartbeat, experiment_id)
    return TrackingStore(
        home, home_id, client.uri, client.shown_uri, file, experiment_id, client, reader, writer, heartbeat
    )


def _make(file: Path, home_id: str, trains: bool) -> None:
    """Make a new SQLite store, once it is certain that the command can use it."""
    if not trains:
        raise UserError(
            f"there is no tracking store {file}, expected one that has runs: set {mlflow_variables.STORE} to it, or "
            "make the runs first, for example with reproduce main"
        )
    local_store.check_file(file)
    mlflow_variables.check_for_new_store()
    with say_if_slow(f"the tracking store {file} is new and is being made, which takes some seconds"):
        local_store.make_store(file, home_id)


def check_store_to_show(home: Path) -> str:
    """Return the address of the store for MLflow's UI, with the artifacts found where a SQLite store stands now.

    Nothing is made in it. A study in which a command runs, or that cannot be written to, is shown as it is. UserError
    where MLflow cannot open the store.
    """
    configure_mlflow()
    uri, file = mlflow_variables.resolve_store(mlflow.get_tracking_uri())
    client = RetryingClient(uri, min(retry_timeout(), OPENING_SECONDS))
    if file is not None:
        local_store.check_file(file)
        if file.exists():
            with suppress(UserError):
                relocation.relocate(file, home)
    try:
        if file is None:
            client.call(_reach, uri)
        client.mlflow.search_experiments(max_results=1)
    except Exception as error:
        raise _explain(uri, error) from error
    return uri


def read_creation_time(uri: str, experiment_id: str, known: bool) -> int | None:
    """Return when the experiment was created, in ms: it tells one store from another. TrackingError without an answer.

    It waits for a store that is `known` to exist as every call does, for another as long as when a command starts.
    """
    configure_mlflow()
    client = RetryingClient(uri, retry_timeout() if known else min(retry_timeout(), OPENING_SECONDS))
    return client.call(lambda: client.mlflow.get_experiment(experiment_id)).creation_time


def _explain(uri: str, error: Exception) -> UserError:
    """Return what to raise for an error of any kind. The drivers of databases have errors of their own."""
    shown_uri = without_credentials(uri)
    refused = f"the tracking store {shown_uri} cannot be used: {describe_error(error)}"
    why = str(error) if isinstance(error, TrackingError) else refused
    return UserError(f"{why}: {suggest_for_store(shown_uri, error)}")


def _reach(uri: str) -> None:
    """Ask a server or a database once whether it is there: MLflow itself tries for minutes, without a word."""
    if uri.startswith(("http://", "https://")):
        # A server whose certificate is not trusted is there. MLflow has settings for what to trust.
        with suppress(requests.exceptions.SSLError):
            requests.head(uri, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), allow_redirects=False)
    elif uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        driver = sqlalchemy.make_url(uri).get_driver_name()
        arguments = {"connect_timeout": CONNECT_SECONDS} if driver in DRIVERS_WITH_TIMEOUT else {}
        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=arguments).connect().close()


@contextmanager
def _lock_home(home: Path) -> Iterator[str]:
    """Keep other commands of this home from opening a store, as two that make the same one would collide.

    Yield the home's id. UserError where another command keeps the lock, or where the home cannot be written to.
    """
    lock = FileLock(home / STORE_LOCK)
    locked = f"another command of {home} is opening its store"
    try:
        with say_if_slow(f"{locked}; waiting for it, for up to {LOCK_SECONDS} s"):
            lock.acquire(timeout=LOCK_SECONDS)
        home_id = _read_home_id(home)
    except Timeout as error:
        raise UserError(f"{locked}, and has been for {LOCK_SECONDS} s: end it if it is suspended") from error
    except OSError as error:
        raise UserError(
            f"{home} cannot be written to ({error.strerror}): set REPRODUCE_HOME to a directory of your own"
        ) from error
    try:
        yield home_id
    finally:
        lock.release()


def _read_home_id(home: Path) -> str:
    """Return what tells this home from all others. The first command that uses the home makes it up."""
    file = home / "id"
    home.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_atomically(file, uuid.uuid4().hex.encode())
    return file.read_text()
