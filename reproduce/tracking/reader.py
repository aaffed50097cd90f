"""Finished trials, read from a store. The recorded names below are the same on every run."""

import csv
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from mlflow.entities import Run

from reproduce.analysis.lr_range_test import Suggestion
from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.progress import say
from reproduce.study.trial import Trial
from reproduce.tracking.retrying_client import RetryingClient

METRICS = ("train_loss", "test_accuracy", "test_accuracy_batch_mean", "learning_rate")
VALIDATION = ("validation_loss", "validation_accuracy")
# A range test's, by step.
RAMP = ("step_loss", "log10_learning_rate")
PROPOSED = "proposed_learning_rate"
WEAK_GROUND = "weak_ground"
# It overwrites the tag of a proposal with another smoothing.
NOT_WEAK = "no"
CURVE_FILE = "curve.csv"
# Over how many ranks a trial was split. Without this tag it was one process.
RANKS = "environment.ranks"
# What became of the trial beside the paper: agrees, differs, inconclusive, or no figure.
VERDICT = "verdict"
# In ms since 1970.
LAST_REUSED_AT = "last_reused_at"
# The kinds of run that hold a trial.
RANGE_TEST, TRIAL = "range_test", "trial"
# Up to so many trials are searched one by one. For more it is faster to list all runs, 1,000 in a request.
SEARCHED_ONE_BY_ONE = 100
# The outcome of a trial that ended early.
DIVERGED = "diverged"


@dataclass(frozen=True)
class Result:
    """A finished trial as the store has it. `epochs` maps each of METRICS to its values, one for each epoch."""

    trial: Trial
    run_id: str
    experiment_id: str
    outcome: str
    epochs: dict[str, list[float]]
    tags: dict[str, str]
    started_at: datetime
    ended_at: datetime

    def last(self, metric: str) -> float:
        """Return the metric's value after the last epoch."""
        return self.epochs[metric][-1]


@dataclass(frozen=True)
class RecordedProposal:
    """The proposal in a range test's run. `reason` says why the rate is doubtful, if it is, or why there is none."""

    run_id: str
    learning_rate: float | None
    reason: str = ""


def proposal_tags(proposal: Suggestion, smoothing: float) -> dict[str, str]:
    """Return the tags that say what a range test proposes, or why it proposes nothing."""
    return {
        "smoothing": str(smoothing),
        PROPOSED: repr(proposal.learning_rate) if proposal else str(proposal),
        WEAK_GROUND: proposal.weak or NOT_WEAK if proposal else NOT_WEAK,
    }


def _last_used_at(run: Run) -> int:
    """Return when a command trained or reused the run last, in ms."""
    return int(run.data.tags.get(LAST_REUSED_AT, run.info.start_time))


def _read_proposal(run: Run) -> RecordedProposal:
    """Return what the run's `proposal_tags` say."""
    rate, weak = run.data.tags.get(PROPOSED, "no proposal is recorded"), run.data.tags.get(WEAK_GROUND, NOT_WEAK)
    try:
        return RecordedProposal(run.info.run_id, float(rate), "" if weak == NOT_WEAK else weak)
    except ValueError:
        # The tag says in words that there is none.
        return RecordedProposal(run.info.run_id, None, rate.removeprefix("none: "))


