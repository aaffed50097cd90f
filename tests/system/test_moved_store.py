"""A study in a folder with a space and letters outside ASCII, moved, unpacked elsewhere, and gone on with: for real."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import mlflow
import pytest

from helpers import CACHE, ROOT
from helpers.small import kernel

TEST = ("range_test", "--train-size", "640", "--epochs", "1", "--device", "cpu", "--jobs", "1")
REPORT = ("report", "--train-size", "640", "--range-test-epochs", "1", "--epochs", "1")


@pytest.fixture
def typed(mnist_cache):
    """Type a command in a folder, where everything is to stand; what it says. Nothing chooses a store or a home."""
    kernel()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "REPRODUCE_"))}
    environment |= {
        "REPRODUCE_DATA_DIR": str(mnist_cache / "data" / "mnist"), "REPRODUCE_FUSED_DIR": str(CACHE / "fused"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip

    def type_in(folder, *words, program=(sys.executable, "-m", "reproduce"), **variables):
        numerics_environment = environment | {"PYTHONPATH": str(ROOT)} | variables
        done = subprocess.run([*program, *words], cwd=folder, env=numerics_environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return type_in


def test_a_study_works_in_any_folder_and_moves_as_one_thing(typed, tmp_path):
    (tmp_path / "first").mkdir()
    before = tmp_path / "first" / "My Documents é 50%"
    before.mkdir()
    said = typed(before, *TEST)
    assert "range_test adam seed 0: trained" in said
    assert "was in" not in said
    assert [path.name for path in (tmp_path / "first").iterdir()] == [before.name]

    after = tmp_path / "josé"
    before.rename(after)
    moved = f"the study in {after} was in {before} before: its recorded paths now lead to its artifacts here"
    said = typed(after, *TEST)
    assert moved in said.splitlines()
    assert "1 reused" in said.splitlines()
    said = typed(after, *REPORT)
    assert moved not in said
    assert (after / "report" / "output" / "figure-1.png").exists()

    with tarfile.open(tmp_path / "study.tar", "w") as archive:
        archive.add(after, "study")
    with tarfile.open(tmp_path / "study.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="fully_trusted")
    unpacked = tmp_path / "unpacked" / "study"
    kept = {path: path.read_bytes() for path in after.rglob("*") if path.is_file()}
    said = typed(unpacked, *TEST, "--seeds", "0,1")
    assert "1 trained, 1 reused" in said.splitlines()
    assert {path: path.read_bytes() for path in after.rglob("*") if path.is_file()} == kept
    client = mlflow.MlflowClient(f"sqlite:///{unpacked}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kind = 'range_test'")
    for run in runs:
        assert (unpacked / "mlruns" / "1" / run.info.run_id / "artifacts" / "curve.csv").exists()
    assert {run.data.params["seed"] for run in runs} == {"0", "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "josé", "study.tar", "unpacked"]


def test_mlflow_run_works_from_a_folder_of_any_name(typed, tmp_path):
    folder = tmp_path / "My Documents é"
    folder.mkdir()
    small = ("-e", "range_test", "-P", "train_size=640", "-P", "epochs=1", "-P", "device=cpu")
    said = typed(
        folder, "run", str(ROOT), "--env-manager", "local", *small,
        program=(sys.executable, "-m", "mlflow"), REPRODUCE_HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert "range_test adam seed 0: trained" in said
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (trial,) = client.search_runs(["0"], "tags.kind = 'range_test'")
    assert (folder / "mlruns" / "0" / trial.info.run_id / "artifacts" / "curve.csv").exists()
