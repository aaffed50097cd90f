"""What is written to a run.

All writing goes by run id, never by an active run of the process: several trials and their parent may be written at
once. A write that fails is repeated while the store is away, and raises in the end: nothing is left out in silence.
"""

import csv
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import numpy as np
from mlflow.entities import Dataset as DatasetInfo
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID

from reproduce.analysis.lr_range_test import Reading
from reproduce.data import datasets
from reproduce.errors import StoreAwayError, TrackingError
from reproduce.study.trial import SIZES, Trial
from reproduce.tracking.heartbeat import Heartbeat
from reproduce.tracking.logged_model import log_model
from reproduce.tracking.reader import (
    CURVE_FILE,
    DIVERGED,
    METRICS,
    PROPOSED,
    RANGE_TEST,
    RANKS,
    TRIAL,
    VALIDATION,
    is_finished,
    of_kind,
    proposal_tags,
    search_trial_runs,
)
from reproduce.tracking.retrying_client import RetryingClient
from reproduce.tracking.store_errors import describe_error
from reproduce.training import provenance
from reproduce.training.epoch_record import EpochRecord

# The metrics of an epoch are written together: an epoch is in the store if this one is.
LAST_LOGGED = METRICS[0]
# Metrics that MLflow takes in one request.
BATCH = 1000
# With others, or with an earlier attempt of one's own, before a refusal counts as one.
COLLISIONS = 2

P = ParamSpec("P")


