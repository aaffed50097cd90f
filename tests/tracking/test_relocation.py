"""A study whose folder was moved or copied goes on where it stands, and writes nothing where it stood."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import nullcontext
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

from helpers.study_folder import StudyFolder
from reproduce.errors import UserError
from reproduce.tracking import relocation
from reproduce.tracking.store import check_store_to_show, open_store


@pytest.fixture
def study(tmp_path, empty_database):
    yield StudyFolder(tmp_path / "study", tmp_path / "home", empty_database)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("reproduce.tracking.relocation.say", lines.append)
    return lines


def test_a_study_that_was_moved_goes_on_where_it_stands(study, tmp_path, said):
    first = study.record("first")
    moved = study.moved_to(tmp_path / "elsewhere")
    assert moved.read(first) == "first"
    assert said == [
        f"the study in {moved.folder} was in {tmp_path}/study before: its recorded paths now lead to its artifacts here"
    ]
    second = moved.record("second")
    assert (moved.folder / "mlruns" / "1" / second / "artifacts" / "curve.csv").read_text() == "second"
    assert not (tmp_path / "study").exists()
    assert len(said) == 1


@pytest.mark.parametrize("name", ["a b", "50%", "é#?"])
def test_a_study_may_be_moved_from_and_to_any_name(study, tmp_path, said, name):
    first = study.record("first")
    moved = study.moved_to(tmp_path / name)
    assert moved.read(first) == "first"
    back = moved.moved_to(tmp_path / "study")
    assert back.read(first) == "first"
    assert len(said) == 2


def test_a_copy_records_in_its_own_folder_and_its_original_stays_as_it_was(study, tmp_path, said):
    first = study.record("first")
    before = {path: path.read_bytes() for path in study.folder.rglob("*") if path.is_file()}
    copy = study.moved_to(tmp_path / "copy", how=shutil.copytree)
    assert copy.read(first) == "first"
    copy.record("second")
    assert {path: path.read_bytes() for path in study.folder.rglob("*") if path.is_file()} == before
    assert all(place.is_relative_to(copy.folder) for place in copy.places())
    assert study.read(first) == "first"
    assert len(said) == 1


def test_a_copy_of_the_store_alone_writes_nothing_into_its_original(study, tmp_path, said):
    first = study.record("first")
    alone = tmp_path / "alone"
    copy = study.moved_to(alone, how=lambda old, new: (new.mkdir(), shutil.copy(old / "mlflow.db", new)))
    second = copy.record("second")
    assert copy.read(second) == "second"
    assert copy.read(first) == "first"  # in the original, which alone has it
    assert {place for place in copy.places() if not place.is_relative_to(alone)} == {
        study.folder / "mlruns" / "1" / first / "artifacts"
    }
    assert sorted(path.name for path in (study.folder / "mlruns" / "1").iterdir()) == [first]
    gone = "its earlier artifacts are not here, and new ones are kept here"
    assert said == [f"the study in {alone} was in {study.folder} before: {gone}"]


def test_a_study_in_which_the_artifacts_were_below_is_found_where_it_stands(study, tmp_path, said):
    """MLflow, started in a folder below the store's, kept them there."""
    store = study.open()
    below = study.folder / "part" / "mlruns" / "7"
    experiment = store.mlflow.create_experiment("below", str(below))
    run_id = store.mlflow.create_run(experiment).info.run_id
    store.mlflow.log_text(run_id, "below", "curve.csv")
    moved = study.moved_to(tmp_path / "elsewhere")
    assert moved.read(run_id) == "below"
    assert moved.folder / "part" / "mlruns" / "7" in moved.places()


def test_artifacts_that_stand_elsewhere_on_purpose_are_left_there(study, tmp_path, said):
    store = study.open()
    apart = tmp_path / "apart" / "mlruns" / "7"
    experiment = store.mlflow.create_experiment("apart", str(apart))
    run_id = store.mlflow.create_run(experiment).info.run_id
    store.mlflow.log_text(run_id, "apart", "curve.csv")
    store.mlflow.create_run(experiment)  # that has none yet
    served = store.mlflow.create_experiment("served", "mlflow-artifacts:/9")
    assert study.read(run_id) == "apart"
    moved = study.moved_to(tmp_path / "elsewhere")
    assert moved.read(run_id) == "apart"
    assert moved.open().mlflow.get_experiment(served).artifact_location == "mlflow-artifacts:/9"
    assert said == []


def test_artifacts_on_a_disk_that_is_away_are_found_when_it_is_back(study, tmp_path, said):
    store = study.open()
    share = tmp_path / "share"
    experiment = store.mlflow.create_experiment("apart", str(share / "mlruns" / "7"))
    run_id = store.mlflow.create_run(experiment).info.run_id
    store.mlflow.log_text(run_id, "apart", "curve.csv")
    store.mlflow.set_terminated(run_id, "FINISHED")
    share.rename(tmp_path / "away")
    study.open()
    gone = "its earlier artifacts are not here, and new ones are kept here"
    assert said == [f"the study in {study.folder} was in {share} before: {gone}"]
    (tmp_path / "away").rename(share)
    assert study.read(run_id) == "apart"
    study.open()
    assert len(said) == 1


