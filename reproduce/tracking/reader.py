"""What the tracking store has of finished trials. The names below are the same on every run."""

import csv
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from mlflow.entities import Run

from reproduce.analysis.lr_range_test import Reading
from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.progress import say
from reproduce.study.trial import Trial
from reproduce.tracking.retrying_client import RetryingClient

METRICS = ("train_loss", "test_accuracy", "test_accuracy_batch_mean", "learning_rate")
VALIDATION = ("validation_loss", "validation_accuracy")
PROPOSED = "proposed_learning_rate"
WEAK_GROUND = "weak_ground"
NOT_WEAK = "no"  # a tag cannot be taken back, and this overwrites one from another smoothing
CURVE_FILE = "curve.csv"
RANKS = "environment.ranks"  # over how many a trial was split; no tag is one process
RANGE_TEST, TRIAL = "range_test", "trial"  # the kinds of run that hold a trial
ASKED_FOR_BY_NAME = 100  # trials, each in a request; of more it takes less to read through all, 1,000 in a request
DIVERGED = "diverged"  # the outcome of one that ended early


@dataclass(frozen=True)
class Result:
    """A finished trial as the store has it. `epochs` maps each of METRICS to its values, one an epoch."""

    trial: Trial
    run_id: str
    experiment_id: str
    outcome: str
    epochs: dict[str, list[float]]
    tags: dict[str, str]
    started_at: datetime
    ended_at: datetime

    def last(self, metric: str) -> float:
        """The metric's value after the last epoch."""
        return self.epochs[metric][-1]


@dataclass(frozen=True)
class Recorded:
    """What a range test's run has of its proposal: a rate, with why its ground is weak if it is, or why it has none."""

    run_id: str
    learning_rate: float | None
    reason: str = ""


def proposal_tags(proposal: Reading, smoothing: float) -> dict[str, str]:
    """The tags that say what a range test proposes, or why it proposes nothing."""
    return {
        "smoothing": str(smoothing),
        PROPOSED: repr(proposal.learning_rate) if proposal else str(proposal),
        WEAK_GROUND: proposal.weak or NOT_WEAK if proposal else NOT_WEAK,
    }


def _proposed(run: Run) -> Recorded:
    """What `proposal_tags` wrote."""
    rate, weak = run.data.tags.get(PROPOSED, "no proposal is recorded"), run.data.tags.get(WEAK_GROUND, NOT_WEAK)
    try:
        return Recorded(run.info.run_id, float(rate), "" if weak == NOT_WEAK else weak)
    except ValueError:  # in words, that there is none
        return Recorded(run.info.run_id, None, rate.removeprefix("none: "))


class RunReader:
    """What reads the runs of a store."""

    def __init__(self, client: RetryingClient) -> None:
        self.client = client

    def find_finished_run(self, cache_key: str) -> Run | None:
        """The newest finished run of that cache key, in any experiment, that still has what a report reads."""
        runs = search_trial_runs(self.client, cache_key)
        return next((run for run in runs if is_finished(run) and self._has_curve(run)), None)

    def find_finished_runs(self, cache_keys: Collection[str]) -> dict[str, Run]:
        """Of each of the cache_keys that has one the newest finished run, in any experiment."""
        if len(cache_keys) > ASKED_FOR_BY_NAME:
            every = self._newest_finished("fingerprint")
            known = {cache_key: every[cache_key] for cache_key in cache_keys if cache_key in every}
            return {cache_key: run for cache_key, run in known.items() if self._has_curve(run)}
        found = {cache_key: self.find_finished_run(cache_key) for cache_key in cache_keys}
        return {cache_key: run for cache_key, run in found.items() if run}

    def finished_runs(self) -> dict[str, Run]:
        """The newest finished run of each configuration, by its hash."""
        return self._newest_finished("specification")

    def _newest_finished(self, tag: str) -> dict[str, Run]:
        found: dict[str, Run] = {}
        for run in self.client.search_runs("tags.outcome LIKE '%'"):
            if is_finished(run) and tag in run.data.tags:
                found.setdefault(run.data.tags[tag], run)
        return found

    def _has_curve(self, run: Run) -> bool:
        """Whether a range test's curve is still among its artifacts; other kinds of run are read without one."""
        if run.data.tags["kind"] != RANGE_TEST:
            return True
        try:
            return any(
                file.path == CURVE_FILE for file in self.client.call(self.client.mlflow.list_artifacts, run.info.run_id)
            )
        except StoreAwayError:
            raise
        except TrackingError:  # artifacts of a server that is not asked through it: nothing is known to be gone
            return True

    def results(self, trials: Iterable[Trial]) -> dict[Trial, Result]:
        """For each trial the newest finished run of exactly that configuration; those without one are left out."""
        found = self.finished_runs()
        here = [trial for trial in trials if trial.config_hash in found]
        read = {trial: self.result(trial, found[trial.config_hash]) for trial in here}
        return {trial: result for trial, result in read.items() if result is not None}

    def newest_proposal(self, like: Trial) -> Recorded | None:
        """What the newest finished range test of the same data, optimizer, batch and seed proposes; None without one.

        Its ramp and engine may be any.
        """
        same = {key: str(getattr(like, key)) for key in ("dataset", "train_size", "optimizer", "batch_size", "seed")}
        for run in self.client.search_runs("tags.kind = 'range_test'"):
            if is_finished(run) and same.items() <= run.data.params.items():
                return _proposed(run)
        return None

    def seeds(self) -> tuple[int, ...]:
        """The seeds of all finished trials, in rising order."""
        found = (run.data.tags.get("seed", "") for run in self.finished_runs().values())
        return tuple(sorted({int(seed) for seed in found if seed.isdecimal()}))

    def result(self, trial: Trial, run: Run) -> Result | None:
        """What that run recorded of the trial; None, which is said, where some of it is gone."""
        epochs, tags = {}, run.data.tags
        if not self._has_curve(run):
            say(
                f"run {run.info.run_id} counts as missing, as its {CURVE_FILE} is gone: put its artifacts back, "
                f"or have the command that trained {trial.label} train it again"
            )
            return None
        for name in of_kind(tags["kind"]):
            history = sorted(
                self.client.call(self.client.mlflow.get_metric_history, run.info.run_id, name),
                key=lambda metric: metric.step,
            )
            epochs[name] = [metric.value for metric in history]
            steps = [metric.step for metric in history]
            if steps != list(range(1, len(steps) + 1)) or (len(steps) != trial.epochs and tags["outcome"] != DIVERGED):
                say(
                    f"run {run.info.run_id} counts as missing, as its {name} is not there once for each of "
                    f"{trial.epochs} epochs: train {trial.label} again with --force"
                )
                return None
        begin, end = (datetime.fromtimestamp(at / 1000, UTC) for at in (run.info.start_time, run.info.end_time))
        return Result(trial, run.info.run_id, run.info.experiment_id, tags["outcome"], epochs, tags, begin, end)

    def curve(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The rates and raw losses of every step of a finished trial, both (steps,) float64."""
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


def of_kind(kind: str) -> tuple[str, ...]:
    """The metrics of a run of that kind: a range test is not evaluated."""
    return tuple(name for name in METRICS if kind != RANGE_TEST or not name.startswith("test_"))


def is_finished(run: Run) -> bool:
    """Whether a trial came to its end in that run, and all was written that the code of today reads."""
    tags = run.data.tags
    return (
        run.info.status == "FINISHED"
        and {"outcome", "specification", "kind"} <= tags.keys()
        and set(of_kind(tags["kind"])) <= run.data.metrics.keys()
    )
