"""Which remedy goes with which cause, and that no other advice is given."""

import errno

import pytest

from reproduce.errors import ClusterLostError, StoreAwayError, TrackingError, TrialsFailedError
from reproduce.escaping import sentences
from reproduce.tracking import remedies
from reproduce.tracking.remedies import RESUMES


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Detected out-of-date database schema (found", "make a copy of it, then run: mlflow db upgrade sqlite:///x"),
        ("No module named 'MySQLdb'", "use an installed driver, such as postgresql+psycopg2://… or sqlite:///…"),
        ("(sqlite3.OperationalError) database or disk is full", "make room on its disk"),
        ("attempt to write a readonly database", "correct its permissions"),
        ("FATAL:  password authentication failed", "correct the user name and the password for it"),
        ("The experiment 1 must be in the 'active' state",
         "restore the experiment, or set MLFLOW_EXPERIMENT_NAME to another"),
        ("database disk image is malformed",
         "replace it with a copy of it, or set MLFLOW_TRACKING_URI to another store"),
        ("Failed to convert 'abc' for MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",
         "correct that MLflow setting, or unset its variable"),
        ("nobody knows", "correct MLFLOW_TRACKING_URI, or unset it"),
    ],
)  # fmt: skip
def test_what_to_do_about_a_store_by_what_it_says(said, remedy, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x")
    assert remedies.suggest_for_store("sqlite:///x", TrackingError(said)) == remedy


def test_a_variable_is_blamed_only_where_it_was_set(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    another = "set MLFLOW_TRACKING_URI to another store"
    assert remedies.suggest_for_store("sqlite:///x", TrackingError("?")) == another
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h")
    unset = "correct MLFLOW_TRACKING_URI, or unset it"
    assert remedies.suggest_for_store("sqlite:///x", TrackingError("?")) == unset


def test_a_store_that_is_away_is_started_or_waited_for():
    away = "start it, or correct MLFLOW_TRACKING_URI, or unset it"
    assert remedies.suggest_for_store("http://h", StoreAwayError("refused")) == away
    free = "wait until it is free, and try again"
    assert remedies.suggest_for_store("sqlite:///x", StoreAwayError("locked")) == free


def test_an_address_with_a_space_can_be_pasted_into_a_shell():
    upgrade = "make a copy of it, then run: mlflow db upgrade 'sqlite:////a b/x'"
    assert remedies.suggest_for_store("sqlite:////a b/x", TrackingError("out-of-date database schema")) == upgrade


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (KeyboardInterrupt(), RESUMES),
        (SystemExit(), RESUMES),
        (ClusterLostError("gone"), RESUMES),
        (StoreAwayError("x"), "what is done is recorded; once the store answers, the same command resumes from there"),
        (TrackingError("refused: database or disk is full"), f"make room: {RESUMES}"),
        (TrackingError("refused: attempt to write a readonly database"), f"correct its permissions: {RESUMES}"),
        (TrackingError("refused: no such run"), "what is done is in the store, or in the checkpoints"),
        (OSError(errno.ENOSPC, "No space left on device"), f"make room: {RESUMES}"),
        (PermissionError(errno.EACCES, "Permission denied"), f"correct its permissions: {RESUMES}"),
        (OSError(errno.EIO, "Input/output error"), "what is done is in the store, or in the checkpoints"),
        (TrialsFailedError("1 of 2"), "what is done is recorded; the same command tries the failed trials again"),
    ],
)
def test_that_a_command_goes_on_is_said_only_of_what_passes(error, after):
    assert remedies.suggest_after(error, "sweep") == after


def test_a_command_that_trains_nothing_says_what_is_true_of_it():
    kept = "nothing that was recorded is lost; the same command writes the report again"
    assert remedies.suggest_after(KeyboardInterrupt(), "report") == kept
    assert remedies.suggest_after(OSError(errno.ENOSPC, "No space left on device"), "report") == f"make room: {kept}"


def test_a_text_is_cut_at_a_sentence_and_never_in_a_word_or_an_address():
    text = "It is in maintenance mode (e.g., './mlruns'). Please migrate. See https://mlflow.org/docs for more."
    assert sentences(text, 99) == text
    assert sentences(text, 90) == "It is in maintenance mode (e.g., './mlruns'). Please migrate"
    assert sentences(text, 50) == "It is in maintenance mode (e.g., './mlruns')"
    assert sentences(text, 30) == "It is in maintenance mode …"
    assert sentences("x" * 40, 30) == "x" * 30 + " …"
