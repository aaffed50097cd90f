"""An MLflow client that repeats a call while the tracking store is away.

This is the one retry that waits: for every kind of store, for as long as REPRODUCE_STORE_PATIENCE says, and not without
a word to the user. MLflow's own retry knows HTTP only. It stays on, cut to two repeats within seconds, as it repeats a
single request, and this one repeats a whole call. Logging a trained model is one call of many requests: on a network
that loses many of them, the whole call may fail again and again.
"""

import copy
import logging
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import ParamSpec, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.store.entities import PagedList
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.utils import get_results_from_paginated_fn
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.escaping import without_credentials
from reproduce.progress import say, say_if_slow
from reproduce.tracking.store_errors import STORE_ERRORS, describe_error, is_temporary

# The environment variable for the retry timeout, in seconds.
RETRY_TIMEOUT = "REPRODUCE_STORE_PATIENCE"
# A server's restart, or somebody's backup of the database, takes less.
DEFAULT_TIMEOUT_SECONDS = 300
LONGEST_WAIT_SECONDS = 10
# A store of one file is slow while several workers write to it: a call is announced later than other work that is slow.
PATIENCE = 4
# Variables of MLflow's that would change what is recorded: metrics of another model, or written at some later time.
REMOVED_VARIABLES = ("MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_ENABLE_ASYNC_LOGGING")
# Experiments, or runs, in one request.
PAGE = 1000

P = ParamSpec("P")
T = TypeVar("T")


def retry_timeout() -> float:
    """Return for how many seconds calls are repeated: 300, or as REPRODUCE_STORE_PATIENCE says.

    UserError where that is no number of seconds.
    """
    text = os.environ.get(RETRY_TIMEOUT, str(DEFAULT_TIMEOUT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{RETRY_TIMEOUT} is {text!r}, expected a number of seconds from 0, such as 300")
    return seconds


def configure_mlflow() -> None:
    """Cut MLflow's own retry, and turn off what it prints and what it records of other repositories."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow repeats a request that is lost once within seconds. `call` waits for longer outages, and says so.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for variable in REMOVED_VARIABLES:
        os.environ.pop(variable, None)
    # MLflow takes the commit of any repository around the script for the source's. `provenance` finds the right one.
    setattr(GitRunContext, "in_context", lambda context: False)  # noqa: B010
    # A new SQLite store logs each of its migrations, and a failed one its traceback before it raises.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


class RetryingClient:
    """An MLflow client, connected at its first use, and `call`, which repeats a call while the store is away.

    Use it as `client.call(client.mlflow.get_run, run_id)`. A call whose answer was lost is made twice.
    """

    def __init__(self, uri: str, timeout: float) -> None:
        self.uri, self.shown_uri = uri, without_credentials(uri)
        self.timeout = timeout

    @cached_property
    def mlflow(self) -> MlflowClient:
        """The client itself, without retries. Connecting may fail as any call may."""
        return MlflowClient(self.uri)

    def with_timeout(self, seconds: float) -> "RetryingClient":
        """Return a client of the same connection that gives up after that many seconds."""
        other = copy.copy(self)
        other.timeout = seconds
        return other

    @property
    def no_wait(self) -> "RetryingClient":
        """A client of the same connection that calls once and tells the user nothing."""
        return self.with_timeout(0)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns, called as often as it takes.

        StoreAwayError once `timeout` seconds have passed without an answer, TrackingError at once where the store
        refuses.
        """
        announced = threading.Event()
        wait = f"waiting for it, for up to {self.timeout:g} s"

        def announce(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error is not None and not announced.is_set():
                announced.set()
                say(f"{self.describe_outage(error)}; {wait}")

        def attempt() -> T:
            slow = f"the tracking store {self.shown_uri} is slow to answer; {wait}"
            with say_if_slow(slow, announced, PATIENCE) if self.timeout else nullcontext():
                return function(*args, **kwargs)

        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and is_temporary(error)),
            wait=wait_exponential(multiplier=0.5, max=LONGEST_WAIT_SECONDS),
            stop=stop_after_delay(self.timeout),
            before_sleep=announce,
            reraise=True,
        )
        try:
            result = attempts(attempt)
        except STORE_ERRORS as error:
            if is_temporary(error):
                raise StoreAwayError(self.describe_outage(error)) from error
            raise TrackingError(f"the tracking store {self.shown_uri} refused: {describe_error(error)}") from error
        if announced.is_set():
            say(f"the tracking store {self.shown_uri} is back")
        return result

    def describe_outage(self, error: BaseException) -> str:
        """Return what is said of a store that is away."""
        return f"the tracking store {self.shown_uri} does not answer ({describe_error(error)})"

    def search_runs(self, condition: str) -> list[Run]:
        """Return all runs that meet the condition, in every experiment, the newest first."""
        experiments = self._fetch_pages(self.mlflow.search_experiments)
        ids, newest_first = [found.experiment_id for found in experiments], ["attributes.start_time DESC"]
        return self._fetch_pages(self.mlflow.search_runs, ids, condition, order_by=newest_first)

    def _fetch_pages(self, search: "Callable[..., PagedList[T]]", *args: object, **kwargs: object) -> list[T]:
        """Return all that a search finds. It gives one page, with a token for the next."""

        def fetch(size: int, token: str | None) -> PagedList[T]:
            return self.call(search, *args, **kwargs, max_results=size, page_token=token)

        found: list[T] = get_results_from_paginated_fn(fetch, PAGE)  # type: ignore[no-untyped-call]
        return found

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags of a run, all in one request."""
        self.call(self.mlflow.log_batch, run_id, tags=[RunTag(key, value) for key, value in tags.items()])
