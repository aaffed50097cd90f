"""`mlflow run` for real, as a user of the project's environment types it."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from helpers import ROOT

SMALL = ("-P", "epochs=1", "-P", "train_size=6400", "-P", "device=cpu")


@pytest.fixture
def mlflow_run(own_home, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "REPRODUCE_HOME": str(own_home), "MLFLOW_TRACKING_URI": uri,
    }  # fmt: skip

    def run(*arguments):
        command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done, mlflow.MlflowClient(uri)

    return run


def test_the_range_test_joins_the_run_that_mlflow_made(mlflow_run):
    done, client = mlflow_run("-e", "range_test", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "range_test adam seed 0: proposes" in done.stderr
    runs = client.search_runs(["0"])  # Default, unless told
    (parent,) = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    (child,) = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [parent.info.status, child.info.status] == ["FINISHED", "FINISHED"]
    assert (parent.data.params["epochs"], parent.data.params["seeds"]) == ("1", "paper")
    assert parent.data.metrics["proposed_learning_rate"] == float(child.data.tags["proposed_learning_rate"])
    assert (child.data.params["scheduler"], child.data.params["lr_end"]) == ("ramp", "1.0")
    assert {file.path for file in client.list_artifacts(child.info.run_id)} >= {
        "curve.csv", "range_test.csv", "range_test.png", "environment.json",
    }  # fmt: skip


def test_a_wrong_parameter_fails_in_one_line_and_nothing_is_trained(mlflow_run):
    done, client = mlflow_run("-e", "sweep", "-P", "scheduler=multistp")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        "error: Invalid value for '--scheduler': got 'multistp', expected one of none, step, multistep, onecycle, "
        "exponential, all, did you mean multistep?"
    ]
    assert "Traceback" not in done.stderr
    assert [found.info.status for found in client.search_runs(["0"])] == ["FAILED"]


def test_an_unknown_parameter_is_refused(mlflow_run):
    done, _ = mlflow_run("-e", "sweep", "-P", "x=1")
    assert done.returncode == 1
    assert "error: No such option '--x'." in done.stderr
