"""A directory for commands that are to be refused."""

import mlflow
import pytest


@pytest.fixture
def surroundings(monkeypatch, tmp_path):
    """A directory to be in, with what cannot be used, and no variable set."""
    monkeypatch.chdir(tmp_path)
    for name in ("REPRODUCE_HOME", "REPRODUCE_DATA_DIR", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("not a database, though long enough to be told from an empty one" * 20)
    return tmp_path


@pytest.fixture
def empty_place(own_home, tmp_path, monkeypatch):
    """An empty directory with an empty store and the data, in which commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("REPRODUCE_HOME", str(own_home))
    yield tmp_path
    # A worker in this process has set it.
    mlflow.set_tracking_uri(None)
