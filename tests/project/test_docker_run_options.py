"""What docker/MLproject has `mlflow run` pass to the engine. The engine itself is tried in test_image.py."""

import importlib.util
import os
import shutil
import sqlite3
from urllib.parse import quote

import mlflow
import pytest

from helpers import ROOT
from reproduce.tracking import local_store


@pytest.fixture
def run_options(monkeypatch):
    """The script as a module, before an engine that is not rootless and knows one image."""
    spec = importlib.util.spec_from_file_location("run_options", ROOT / "docker" / "run_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answers = {"info": "[name=seccomp,profile=builtin]", "image": "sha256:1234"}
    monkeypatch.setattr(module, "_docker", lambda *words: answers[words[0]])
    monkeypatch.delenv("REPRODUCE_OUTPUT", raising=False)
    module.answers = answers
    return module


ME = f"--user {os.getuid()}:{os.getgid()} --env REPRODUCE_IMAGE_ID=sha256:1234"


def a_run(store, artifacts):
    """A run in an experiment that keeps its artifacts there."""
    experiment = store.mlflow.create_experiment("elsewhere", artifact_location=str(artifacts))
    return store.mlflow.create_run(experiment).info


def test_the_stores_directory_is_mounted_where_it_is(run_options, store, tmp_path):
    run = a_run(store, tmp_path / "mlruns" / "7")
    words = run_options.options(f"sqlite:///{tmp_path}/mlflow.db", run.run_id)
    assert " ".join(words) == f"{tmp_path}:{tmp_path} --workdir {tmp_path} {ME}"
    assert (tmp_path / "mlruns" / "7" / run.run_id / "artifacts").is_dir()  # ours, not the engine's


def test_a_folder_whose_name_mlflow_encodes_is_mounted_under_its_name(run_options, tmp_path, empty_database):
    folder = tmp_path / "é%20"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    client = mlflow.MlflowClient(local_store.make_uri(folder / "mlflow.db"))
    experiment = client.create_experiment("mine", (folder / "mlruns" / "1").as_uri())
    run = client.create_run(experiment).info
    words = run_options.options(f"sqlite:///{quote(str(folder))}/mlflow.db", run.run_id)
    assert words[:3] == [f"{folder}:{folder}", "--workdir", str(folder)]
    assert [path.name for path in tmp_path.iterdir()] == ["é%20"]


def test_artifacts_kept_elsewhere_are_mounted_too(run_options, store, tmp_path):
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    run = a_run(store, away)
    words = run_options.options(f"sqlite:///{tmp_path}/mlflow.db", run.run_id)
    assert words[:4] == [f"{tmp_path}:{tmp_path}", "--volume", f"{away}:{away}", "--workdir"]


def test_the_output_may_be_sent_elsewhere(run_options, store, tmp_path, monkeypatch):
    run = a_run(store, tmp_path / "mlruns" / "7")
    away = tmp_path.with_name(f"{tmp_path.name}-output")
    monkeypatch.setenv("REPRODUCE_OUTPUT", str(away))
    words = run_options.options(f"sqlite:///{tmp_path}/mlflow.db", run.run_id)
    assert words[:3] == [f"{away}:{away}", "--volume", f"{tmp_path}:{tmp_path}"]
    assert words[words.index("--workdir") + 1] == str(away)


@pytest.mark.parametrize(("host", "network"), [("127.0.0.1", True), ("localhost", True), ("example.org", False)])
def test_a_server_on_this_machine_is_reached_through_its_network(run_options, tmp_path, monkeypatch, host, network):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = run_options.options(f"http://{host}:5000", "run")
    kept = tmp_path / ".cache" / "lenet5-reproduction"
    wanted = f"{kept}:{kept} --workdir {kept} {ME}" + " --network host" * network
    assert " ".join(words) == wanted


def test_in_a_rootless_engine_its_root_is_the_user(run_options, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run_options.answers["info"] = "[name=seccomp,profile=builtin name=rootless]"
    assert "--user 0:0" in " ".join(run_options.options("http://example.org", "run"))


def test_what_mlflow_cannot_pass_on_is_refused(run_options, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="give the absolute path"):
        run_options.options("sqlite:///mlflow.db", "run")
    monkeypatch.setenv("HOME", str(tmp_path / "a space"))
    with pytest.raises(ValueError, match="a space in it"):
        run_options.options("http://example.org", "run")


def test_artifacts_in_a_directory_with_a_space_are_refused(run_options, store, tmp_path):
    run = a_run(store, tmp_path.with_name(f"{tmp_path.name} away"))
    with pytest.raises(ValueError, match="a space in it"):
        run_options.options(f"sqlite:///{tmp_path}/mlflow.db", run.run_id)


def test_a_store_that_is_none_is_an_error(run_options, tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, though long enough to be told from an empty one" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        run_options.options(f"sqlite:///{tmp_path}/mlflow.db", "run")


def test_mlflow_gives_the_words_to_a_shell():
    """What docker/MLproject counts on: volumes and environment are pasted unquoted."""
    from mlflow.projects.backend.local import _get_docker_command

    class Image:
        tags = ("image:latest",)

    class Run:
        class info:  # noqa: N801
            run_id, experiment_id, artifact_uri = "1", "0", "/artifacts"

    mlflow.set_tracking_uri("http://example.org")
    try:
        words = _get_docker_command(Image, Run, volumes=["$(a)"], user_env_vars=[["MLFLOW_TRACKING_URI", "$B"]])
    finally:
        mlflow.set_tracking_uri(None)
    assert "$(a)" in words
    assert "MLFLOW_TRACKING_URI=$B" in words
