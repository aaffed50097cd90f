"""What MLflow's variables choose: the store, the experiment, the run. Each is checked before anything is recorded."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_SOURCE_TYPE

from reproduce.errors import UserError, shown
from reproduce.escaping import without_credentials
from reproduce.study.location import DEFAULT
from reproduce.tracking import local_store

# Where the runs of the default study go unless `mlflow run` or the variables choose.
EXPERIMENT = DEFAULT.replace("_", "-")
STORE, RUN = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"
EXPERIMENT_ID, EXPERIMENT_NAME = "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"
SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
EXPECTED = "a file, such as sqlite:///mlflow.db, a server, such as http://127.0.0.1:5000, or a database"
# Every store has it.
DEFAULT_EXPERIMENT_ID = "0"
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
T = TypeVar("T")
MIGRATE = "bring the runs over with mlflow migrate-filestore"


def resolve_store(uri: str) -> tuple[str, Path | None]:
    """Return the address under which all of MLflow opens that store, and its file where it is one in SQLite.

    UserError where no store can be there.
    """
    file = local_store.find_file(uri)
    if file is not None:
        address, query = local_store.make_uri(file), uri.partition("?")[2]
        # SQLite's own address has its parameters within.
        if "/file:" in uri:
            return uri, file
        return (f"{address}{'&' if '?' in address else '?'}{query}" if query else address), file
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:
        raise UserError(f"{STORE} is {shown(uri)}, which is no address ({error}): correct or unset it") from error
    if scheme.partition("+")[0] in (*DATABASE_ENGINES, *SERVERS) or uri in SERVERS:
        return uri, None
    named = shown(without_credentials(uri))
    if scheme not in ("", "file"):
        raise UserError(
            f"{STORE} is {named}, whose kind MLflow does not know, expected {EXPECTED}: correct or unset it"
        )
    if os.environ.get(STORE):
        what = f"{STORE} is {named}, a folder, in which MLflow no longer keeps runs, expected {EXPECTED}"
        raise UserError(f"{what}: correct it, or {MIGRATE}")
    what = f"this folder has an mlruns of an older MLflow ({named}), in which MLflow no longer keeps runs"
    raise UserError(f"{what}: set {STORE}=sqlite:///mlflow.db to start a store beside it, or {MIGRATE}")


def check_for_new_store() -> None:
    """Raise UserError where MLflow's variables name what a store that does not exist yet cannot hold."""
    for variable in (RUN, EXPERIMENT_ID):
        if (named := os.environ.get(variable)) and (variable, named) != (EXPERIMENT_ID, DEFAULT_EXPERIMENT_ID):
            raise _not_found(variable, named)
    _experiment_name()


def choose_experiment(client: MlflowClient, file: Path | None, command: str | None, usual: str = EXPERIMENT) -> str:
    """Return the id of the experiment that MLflow's variables name, else of the `usual`, created where it is not there.

    `file` is the file of a SQLite store. UserError where the store has no such run or experiment, or where the run is
    not one that `mlflow run` has just made for this `command`.
    """
    if named := os.environ.get(RUN):
        run = _find(RUN, named, client.get_run)
        _check_own(run, command)
        return run.info.experiment_id
    if named := os.environ.get(EXPERIMENT_ID):
        return _active(_find(EXPERIMENT_ID, named, client.get_experiment), EXPERIMENT_ID)
    name = _experiment_name(usual)
    if found := client.get_experiment_by_name(name):
        return _active(found, EXPERIMENT_NAME)
    return _create(client, name, local_store.next_artifact_uri(file) if file else None)


def _experiment_name(usual: str = EXPERIMENT) -> str:
    name = os.environ.get(EXPERIMENT_NAME, usual)
    if not name.strip():
        raise UserError(f"{EXPERIMENT_NAME} is {name!r}, expected the name of an experiment: unset it, or name one")
    return name


def _create(client: MlflowClient, name: str, artifacts: str | None) -> str:
    # With this tag the UI shows training runs first, not prompts and traces.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    try:
        return client.create_experiment(name, artifacts, tags=tags)
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        # Another command may have created it just now, or the first answer of the store was lost.
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS) or found is None:
            raise
        return found.experiment_id


def _check_own(run: Run, command: str | None) -> None:
    """Raise UserError unless `mlflow run` has just made that run for this command: any other has its own record."""
    tags, what = run.data.tags, None
    if run.info.lifecycle_stage != "active":
        what = "a deleted run"
    elif "kind" in tags:
        what = f"the {tags['kind'].replace('_', ' ')} run of an earlier command"
    elif run.info.status != "RUNNING":
        what = f"a run that is {run.info.status} already"
    elif tags.get(MLFLOW_SOURCE_TYPE) != "PROJECT":
        what = "a run that mlflow run has not made"
    elif command is not None and tags.get(MLFLOW_PROJECT_ENTRY_POINT) not in (None, command):
        what = f"the run of another entry point, {shown(tags[MLFLOW_PROJECT_ENTRY_POINT])}"
    if what is not None:
        raise UserError(f"{RUN} is {shown(run.info.run_id)}, {what}: unset it, as mlflow run sets it by itself")


def _active(found: Experiment, variable: str) -> str:
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise UserError(
            f"the experiment {shown(found.name)} was deleted: restore it, {restore}, or set {variable} to another"
        )
    return found.experiment_id


def _find(variable: str, named: str, find: Callable[[str], T]) -> T:
    try:
        return find(named)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        raise _not_found(variable, named) from error


def _not_found(variable: str, named: str) -> UserError:
    return UserError(f"{variable} is {shown(named)}: it is not in the store; correct or unset it")
