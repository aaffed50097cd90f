"""A store in a SQLite file: found in a folder of any name, and refused at once where it is none."""

import os
import sqlite3
from pathlib import Path

import mlflow
import pytest

from helpers.study_folder import StudyFolder
from reproduce.errors import UserError
from reproduce.tracking import local_store
from reproduce.tracking.store import open_store

NAMES = ("a b", "é", "日本", "50%", "a%20b", "a%2e%2e", "a?b", "a#b", "a;b&c=d", "a:b@c", "a\nb", "a'b\"c", "a\\b",
         " a ", "~", "$HOME", "*[{<|", "-a", "..a", "sqlite:", "😀", "mlruns")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_address_names_the_file_in_a_folder_of_any_name(name):
    file = Path("/home", name, "mlflow.db")
    assert local_store.find_file(local_store.make_uri(file)) == file


@pytest.mark.parametrize("name", NAMES)
def test_a_store_works_in_a_folder_of_any_name_and_leaves_nothing_outside(tmp_path, empty_database, name):
    study = StudyFolder(tmp_path / name, tmp_path / "home", empty_database)
    assert study.read(study.record("found")) == "found"
    assert {path.name for path in tmp_path.iterdir()} == {name, "home"}
    assert all(place.is_relative_to(study.folder / "mlruns") for place in study.places())
    mlflow.set_tracking_uri(None)


def test_a_new_store_is_made_whole_in_a_folder_of_any_name(tmp_path, monkeypatch):
    name = "a é%20"
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(tmp_path / "home")
    assert store.file == tmp_path / name / "mlflow.db"
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == ["mlflow.db"]
    assert {path.name for path in tmp_path.iterdir()} == {name, "home"}
    default = store.mlflow.get_experiment("0").artifact_location
    assert local_store.local_path(default) == tmp_path / name / "mlruns" / "0"


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////a%20b/x.db", "/a b/x.db"),  # as MLflow writes its own default
        ("sqlite+pysqlite:////x.db", "/x.db"),
        ("sqlite:////x.db?timeout=5", "/x.db"),
        ("sqlite:///file:/a/x.db?mode=rwc&uri=true", "/a/x.db"),
    ],
)
def test_the_file_of_an_address(uri, file):
    assert local_store.find_file(uri) == Path(file).absolute()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "postgresql+psycopg2://u@h/d", "databricks", "./mlruns", ""])
def test_other_stores_have_no_file(uri):
    assert local_store.find_file(uri) is None


@pytest.mark.parametrize(
    "uri",
    ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true",
     "sqlite:///file:x?mode=memory&uri=true", "sqlite:///file:x?mode=memory&cache=shared&uri=true"],
)  # fmt: skip
def test_a_database_in_memory_is_refused(uri):
    with pytest.raises(UserError) as refused:
        local_store.find_file(uri)
    assert str(refused.value) == (
        f"MLFLOW_TRACKING_URI is {uri!r}, a database in memory, which ends with each process: "
        "name a file, such as sqlite:///mlflow.db, or unset it"
    )


ANOTHER = "set MLFLOW_TRACKING_URI to another file"


def hindered(folder: Path, kind: str) -> Path:
    """A path at which something stands that is no store."""
    file = folder / "x"
    if kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a link":
        file.symlink_to("/nowhere/x.db")
    elif kind == "text":
        file.write_text("not a database, though long enough to be told from an empty one" * 20)
    elif kind == "another's database":
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE bookmarks (url)")
    elif kind == "below a file":
        file.write_text("")
        file /= "mlflow.db"
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("a folder", "is a directory, expected a file, such as sqlite:///{file}/mlflow.db: " + ANOTHER),
        ("a pipe", f"is no ordinary file: {ANOTHER}"),
        ("a link", f"is a link to /nowhere/x.db, which is not there: {ANOTHER}"),
        ("text", f"is no SQLite database (file is not a database): {ANOTHER}"),
        ("another's database", f"is the SQLite database of another program: {ANOTHER}"),
        ("below a file", "cannot be made: {file.parent}: it is a file: " + ANOTHER),
    ],
)  # fmt: skip
def test_what_no_waiting_makes_a_store_is_refused_at_once(tmp_path, kind, message):
    file = hindered(tmp_path, kind)
    with pytest.raises(UserError) as refused:
        local_store.check_file(file)
    assert str(refused.value) == f"the tracking store {file} {message.format(file=file)}"


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path):
    file = tmp_path / os.fsdecode(b"\xff") / "mlflow.db"
    with pytest.raises(UserError, match="has a name that is not UTF-8, which MLflow cannot use: set"):
        local_store.check_file(file)


def test_an_empty_file_and_none_are_as_good_as_a_store(tmp_path):
    (tmp_path / "empty.db").touch()
    for name in ("empty.db", "new/mlflow.db"):
        local_store.check_file(tmp_path / name)
