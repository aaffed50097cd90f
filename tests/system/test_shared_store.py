"""Many writers and one store: a real PostgreSQL behind a real `mlflow server` that keeps the artifacts."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import mlflow
import numpy as np
import psutil
import psycopg2
import pytest

from helpers import ROOT
from helpers.faults import wait_for
from helpers.servers import PASSWORD, Postgres, Server, free_port, lacks_postgres
from helpers.write_concurrently import history, trials
from reproduce.analysis import lr_range_test
from reproduce.data import datasets
from reproduce.errors import UserError
from reproduce.results import verdicts
from reproduce.results.run_collection import RunCollection
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.tracking.reader import RAMP, VALIDATION, metrics_of_kind
from reproduce.tracking.store import open_store

WRITERS = 8
LAST = len(trials()) - 1  # all of the writers write that one; of the others each its own two
pytestmark = pytest.mark.skipif(bool(lacks_postgres()), reason=str(lacks_postgres()))


@pytest.fixture(scope="module")
def postgres():
    ours = Postgres().start()
    yield ours
    ours.remove()


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    ours = Server(tmp_path_factory.mktemp("shared") / "server", postgres.uri_without_password).start()
    yield ours
    ours.kill()


@pytest.fixture(scope="module")
def written(server, tmp_path_factory):
    """Eight processes' trials by run id, and all that the processes said."""
    directory = tmp_path_factory.mktemp("writers")
    shares = [f"{number},{number + WRITERS},{LAST}" for number in range(WRITERS)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "write_concurrently.py", directory, server.uri, *shares],
        cwd=directory, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    said, every = done.stdout + done.stderr, trials()
    assert done.returncode == 0, said
    runs = {}
    for number, share in enumerate(shares):
        ids = json.loads((directory / f"{number}.json").read_text())
        runs |= {run_id: every[int(i)] for run_id, i in zip(ids, share.split(","), strict=True)}
    return runs, said, directory


def test_the_containers_health_is_that_of_the_server_in_it(server, monkeypatch):
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker" / "healthcheck.py")
    healthcheck = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(healthcheck)

    def running(*words):
        alone = SimpleNamespace(info={"cmdline": list(words)})
        monkeypatch.setattr(healthcheck.psutil, "process_iter", lambda names: [alone])
        return healthcheck.main()

    assert running(*psutil.Process(server.process.pid).cmdline()) == 0
    assert running("/opt/venv/bin/python", "/opt/venv/bin/mlflow", "server", "--port", str(free_port())) == 1
    assert running("python", "-m", "mlflow", "ui", "--port", str(free_port())) == 1
    assert running("python", "/opt/venv/bin/reproduce", "sweep") == 0


@pytest.fixture
def reader(server, written, tmp_path):
    yield open_store(tmp_path / "reader", server.uri)
    mlflow.set_tracking_uri(None)


def points(run_id, trial):
    """Every (run, metric, step) of a trial, with its value."""
    kind = "range_test" if trial.is_range_test else "trial"
    for record in history(trial):
        for name in (*metrics_of_kind(kind), "wall_seconds"):
            yield (run_id, name, record.epoch), getattr(record, name)
        for step, *both in record.validation.tolist():
            yield from (((run_id, name, int(step)), value) for name, value in zip(VALIDATION, both, strict=True))
    if trial.is_range_test:
        found = lr_range_test.curve(history(trial))
        for step, both in enumerate(zip(found.losses, np.log10(found.learning_rates), strict=True)):
            yield from (((run_id, name, step), float(value)) for name, value in zip(RAMP, both, strict=True))


def same(one, other):
    return one == other or (math.isnan(one) and math.isnan(other))