def test_a_store_that_is_reached_by_a_link_keeps_its_artifacts_where_it_is(study, tmp_path, said):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "mlflow.db").symlink_to(study.file)
    store = open_store(study.home, f"sqlite:///{tmp_path}/links/mlflow.db")
    run_id = store.writer.create_run({}, "a run")
    store.mlflow.log_text(run_id, "linked", "curve.csv")
    assert study.read(run_id) == "linked"
    assert all(place.is_relative_to(study.folder) for place in study.places())
    assert said == []


@pytest.mark.parametrize("how", ["its lock is held", "it recorded a heartbeat"])
def test_a_study_under_way_elsewhere_is_not_moved_under_it(study, tmp_path, how):
    store = study.open()
    parent = store.writer.create_run({"kind": "parent"}, "a command")
    store.mlflow.log_text(parent, "1", "curve.csv")
    copy = study.moved_to(tmp_path / "copy", how=shutil.copytree)  # as a container's folder is seen on the host
    lock = study.home / "parents" / f"{parent}.lock"
    lock.parent.mkdir(parents=True)
    before = copy.places()
    with FileLock(lock) if how == "its lock is held" else nullcontext(), pytest.raises(UserError) as refused:
        copy.open()
    assert str(refused.value) == (
        f"run {parent} is running in this study under another path, as in a container: wait until it has ended or, "
        "if it was killed, 120 s"
    )
    assert copy.places() == before
    if how == "its lock is held":  # and is no more
        copy.open()
        assert copy.places() != before


def test_another_store_beside_them_does_not_make_the_artifacts_a_copy(study, tmp_path, empty_database, said):
    apart = tmp_path / "apart"
    StudyFolder(apart, tmp_path / "home", empty_database)
    with sqlite3.connect(apart / "mlflow.db") as database:  # of another moment
        database.execute("UPDATE experiments SET creation_time = 1")
    store = study.open()
    experiment = store.mlflow.create_experiment("apart", str(apart / "mlruns" / "7"))
    run_id = store.mlflow.create_run(experiment).info.run_id
    store.mlflow.log_text(run_id, "apart", "curve.csv")
    assert study.read(run_id) == "apart"
    assert said == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_moved_study_that_cannot_be_written_to_says_so(empty_database):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are private
        Path(folder).chmod(0o755)
        study = StudyFolder(Path(folder, "study"), Path(folder, "home"), empty_database)
        study.record()
        moved = study.moved_to(Path(folder, "elsewhere"))
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                relocation.relocate(moved.file, moved.home)
            except UserError as error:
                expected = f"the tracking store {moved.file} was moved and cannot be written to, so "
                os._exit(0 if str(error).startswith(expected) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    mlflow.set_tracking_uri(None)


def test_the_ui_of_a_moved_study_shows_its_artifacts_and_makes_nothing(study, tmp_path, said, monkeypatch):
    study.record()
    moved = study.moved_to(tmp_path / "elsewhere")
    mlflow.set_tracking_uri(None)  # another process
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved.file}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    assert check_store_to_show(tmp_path / "home") == f"sqlite:///{moved.file}"
    assert all(place.is_relative_to(moved.folder) for place in moved.places())
    assert len(said) == 1
    with sqlite3.connect(moved.file) as database:
        assert database.execute("SELECT name FROM experiments ORDER BY 1").fetchall() == [
            ("Default",), ("lenet5-mnist",),
        ]  # fmt: skip


def test_the_ui_of_a_study_under_way_elsewhere_shows_it_as_it_is(study, tmp_path, said, monkeypatch):
    parent = study.open().writer.create_run({"kind": "parent"}, "a command")
    copy = study.moved_to(tmp_path / "copy", how=shutil.copytree)
    mlflow.set_tracking_uri(None)  # another process
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy.file}")
    before = copy.places()
    assert check_store_to_show(tmp_path / "home") == f"sqlite:///{copy.file}"
    assert (copy.places(), said) == (before, [])
    assert study.open().mlflow.get_run(parent).info.status == "RUNNING"


def test_the_ui_of_a_store_of_an_older_mlflow_says_what_to_type(study, tmp_path, monkeypatch):
    with sqlite3.connect(study.file) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.file}")
    with pytest.raises(UserError) as refused:
        check_store_to_show(tmp_path / "home")
    assert str(refused.value).startswith(
        f"the tracking store sqlite:///{study.file} cannot be used: Detected out-of-date database schema"
    )
    assert str(refused.value).endswith(f": make a copy of it, then run: mlflow db upgrade sqlite:///{study.file}")
