"""A store that is away, and one that refuses. A server killed and a database locked for real are with the faults."""

import errno
import threading

import mlflow
import pytest
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE

from helpers.faults import PATIENCE_SECONDS
from helpers.small import small_config
from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.study import planning
from reproduce.tracking.retrying_client import RetryingClient, configure_mlflow, retry_timeout
from reproduce.tracking.store_errors import is_temporary


def answered(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status}", response=response)


def of_database(words):
    return MlflowException(f"(sqlite3.OperationalError) {words}", TEMPORARILY_UNAVAILABLE)


def of_postgres(words):
    return MlflowException(f"(psycopg2.OperationalError) {words}", TEMPORARILY_UNAVAILABLE)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (requests.ConnectionError("refused"), True),
        (requests.Timeout("30 s"), True),
        (requests.exceptions.ChunkedEncodingError("cut off"), True),
        (answered(503), True),
        (answered(404), False),
        (of_database("database is locked"), True),
        (of_database("database or disk is full"), False),
        (of_database("attempt to write a readonly database"), False),
        (sqlalchemy.exc.OperationalError("BEGIN", None, Exception("database is locked")), True),
        (of_postgres("server closed the connection unexpectedly"), True),
        (of_postgres("FATAL:  sorry, too many clients already"), True),
        (of_postgres("deadlock detected"), True),
        (of_postgres('FATAL:  password authentication failed for user "mlflow"'), False),
        (of_postgres('FATAL:  no pg_hba.conf entry for host "10.0.0.7"'), False),
        (of_postgres('FATAL:  database "none" does not exist'), False),
        (of_postgres('could not extend file "base/5/2619": No space left on device'), False),
        (MlflowException("no such experiment", BAD_REQUEST), False),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("ours"), False),
    ],
)
def test_what_passes_is_told_from_what_lasts(error, away):
    assert is_temporary(error) is away


def test_a_server_that_is_not_there_is_away(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException) as raised:
        mlflow.MlflowClient("http://127.0.0.1:9").search_experiments()
    assert is_temporary(raised.value)


class Refusing:
    """Stands in for MLflow's own requests, and notes how often it would repeat each."""

    def __init__(self):
        self.retries = []

    def __call__(self, method, url, max_retries, *rest, **named):
        self.retries.append(max_retries)
        raise requests.ConnectionError("refused")


class Troubled:
    """Raises what it is given, one error a call, and then answers."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    def ask(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_a_call_is_made_again_until_the_store_is_back_and_that_is_said_once(capfd):
    troubled = Troubled(requests.ConnectionError("refused"), requests.ConnectionError("refused"))
    assert RetryingClient("http://store", 60).call(troubled.ask) == "answer"
    assert troubled.calls == 3
    assert capfd.readouterr().err.splitlines() == [
        "the tracking store http://store does not answer (refused); waiting for it, for up to 60 s",
        "the tracking store http://store is back",
    ]


def test_mlflow_repeats_a_request_twice_and_no_more(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setattr("mlflow.utils.rest_utils._get_http_response_with_retries", refuse := Refusing())
    configure_mlflow()
    client = RetryingClient("http://127.0.0.1:9", 0)
    with pytest.raises(StoreAwayError):
        client.call(lambda: client.mlflow.get_run("0" * 32))
    assert refuse.retries == [2]


def test_it_is_not_waited_for_longer_than_told():
    troubled = Troubled(requests.ConnectionError("refused"))
    with pytest.raises(StoreAwayError, match=r"the tracking store http://store does not answer \(refused\)"):
        RetryingClient("http://store", 0).call(troubled.ask)
    assert troubled.calls == 1


def test_a_refusal_is_not_waited_for():
    troubled = Troubled(of_database("database or disk is full"))
    with pytest.raises(TrackingError, match=r"refused: .*disk is full"):
        RetryingClient("http://store", 60).call(troubled.ask)
    assert troubled.calls == 1


def test_what_is_no_trouble_of_the_stores_comes_through():
    with pytest.raises(ValueError, match="ours"):
        RetryingClient("http://store", 60).call(Troubled(ValueError("ours")).ask)


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("REPRODUCE_STORE_PATIENCE", text)
    with pytest.raises(UserError, match=r"REPRODUCE_STORE_PATIENCE is .*, expected a number of seconds from 0"):
        retry_timeout()


def test_a_run_whose_making_was_not_answered_is_found_again_and_not_made_twice(store, paper, monkeypatch):
    client, create, calls = store.mlflow, store.mlflow.create_run, []

    def answer_lost(*arguments, **named):
        made = create(*arguments, **named)
        calls.append(made.info.run_id)
        if len(calls) == 1:
            raise requests.ConnectionError("cut off")
        return made

    monkeypatch.setattr(client, "create_run", answer_lost)
    trial = planning.trials(paper, small_config())[0]
    run_id, resumed = store.writer.open_trial(trial, "fingerprint", "parent")
    assert len(calls) == 2
    assert run_id in calls
    assert not resumed
    assert [run.info.run_id for run in store.client.search_runs("tags.fingerprint = 'fingerprint'")] == [run_id]


def test_a_call_that_takes_long_is_told_while_it_lasts_and_once(monkeypatch):
    said, told = [], threading.Event()

    def say(line):
        said.append(line)
        told.set()

    monkeypatch.setattr("reproduce.progress.say", say)
    monkeypatch.setattr("reproduce.tracking.retrying_client.say", say)
    monkeypatch.setattr("reproduce.progress.SILENT_SECONDS", 0)
    assert RetryingClient("sqlite:///x", 7).call(told.wait, PATIENCE_SECONDS)  # it ends once the line is said
    assert said == [
        "the tracking store sqlite:///x is slow to answer; waiting for it, for up to 7 s",
        "the tracking store sqlite:///x is back",
    ]


def test_a_call_that_is_quick_is_not_told(monkeypatch):
    said = []
    monkeypatch.setattr("reproduce.progress.say", said.append)
    monkeypatch.setattr("reproduce.progress.SILENT_SECONDS", PATIENCE_SECONDS)
    assert RetryingClient("sqlite:///x", 7).call(lambda: "done") == "done"
    assert said == []