def test_of_eight_writers_at_once_every_metric_is_there_once_with_its_value(postgres, written):
    expected = dict(point for run_id, trial in written[0].items() for point in points(run_id, trial))
    found = postgres.rows("SELECT run_uuid, key, step, CASE WHEN is_nan THEN 'NaN' ELSE value END FROM metrics")
    counts = Counter(row[:3] for row in found)
    assert [point for point in expected if counts[point] != 1] == []
    assert counts.keys() == expected.keys()
    assert [row for row in found if not same(expected[row[:3]], row[3])] == []
    assert len(expected) == 15 * 30 * 5 + 5 * 3 + 5 * 3 * 2 + 5 * 40 * 2 + WRITERS * 3 * 5
    assert (
        f"each of {len(expected):,} metric values is recorded exactly once"
        in (ROOT / "docs" / "scaling.md").read_text()
    )


def test_no_run_is_there_twice_or_unfinished_and_none_is_another_writers(postgres, written):
    found = postgres.rows("SELECT run_uuid, status, lifecycle_stage FROM runs")
    (tagged,) = zip(*postgres.rows("SELECT run_uuid FROM tags WHERE key = 'fingerprint'"), strict=True)
    assert len(found) == 16 + WRITERS + WRITERS  # the study, the trial of all, the parents
    assert {row[1:] for row in found} == {("FINISHED", "active")}
    assert set(tagged) == written[0].keys()
    assert len(tagged) == 16 + WRITERS
    assert postgres.rows("SELECT count(*) FROM experiments WHERE name = 'lenet5-mnist'") == [(1,)]


def test_every_run_has_its_files_its_network_and_its_data_set(reader, server, postgres, written):
    weights = (written[2] / "weights.safetensors").read_bytes()
    for run_id, trial in written[0].items():
        (kept,) = server.directory.glob(f"artifacts/*/{run_id}/artifacts")
        assert {path.name for path in kept.iterdir()} >= {"curve.csv", "environment.json"}
        assert len(reader.reader.curve(run_id)[0]) == len(history(trial)) * 40
        run = reader.mlflow.get_run(run_id)
        assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["mnist"]
        (*networks,) = reader.mlflow.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
        )
        assert len(networks) == (not trial.is_range_test)
    networks = list(server.directory.glob("artifacts/*/models/*/artifacts/artifacts/*.safetensors"))
    assert [path.read_bytes() for path in networks] == [weights] * (15 + WRITERS)
    assert postgres.rows("SELECT count(*) FROM datasets") == [(1,)]


def test_the_study_is_read_back_and_judged_from_it(reader, written):
    study_runs = {trial: run_id for run_id, trial in written[0].items() if trial != trials()[LAST]}
    results = reader.reader.results(trials())
    assert {trial: result.run_id for trial, result in results.items() if trial in study_runs} == study_runs
    for trial, result in results.items():
        for name in metrics_of_kind(result.tags["kind"]):
            assert all(map(same, result.epochs[name], [getattr(record, name) for record in history(trial)]))
    assert reader.reader.seeds() == (0, 1)
    paper = load_paper()
    collection = RunCollection(reader.reader, paper, StudyConfig(engine="fused"), paper.range_test.smoothing)
    judgements = verdicts.judge_all(collection, (0,))
    assert {run for judgement in judgements for run in judgement.runs.values()} == set(study_runs.values())


def test_of_one_trial_that_all_began_at_the_same_moment_the_newest_whole_run_counts(postgres, reader, written):
    ours = [run_id for run_id, trial in written[0].items() if trial == trials()[LAST]]
    assert len(ours) == WRITERS
    cache_key = trials()[LAST].cache_key({})
    assert {run.info.run_id for run in reader.client.search_runs(f"tags.fingerprint = '{cache_key}'")} == set(ours)
    began = dict(postgres.rows(
        "SELECT run_uuid, start_time FROM runs JOIN tags USING (run_uuid) "
        f"WHERE key = 'fingerprint' AND tags.value = '{cache_key}'"
    ))  # fmt: skip
    assert began.keys() == set(ours)
    assert began[reader.reader.results(trials())[trials()[LAST]].run_id] == max(began.values())


