"""What MLflow's variables choose is checked before anything is recorded in it."""

from pathlib import Path

import mlflow
import pytest

from reproduce.errors import UserError
from reproduce.tracking import mlflow_variables
from reproduce.tracking.local_store import make_uri


@pytest.fixture
def client(store):
    return store.mlflow


def made_by_mlflow_run(client, entry_point="sweep", **tags):
    project = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": entry_point}
    return client.create_run("0", tags=project | tags).info.run_id


def chosen_experiment(client, command="sweep"):
    return mlflow_variables.choose_experiment(client, None, command)


def refusal(client, monkeypatch, run_id, command="sweep"):
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(UserError) as refused:
        chosen_experiment(client, command)
    return str(refused.value)


def test_a_run_that_mlflow_run_has_just_made_is_taken(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", made_by_mlflow_run(client))
    assert chosen_experiment(client) == "0"


def test_no_other_run_is_taken(client, monkeypatch):
    finished = made_by_mlflow_run(client)
    client.set_terminated(finished)
    deleted = made_by_mlflow_run(client)
    client.delete_run(deleted)
    for run_id, what in {
        finished: "a run that is FINISHED already",
        deleted: "a deleted run",
        made_by_mlflow_run(client, kind="parent"): "the parent run of an earlier command",
        made_by_mlflow_run(client, kind="range_test"): "the range test run of an earlier command",
        made_by_mlflow_run(client, entry_point="grid"): "the run of another entry point, 'grid'",
        client.create_run("0").info.run_id: "a run that mlflow run has not made",
    }.items():
        assert refusal(client, monkeypatch, run_id) == (
            f"MLFLOW_RUN_ID is '{run_id}', {what}: unset it, as mlflow run sets it by itself"
        )
    assert refusal(client, monkeypatch, "nope") == (
        "MLFLOW_RUN_ID is 'nope': it is not in the store; correct or unset it"
    )


def test_a_finished_trial_that_a_variable_names_stays_as_it_was(finished, monkeypatch):
    """A variable left in the shell made of it the parent of another command, and its proposal was lost."""
    store, parent_id, done = finished
    for run_id in (done[0].run_id, parent_id):
        before = store.mlflow.get_run(run_id).to_dictionary()
        refusal(store.mlflow, monkeypatch, run_id)
        assert store.mlflow.get_run(run_id).to_dictionary() == before


def test_a_deleted_experiment_is_named_with_what_restores_it(client, monkeypatch):
    number = client.create_experiment("mine")
    client.delete_experiment(number)
    for variable, value in (("MLFLOW_EXPERIMENT_NAME", "mine"), ("MLFLOW_EXPERIMENT_ID", number)):
        with monkeypatch.context() as patched:
            patched.setenv(variable, value)
            with pytest.raises(UserError) as refused:
                chosen_experiment(client)
        assert str(refused.value) == (
            f"the experiment 'mine' was deleted: restore it, mlflow experiments restore --experiment-id {number}, "
            f"or set {variable} to another"
        )


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_of_nothing_is_refused(client, monkeypatch, name):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    with pytest.raises(UserError) as refused:
        chosen_experiment(client)
    assert str(refused.value) == (
        f"MLFLOW_EXPERIMENT_NAME is {name!r}, expected the name of an experiment: unset it, or name one"
    )


EXPECTED = "a file, such as sqlite:///mlflow.db, a server, such as http://127.0.0.1:5000, or a database"


@pytest.mark.parametrize("uri", ["file:./mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns"])
def test_a_folder_is_no_store_any_more(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as refused:
        mlflow_variables.resolve_store(uri)
    assert str(refused.value) == (
        f"MLFLOW_TRACKING_URI is {uri!r}, a folder, in which MLflow no longer keeps runs, expected {EXPECTED}: "
        "correct it, or bring the runs over with mlflow migrate-filestore"
    )


def test_a_folder_in_which_an_older_mlflow_kept_runs_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = mlflow.get_tracking_uri()
    with pytest.raises(UserError) as refused:
        mlflow_variables.resolve_store(uri)
    assert str(refused.value) == (
        f"this folder has an mlruns of an older MLflow ('{uri}'), in which MLflow no longer keeps runs: "
        "set MLFLOW_TRACKING_URI=sqlite:///mlflow.db to start a store beside it, or bring the runs over with "
        "mlflow migrate-filestore"
    )


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:////x/a%20b/y.db", "sqlite:////x/a b/y.db"),
        ("sqlite:////x/a%2520b/y.db", make_uri(Path("/x/a%20b/y.db"))),
        ("sqlite:////x/y.db?timeout=5", "sqlite:////x/y.db?timeout=5"),
        (
            "sqlite:////x/a%2520b/y.db?timeout=5",
            f"{(address := make_uri(Path('/x/a%20b/y.db')))}{'&' if '?' in address else '?'}timeout=5",
        ),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql+psycopg2://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("databricks", "databricks"),
    ],
)
def test_a_store_keeps_its_address_or_gets_one_that_every_library_reads_alike(uri, address):
    assert mlflow_variables.resolve_store(uri)[0] == address
