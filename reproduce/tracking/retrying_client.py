"""The tracking store that MLflow's variables name: open it, look through its runs, make one.

Nothing here knows what our runs hold.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import mlflow
import requests
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow.entities import Run, RunTag, ViewType
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.tracking.context.registry import resolve_tags

from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.escaping import without_credentials
from reproduce.files import write_atomically
from reproduce.paths import STORE_LOCK, unwritable
from reproduce.progress import said_if_slow, say
from reproduce.tracking import local_store, mlflow_variables, remedies, retry
from reproduce.tracking.retry import Patient, one_line

OPENING_SECONDS = 10  # to wait for a store when a command starts: longer, and the address is likely wrong
REACHING_SECONDS = (5, 10)  # for a server to take a connection, and then to answer
DRIVERS_WITH_LIMIT = ("psycopg2", "psycopg", "mysqldb", "pymysql")  # those that know connect_timeout
SILENT_RUN_SECONDS = 120  # without a sign of life, which comes every minute: then nobody is at work on a run
LOCK_SECONDS = 120  # to wait for another command of this home that opens the store
# Variables of MLflow's that would change what is recorded: metrics of a model that is not ours, or written some time.
SET_ASIDE = ("MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_ENABLE_ASYNC_LOGGING")
PAGE = 1000  # experiments, or runs, fetched at a time


class Connection:
    """The store of that address, else of MLflow's usual variables; by default MLflow's own, SQLite in this directory.

    `home` is the directory of caches, checkpoints and locks, and `home_id` what tells it from all others. `command` is
    the one that is to record, for which `mlflow run` may have made a run. `file` is a SQLite store's, else None.
    Without an `experiment_id` it is a command's first, and a store that is not there is a UserError; so is a home that
    cannot be written to.
    """

    def __init__(
        self, home: Path, uri: str | None = None, experiment_id: str | None = None, command: str | None = None
    ) -> None:
        _have_mlflow_quiet_and_quick()
        # What chose the store, as the user knows it.
        self.is_named = uri is not None or bool(os.environ.get("MLFLOW_TRACKING_URI"))
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        self.uri, self.file = mlflow_variables.store(mlflow.get_tracking_uri(), self.is_named)
        self.shown_uri = without_credentials(self.uri)
        self.home = home
        # A worker finds all of it there, and waits for the store as long as its command would.
        with _alone(home) if experiment_id is None else nullcontext(_home_id(home)) as self.home_id:
            wait = retry.seconds()
            knocking = Patient(None, self.shown_uri, wait if experiment_id else min(wait, OPENING_SECONDS))
            try:
                if experiment_id is None:
                    knocking.persist(self._have_it_whole)
                self.client = Patient(knocking.persist(mlflow.MlflowClient, self.uri), self.shown_uri, wait)
                self.experiment_id = experiment_id or knocking.persist(
                    mlflow_variables.experiment, self.client.at_once, self.file, command
                )
            except UserError:
                raise
            except TrackingError as error:
                if experiment_id:  # it was there before
                    raise
                raise UserError(f"{error}: {self.remedy(error)}") from error
            except Exception as error:  # a database's driver raises what it likes, or is not installed
                why = f"the tracking store {self.shown_uri} cannot be used: {one_line(error)}"
                raise UserError(f"{why}: {self.remedy(error)}") from error

    def remedy(self, error: BaseException) -> str:
        """What a user can do about a store that cannot be used, by what was raised."""
        return remedies.of_store(self.shown_uri, str(error), self.is_named, isinstance(error, StoreAwayError))

    def _have_it_whole(self) -> None:
        """Have the store there with all of its tables, and its artifacts found beside it; UserError where it cannot."""
        if self.file is None:
            _reach(self.uri)
            return
        local_store.check(self.file)
        if not self.file.exists():
            local_store.make(self.file, self.home_id)
        else:
            _put_right(self.file, self.home)

    def check_artifacts(self) -> None:
        """UserError where the experiment's artifacts go to a place on this machine that cannot be written to."""
        place = local_store.path_of(self.client.get_experiment(self.experiment_id).artifact_location)
        if place is not None and (why := unwritable(place)) is not None:
            raise UserError(
                f"{place}, where this experiment's artifacts go, cannot be written to ({why}): "
                f"make it writable, or have {mlflow_variables.EXPERIMENT_NAME} name an experiment of your own"
            )

    def create_run(self, tags: dict[str, str], name: str) -> str:
        """A new run's id. Where an answer was lost on the way and the store asked again, there is still but one run."""
        tags = resolve_tags(tags | self.sign_of_life() | {"creation": uuid.uuid4().hex})
        self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        made, *others = self.runs(f"tags.creation = '{tags['creation']}'")
        for other in others:
            self.client.delete_run(other.info.run_id)
        return made.info.run_id

    def sign_of_life(self) -> dict[str, str]:
        """The tags by which those who have another home see that a run of this one is at work."""
        return {"home": self.home_id, "alive_at": str(int(time.time())), "patience": f"{self.client.patience:.0f}"}

    def runs(self, condition: str, client: Any = None) -> list[Run]:
        """All runs that meet the condition, in every experiment, the newest first."""
        client = client or self.client
        experiments = [
            experiment.experiment_id
            for experiment in _all_pages(lambda token: client.search_experiments(max_results=PAGE, page_token=token))
        ]
        newest_first = ["attributes.start_time DESC"]
        return _all_pages(
            lambda token: client.search_runs(
                experiments, condition, ViewType.ACTIVE_ONLY, PAGE, newest_first, page_token=token
            )
        )