class RunWriter:
    """What writes the runs of a store, new ones in the experiment of that id."""

    def __init__(self, client: RetryingClient, heartbeat: Heartbeat, experiment_id: str) -> None:
        self.client, self.heartbeat, self.experiment_id = client, heartbeat, experiment_id

    def create_run(self, tags: dict[str, str], name: str) -> str:
        """Create a run, and return its id: one run, also where an answer was lost and the store was asked again."""
        tags = resolve_tags(tags | self.heartbeat.tags() | {"creation": uuid.uuid4().hex})
        self.client.call(self.client.mlflow.create_run, self.experiment_id, tags=tags, run_name=name)
        made, *others = self.client.search_runs(f"tags.creation = '{tags['creation']}'")
        for other in others:
            self.client.call(self.client.mlflow.delete_run, other.info.run_id)
        return str(made.info.run_id)

    def mark_reused(self, run: Run, parent_id: str) -> None:
        """Have a finished run say that another command took it for its own, and which did last."""
        times = int(run.data.tags.get("times_reused", 0)) + 1
        tags = {"times_reused": str(times), "last_reused_by": parent_id}
        self.client.set_tags(run.info.run_id, tags)

    def open_trial(self, trial: Trial, cache_key: str, parent_id: str) -> tuple[str, bool]:
        """The run to record that trial in, and whether it is one that was interrupted and now goes on."""
        for run in search_trial_runs(self.client, cache_key):
            if not is_finished(run) and not self.heartbeat.is_running_elsewhere(run):
                run_id, resumed = run.info.run_id, True
                times = int(run.data.tags.get("times_resumed", 0)) + 1
                tags = {MLFLOW_PARENT_RUN_ID: parent_id, "times_resumed": str(times)}
                tags |= _gone_on(run.data.tags)
                # The heartbeat comes first, for processes of another home.
                self.client.set_tags(run_id, tags | self.heartbeat.tags())
                self.client.call(self.client.mlflow.update_run, run_id, status="RUNNING")
                break
        else:
            tags = {
                MLFLOW_PARENT_RUN_ID: parent_id,
                "kind": RANGE_TEST if trial.is_range_test else TRIAL,
                "fingerprint": cache_key,
                "specification": trial.config_hash,
                "seed": str(trial.seed),
                "data_sha256": datasets.data_sha256(trial.dataset),
            }
            run_id, resumed = self.create_run(tags | provenance_tags(), trial.label), False
        # A run that is resumed may have been stopped right after it was created.
        parameters = [Param(key, str(value)) for key, value in trial.parameters().items()]
        self.client.call(self.client.mlflow.log_batch, run_id, params=parameters)
        self.log_dataset(run_id, trial.dataset)
        return run_id, resumed

    def record_ranks(self, run_id: str, size: int) -> None:
        """Have a trial's run say over how many ranks its batches are split; one that went on, also over how many then.

        As part of its environment: a report that puts runs together tells where they differ.
        """
        before = self.client.call(self.client.mlflow.get_run, run_id).data.tags.get(RANKS)
        now = f"{before}, then {size}" if before and before.split(" ")[-1] != str(size) else before or str(size)
        self.client.set_tags(run_id, {RANKS: now})

    def log_dataset(self, run_id: str, name: str) -> None:
        """Write which data set a run is about, with its full hash."""
        # Two runs that are the first to name a data set collide; for the second it is there now.
        self._call_despite_collisions(self.client.mlflow.log_inputs, run_id, [_dataset_input(name)])

    def _call_despite_collisions(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Repeat a call that the store refuses, as it does where a row exists already that the call would add."""
        for left in reversed(range(COLLISIONS + 1)):
            try:
                self.client.call(function, *args, **kwargs)
            except TrackingError as error:
                if isinstance(error, StoreAwayError) or not left:
                    raise
            else:
                return

    def logged_epochs(self, run_id: str) -> set[int]:
        """The epochs that the run already holds."""
        history = self.client.call(self.client.mlflow.get_metric_history, run_id, LAST_LOGGED)
        return {metric.step for metric in history}

    def log_epoch(self, run_id: str, record: EpochRecord) -> None:
        """Write one epoch's metrics: those of METRICS together or not at all, and after all others."""
        timestamp = int(record.finished_at * 1000)
        kind = RANGE_TEST if np.isnan(record.test_accuracy) else TRIAL
        values = {name: getattr(record, name) for name in (*of_kind(kind), "wall_seconds")}
        judged = [  # of a range test that holds images out: by step, not epoch
            Metric(name, value, timestamp, int(step))
            for step, *both in record.validation.tolist()
            for name, value in zip(VALIDATION, both, strict=True)
        ]
        for start in range(0, len(judged), BATCH):
            self.client.call(self.client.mlflow.log_batch, run_id, metrics=judged[start : start + BATCH])
        metrics = [Metric(name, value, timestamp, record.epoch) for name, value in values.items()]
        self.client.call(self.client.mlflow.log_batch, run_id, metrics=metrics)

    def finish_trial(
        self,
        run_id: str,
        trial: Trial,
        history: list[EpochRecord],
        files: Path,
        weights: Path | None,
        tags: dict[str, str],
    ) -> None:
        """Write what a trial leaves behind: the folder `files`, the network, provenance; then call the run finished.

        First the store is asked for every epoch, and told again of what it has not.
        """
        held = self.logged_epochs(run_id)
        for record in history:
            if record.epoch not in held:
                self.log_epoch(run_id, record)
        write_curve(files / CURVE_FILE, history)
        (files / "environment.json").write_text(json.dumps(provenance.environment(), indent=1), encoding="utf-8")
        if diff := provenance.source().diff:
            (files / "uncommitted.diff").write_bytes(diff)
        self.client.call(self.client.mlflow.log_artifacts, run_id, str(files))
        if weights is not None:
            # MLflow cannot say twice that a run made a network, as where the answer to the first time was lost.
            self._call_despite_collisions(log_model, self.client.mlflow, run_id, weights)
        outcome = DIVERGED if history[-1].diverged else "finished"
        self.client.set_tags(run_id, tags | {"outcome": outcome})
        self.client.call(self.client.mlflow.set_terminated, run_id, "FINISHED")

    def fail_trial(self, run_id: str, error: BaseException) -> None:
        """Mark a trial's run as failed, with the reason."""
        self.client.set_tags(run_id, {"error": describe_error(error)})
        self.client.call(self.client.mlflow.set_terminated, run_id, "FAILED")

    def log_folder(self, run_id: str, folder: Path, under: str) -> None:
        """Write the files of a folder to a run."""
        self.client.call(self.client.mlflow.log_artifacts, run_id, str(folder), under)

    def log_proposals(self, run_id: str, smoothing: float, proposals: dict[str, tuple[int, Reading]]) -> None:
        """Write what range tests, by run id, propose for their seed: to each, and to the parent by seed."""
        now = int(time.time() * 1000)
        metrics = [Metric(PROPOSED, found.learning_rate, now, seed) for seed, found in proposals.values() if found]
        self.client.call(self.client.mlflow.log_batch, run_id, metrics=metrics)
        self.client.set_tags(run_id, {"smoothing_used": str(smoothing)})
        for test_id, (_, found) in proposals.items():  # a finished test may have been read with another smoothing
            self.client.set_tags(test_id, proposal_tags(found, smoothing))


def write_curve(path: Path, history: list[EpochRecord]) -> None:
    """Every step's number, rate and raw loss as CSV, with the digits that give the same floats back."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "learning_rate", "loss"])
        step = 0
        for record in history:
            for rate, loss in zip(record.step_learning_rates.tolist(), record.step_losses.tolist(), strict=True):
                writer.writerow([step, repr(rate), repr(loss)])
                step += 1


def provenance_tags() -> dict[str, str]:
    """Return the tags that say where a run's numbers come from: commit, changes, code and environment."""
    source = provenance.source()
    return {
        **({MLFLOW_GIT_COMMIT: source.commit} if source.commit != provenance.UNKNOWN else {}),  # MLflow's UI shows it
        "commit": source.commit,
        "uncommitted_changes": source.uncommitted_changes,
        "code_sha256": provenance.code_sha256(),
        **{f"environment.{key}": value for key, value in provenance.environment().items()},
    }


def _gone_on(begun: dict[str, str]) -> dict[str, str]:
    """Where a run that goes on comes from elsewhere than it was begun with: both, in their order."""
    now = {key: value for key, value in provenance_tags().items() if key != MLFLOW_GIT_COMMIT}
    return {
        key: f"{begun[key].partition(', then ')[0]}, then {value}"  # the first and the last: a tag has little room
        for key, value in now.items()
        if begun.get(key, value).rpartition(", then ")[2] != value
    }


def _dataset_input(name: str) -> DatasetInput:
    full = datasets.data_sha256(name)
    info = DatasetInfo(
        name=name,
        digest=full[:36],  # all that MLflow has room for; the files' own hashes stand in the source
        source_type="sha256",
        source=json.dumps(datasets.SHA256[name]),
        schema=json.dumps({"images": f"uint8 (n, 1, {datasets.SIDE}, {datasets.SIDE})", "labels": "int64 (n,)"}),
        profile=json.dumps({"training images": SIZES[name], "test images": 10_000}),
    )
    return DatasetInput(info, [InputTag("mlflow.data.context", "training"), InputTag("sha256", full)])
