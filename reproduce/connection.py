"""The tracking store that MLflow's variables name: open it, look through its runs, make one.

Nothing here knows what our runs hold.
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy
from filelock import FileLock
from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.tracking.context.registry import resolve_tags

from reproduce import patience
from reproduce.errors import TrackingError, UserError, shown
from reproduce.mnist_files import write_atomically
from reproduce.patience import Patient, one_line
from reproduce.places import STORE_LOCK
from reproduce.plain import without_credentials

EXPERIMENT = "lenet5-mnist"  # where runs go unless `mlflow run` or the usual variables choose
OPENING_SECONDS = 10  # to wait for a store when a command starts: longer, and the address is likely wrong
SQLITE = "sqlite:///"
PAGE = 1000  # experiments, or runs, fetched at a time


class Connection:
    """The store of that address, else of MLflow's usual variables; by default MLflow's own, SQLite in this directory.

    `home` is the directory of caches, checkpoints and locks, and `home_id` what tells it from all others.
    Without an `experiment_id` it is a command's first, and a store that is not there is a UserError; so is a home that
    cannot be written to.
    """

    def __init__(self, home: Path, uri: str | None = None, experiment_id: str | None = None) -> None:
        _have_mlflow_quiet_and_quick()
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        self.uri = mlflow.get_tracking_uri()
        self.shown_uri = without_credentials(self.uri)
        self.home = home
        try:
            home.mkdir(parents=True, exist_ok=True)
            opening = FileLock(home / STORE_LOCK)  # two processes that both make a new SQLite store would collide
            opening.acquire()
            self.home_id = _home_id(home)
        except OSError as error:
            raise UserError(
                f"{home} cannot be written to ({error.strerror}): have REPRODUCE_HOME name a directory of your own"
            ) from error
        with opening:
            wait = patience.seconds()
            knocking = Patient(None, self.shown_uri, wait if experiment_id else min(wait, OPENING_SECONDS))
            try:
                knocking.persist(_make_whole, self.uri, self.home_id)
                knocking.persist(_reach, self.uri)
                self.client = Patient(knocking.persist(mlflow.MlflowClient), self.shown_uri, wait)
                self.experiment_id = experiment_id or knocking.persist(_chosen_experiment, self.client.at_once)
            except UserError:
                raise
            except TrackingError as error:
                if experiment_id:  # it was there before
                    raise
                raise UserError(f"{error}: {self.remedy()}") from error
            except Exception as error:  # a database's driver raises what it likes, or is not installed
                why = f"the tracking store {self.shown_uri} cannot be used: {one_line(error)}"
                raise UserError(f"{why}: {self.remedy()}") from error

    def remedy(self) -> str:
        """What a user can do about a store that cannot be used."""
        if self.uri.startswith("postgresql://") and find_spec("psycopg") is None:  # SQLAlchemy's usual driver
            return "begin it with postgresql+psycopg2://, for the driver that is installed here"
        if "MLFLOW_TRACKING_URI" in os.environ:
            return "have MLFLOW_TRACKING_URI name a store that is there, or unset it"
        return "put it right, or have MLFLOW_TRACKING_URI name another"

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
    """Connect to a database once, where there is no server before it: MLflow itself tries for two minutes."""
    if not uri.startswith(SQLITE) and uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()


def created_at(uri: str, experiment_id: str, known: bool) -> int:
    """When the experiment was made, in ms: it tells one store from another. TrackingError where it cannot be had.

    For a store that is `known` to be there it waits as everybody does, for another as when a command starts.
    """
    _have_mlflow_quiet_and_quick()
    shown_uri, wait = without_credentials(uri), patience.seconds()
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
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a new SQLite store tells of each of its migrations
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints the traceback of what it raises


def _make_whole(uri: str, home_id: str) -> None:
    """Have a new SQLite store appear with all of its tables: one killed among MLflow's migrations is of no use."""
    file = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or "?" in uri or file.exists():
        return
    folder = file.parent / f".{file.name}-{home_id}"
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir(parents=True)
    try:
        made = folder / file.name
        mlflow.MlflowClient(f"{SQLITE}{made}").search_experiments()
        try:
            os.link(made, file)  # unless somebody with another home was first
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            made.rename(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _chosen_experiment(client: mlflow.MlflowClient) -> str:
    """The experiment that MLflow's variables name; UserError where the store has none such."""
    if named := os.environ.get("MLFLOW_RUN_ID"):  # `mlflow run` made it, in the experiment it was told
        return _found("MLFLOW_RUN_ID", named, client.get_run)
    if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return _found("MLFLOW_EXPERIMENT_ID", named, client.get_experiment)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    try:  # the tag tells the UI to show training runs first, not prompts and traces
        return client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        # Somebody else may just have made it, or this was asked for twice as the first answer was lost.
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS) or found is None:
            raise
        return found.experiment_id


def _found(variable: str, named: str, find: Callable) -> str:
    try:
        found = find(named)
    except MlflowException as error:
        if patience.is_away(error):
            raise
        raise UserError(
            f"{variable} is {shown(named)}: there is none such in the store; correct or unset it"
        ) from error
    return found.info.experiment_id if isinstance(found, Run) else found.experiment_id


def _home_id(home: Path) -> str:
    """What tells this home from all others; made up by whoever is the first to use it."""
    file = home / "id"
    if not file.exists():
        write_atomically(file, uuid.uuid4().hex.encode())
    return file.read_text()