def while_another_inserts(postgres, statement, call):
    """What the call returns that finds a row begun by another transaction, waits for it, and then collides with it."""
    done = []
    with closing(psycopg2.connect(postgres.libpq_uri)) as other, other.cursor() as cursor:
        cursor.execute(statement)
        caller = threading.Thread(target=lambda: done.append(call()))
        caller.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_for(lambda: postgres.rows(waiting) == [(1,)], what="the collision")
        other.commit()
        caller.join()
    return done[0]


def test_a_writer_that_collides_with_the_first_to_make_an_experiment_takes_that_one(
    postgres, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of two")
    insert = (
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace)"
        " VALUES ('of two', 'mlflow-artifacts:/two', 'active', 0, 0, 'default')"
    )
    store = while_another_inserts(postgres, insert, lambda: open_store(tmp_path / "home", server.uri))
    mlflow.set_tracking_uri(None)
    assert postgres.rows("SELECT experiment_id FROM experiments WHERE name = 'of two'") == [(int(store.experiment_id),)]


def test_a_writer_that_collides_with_the_first_to_name_a_data_set_takes_that_one(
    postgres, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of one data set")
    store = open_store(tmp_path / "home", server.uri)
    run_id = store.writer.create_run({"kind": "trial"}, "a trial")
    insert = (
        "INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source)"
        f" VALUES ('another', {store.experiment_id}, 'mnist', '{datasets.files_sha256('mnist')[:36]}', 'sha256', '')"
    )
    while_another_inserts(postgres, insert, lambda: store.writer.log_dataset(run_id, "mnist"))
    mlflow.set_tracking_uri(None)
    assert postgres.rows(f"SELECT source_id FROM inputs WHERE destination_id = '{run_id}'") == [("another",)]


def test_the_databases_password_is_neither_recorded_nor_printed_nor_in_a_command_line(postgres, server, written):
    tables = [name for (name,) in postgres.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert {"runs", "tags", "params"} <= set(tables)
    assert [
        name for name in tables if postgres.rows(f"SELECT 1 FROM {name} AS it WHERE it::text LIKE '%{PASSWORD}%'")
    ] == []
    kept = [path for place in (server.directory, written[2]) for path in place.rglob("*") if path.is_file()]
    assert server.directory / "log" in kept
    assert [path for path in kept if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in written[1]
    serving = psutil.Process(server.process.pid)
    lines = [" ".join(process.cmdline()) for process in (serving, *serving.children(recursive=True))]
    assert any("mlflow" in line for line in lines)
    assert [line for line in lines if PASSWORD in line] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((PASSWORD, "wr0ng-and-secret"), 'refused: .*password authentication failed for user "postgres"'),
        (("@/postgres", "@/none"), 'refused: .*database "none" does not exist'),
        (("postgresql+psycopg2", "postgresql"), r"No module named 'psycopg': start it with postgresql\+psycopg2://"),
    ],
)
def test_a_database_that_lets_nobody_in_is_said_at_once_and_without_the_password(
    postgres, tmp_path, change, expected, capfd, monkeypatch
):
    monkeypatch.setattr("mlflow.store.db.utils.create_sqlalchemy_engine_with_retry", pytest.fail)  # for two minutes
    with pytest.raises(UserError, match=expected) as raised:
        open_store(tmp_path / "home", postgres.uri.replace(*change))
    mlflow.set_tracking_uri(None)
    assert "secret" not in (said := str(raised.value) + "".join(capfd.readouterr()))
    assert PASSWORD not in said
    assert "waiting for it" not in said


def test_a_database_is_a_store_without_a_server_too(postgres, written, tmp_path):
    store = open_store(tmp_path / "home", postgres.uri)
    mlflow.set_tracking_uri(None)
    assert store.reader.results(trials()).keys() == set(trials())
    assert store.shown_uri.startswith("postgresql+psycopg2://***@/postgres?")