def store_to_show(home: Path) -> str:
    """Return the address of the store for MLflow's UI, with the artifacts found where a SQLite store stands now.

    Nothing is made in it, and a study that is at work or cannot be written to is shown as it is. UserError where MLflow
    could not open it.
    """
    _have_mlflow_quiet_and_quick()
    is_named = bool(os.environ.get(mlflow_variables.STORE))
    uri, file = mlflow_variables.store(mlflow.get_tracking_uri(), is_named)
    if file is None:
        return uri
    local_store.check(file)
    if file.exists():
        with suppress(UserError):
            _put_right(file, home)
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:
        why = f"the tracking store {uri} cannot be used: {one_line(error)}"
        raise UserError(f"{why}: {remedies.of_store(uri, str(error), is_named)}") from error
    return uri


def _put_right(file: Path, home: Path) -> None:
    """Have a store in SQLite find its artifacts beside it, and say so where it stood elsewhere before."""
    move = local_store.put_right(file, lambda: _check_nobody_at_work(file, home))
    if move is not None:
        now = "its record leads to its artifacts here now"
        gone = "its earlier artifacts are not here, and new ones go here"
        here = file.resolve().parent
        say(f"the study in {here} was in {move.before} before: {now if move.with_artifacts else gone}")


def _check_nobody_at_work(file: Path, home: Path) -> None:
    """UserError while a command is at work in the study under the path where it stood before, as in a container."""
    for run_id, alive_at in local_store.running(file):
        if _is_at_work(home / "parents" / f"{run_id}.lock", alive_at):
            raise UserError(
                f"run {run_id} is at work in this study under another path, as in a container: wait until it has ended "
                f"or, if it was killed, {SILENT_RUN_SECONDS} s"
            )


def _is_at_work(lock: Path, alive_at: int) -> bool:
    if not lock.exists():  # of another home
        return time.time() - alive_at <= SILENT_RUN_SECONDS
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def as_tags(tags: dict[str, str]) -> list[RunTag]:
    """Tags as MLflow takes many of them at once."""
    return [RunTag(key, value) for key, value in tags.items()]


def _all_pages(fetch: Callable) -> list:
    """All that a search of MLflow's finds, which gives it by the page, each with a token for the next."""
    found, token = [], None
    while True:
        page = fetch(token)
        found += page
        token = page.token
        if not token:
            return found


def _reach(uri: str) -> None:
    """Ask a server or a database once whether it is there: MLflow itself tries for minutes, without a word."""
    if uri.startswith(("http://", "https://")):
        with suppress(requests.exceptions.SSLError):  # it is there, and MLflow knows what to trust
            requests.head(uri, timeout=REACHING_SECONDS, allow_redirects=False)
    elif uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        driver = sqlalchemy.make_url(uri).get_driver_name()
        within = {"connect_timeout": REACHING_SECONDS[0]} if driver in DRIVERS_WITH_LIMIT else {}
        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=within).connect().close()


def created_at(uri: str, experiment_id: str, known: bool) -> int:
    """When the experiment was made, in ms: it tells one store from another. TrackingError where it cannot be had.

    For a store that is `known` to be there it waits as everybody does, for another as when a command starts.
    """
    _have_mlflow_quiet_and_quick()
    shown_uri, wait = without_credentials(uri), retry.seconds()
    if not known:
        wait = min(wait, OPENING_SECONDS)
    client = Patient(None, shown_uri, wait).persist(mlflow.MlflowClient, uri)
    return Patient(client, shown_uri, wait).get_experiment(experiment_id).creation_time


def _have_mlflow_quiet_and_quick() -> None:
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A request that is lost MLflow makes again, within seconds; what takes longer Patient waits for, and says so.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # MLflow takes the commit of any repository around the script for the source's; provenance.py knows better.
    GitRunContext.in_context = lambda context: False
    for variable in SET_ASIDE:
        os.environ.pop(variable, None)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a new SQLite store tells of each of its migrations
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints the traceback of what it raises


@contextmanager
def _alone(home: Path) -> Iterator[str]:
    """Have no other command of this home open a store meanwhile; yields the home's id. UserError where that fails."""
    lock = FileLock(home / STORE_LOCK)  # two processes that both make a new SQLite store would collide
    locked = f"another command of {home} is opening its store"
    try:
        home.mkdir(parents=True, exist_ok=True)  # for the lock
        with said_if_slow(f"{locked}; waiting for it, for up to {LOCK_SECONDS} s"):
            lock.acquire(timeout=LOCK_SECONDS)
        home_id = _home_id(home)
    except Timeout as error:
        raise UserError(f"{locked}, and has been for {LOCK_SECONDS} s: end it, as it may be suspended") from error
    except OSError as error:
        raise UserError(
            f"{home} cannot be written to ({error.strerror}): have REPRODUCE_HOME name a directory of your own"
        ) from error
    try:
        yield home_id
    finally:
        lock.release()


def _home_id(home: Path) -> str:
    """What tells this home from all others; made up by whoever is the first to use it."""
    file = home / "id"
    home.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_atomically(file, uuid.uuid4().hex.encode())
    return file.read_text()
