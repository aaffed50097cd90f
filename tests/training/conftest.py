import pytest

from helpers.repositories import make_source


@pytest.fixture
def source(tmp_path):
    """A folder like this checkout, a repository of its own with one commit of every kind of file."""
    return make_source(tmp_path / "a source é")
