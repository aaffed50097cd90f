"""A directory for commands that are to be refused."""

import pytest


@pytest.fixture
def surroundings(monkeypatch, tmp_path):
    """A directory to be in, with what cannot be used, and no variable set."""
    monkeypatch.chdir(tmp_path)
    for name in ("REPRODUCE_HOME", "REPRODUCE_DATA_DIR", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("not a database, though long enough to be told from an empty one" * 20)
    return tmp_path