class RunReader:
    """A reader of the runs of a store; `once`, for a command that trains nothing: it lists the finished runs once."""

    def __init__(self, client: RetryingClient, once: bool = False) -> None:
        self.client, self.once = client, once
        self.source = f"the tracking store {client.shown_uri}"
        self._finished_runs: dict[str, Run] | None = None

    def find_finished_run(self, cache_key: str) -> Run | None:
        """Return the newest finished run of that cache key, in any experiment, that still has what a report reads."""
        runs = search_trial_runs(self.client, cache_key)
        return next((run for run in runs if is_finished(run) and self._has_curve(run)), None)

    def find_finished_runs(self, cache_keys: Collection[str]) -> dict[str, Run]:
        """Return the newest finished run of each cache key that has one, in any experiment."""
        if len(cache_keys) > SEARCHED_ONE_BY_ONE:
            newest = self._newest_by_tag("fingerprint")
            known = {cache_key: newest[cache_key] for cache_key in cache_keys if cache_key in newest}
            return {cache_key: run for cache_key, run in known.items() if self._has_curve(run)}
        found = {cache_key: self.find_finished_run(cache_key) for cache_key in cache_keys}
        return {cache_key: run for cache_key, run in found.items() if run}

    def finished_runs(self) -> dict[str, Run]:
        """Return the newest finished run of each configuration, by the configuration's hash."""
        if self._finished_runs is None or not self.once:
            self._finished_runs = self._newest_by_tag("specification")
        return self._finished_runs

    def _newest_by_tag(self, tag: str) -> dict[str, Run]:
        found: dict[str, Run] = {}
        for run in self.client.search_runs("tags.outcome LIKE '%'"):
            if is_finished(run) and tag in run.data.tags:
                found.setdefault(run.data.tags[tag], run)
        return found

    def _has_curve(self, run: Run) -> bool:
        """Return whether a range test's curve is still among its artifacts. Other runs are read without a curve."""
        if run.data.tags["kind"] != RANGE_TEST:
            return True
        try:
            return any(
                file.path == CURVE_FILE for file in self.client.call(self.client.mlflow.list_artifacts, run.info.run_id)
            )
        except StoreAwayError:
            raise
        except TrackingError:
            # The artifacts are on a server that the store does not ask: the curve is not known to be gone.
            return True

    def results(self, trials: Iterable[Trial]) -> dict[Trial, Result]:
        """Return for each trial the newest finished run of exactly that configuration, if there is one."""
        found = self.finished_runs()
        read = {trial: self.result(trial, found[trial.config_hash]) for trial in trials if trial.config_hash in found}
        return {trial: result for trial, result in read.items() if result is not None}

    def newest_proposal(self, like: Trial) -> RecordedProposal | None:
        """Return what the range test of the same data, optimizer, batch size and seed that was used last proposes.

        That is the one that a command trained or reused last. Its ramp and engine may differ. None where there is no
        such run.
        """
        same = {key: str(getattr(like, key)) for key in ("dataset", "train_size", "optimizer", "batch_size", "seed")}
        runs = self.client.search_runs("tags.kind = 'range_test'")
        finished = [run for run in runs if is_finished(run) and same.items() <= run.data.params.items()]
        return _read_proposal(max(finished, key=_last_used_at)) if finished else None

    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of all finished trials, in rising order."""
        found = (run.data.tags.get("seed", "") for run in self.finished_runs().values())
        return tuple(sorted({int(seed) for seed in found if seed.isdecimal()}))

    def result(self, trial: Trial, run: Run) -> Result | None:
        """Return what that run recorded of the trial. Where some of it is gone, tell the user and return None."""
        epochs: dict[str, list[float]] = {}
        tags = run.data.tags
        if not self._has_curve(run):
            say(
                f"run {run.info.run_id} counts as missing, because its {CURVE_FILE} is gone: put its artifacts back, "
                f"or type the command that trained {trial.label} again"
            )
            return None
        for name in metrics_of_kind(tags["kind"]):
            history = sorted(
                self.client.call(self.client.mlflow.get_metric_history, run.info.run_id, name),
                key=lambda metric: metric.step,
            )
            epochs[name] = [metric.value for metric in history]
            steps = [metric.step for metric in history]
            if steps != list(range(1, len(steps) + 1)) or (len(steps) != trial.epochs and tags["outcome"] != DIVERGED):
                say(
                    f"run {run.info.run_id} counts as missing, because its {name} is not recorded exactly once "
                    f"for each of {trial.epochs} epochs: train {trial.label} again with --force"
                )
                return None
        begin, end = (
            datetime.fromtimestamp(at / 1000, timezone.utc) for at in (run.info.start_time, run.info.end_time)
        )
        return Result(trial, run.info.run_id, run.info.experiment_id, tags["outcome"], epochs, tags, begin, end)

    def curve(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates and raw losses of every step of a finished trial, both (steps,) float64."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self.client.call(self.client.mlflow.download_artifacts, run_id, CURVE_FILE, folder)
            except StoreAwayError:
                raise
            except TrackingError as error:
                raise UserError(f"run {run_id} has lost its {CURVE_FILE}: {error}") from error
            with Path(path).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        return np.array([float(row["learning_rate"]) for row in rows]), np.array([float(row["loss"]) for row in rows])


def search_trial_runs(client: RetryingClient, cache_key: str) -> list[Run]:
    """Return the runs of that trial, the newest first."""
    return client.search_runs(f"tags.fingerprint = '{cache_key}'")


def metrics_of_kind(kind: str) -> tuple[str, ...]:
    """Return the metrics of a run of that kind. A range test is not evaluated."""
    return tuple(name for name in METRICS if kind != RANGE_TEST or not name.startswith("test_"))


def is_finished(run: Run) -> bool:
    """Return whether a trial ended in that run, and everything is written that this version reads."""
    tags = run.data.tags
    return (
        run.info.status == "FINISHED"
        and {"outcome", "specification", "kind"} <= tags.keys()
        and set(metrics_of_kind(tags["kind"])) <= run.data.metrics.keys()
    )
