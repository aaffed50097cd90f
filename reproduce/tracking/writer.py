"""What is written to a run.

All writing goes by run id, never by an active run of the process: several trials and their parent may be written at
once. A write that fails is repeated while the store is away, and raises in the end: nothing is left out in silence.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mlflow.entities import Dataset as DatasetInfo
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID
from tenacity import Retrying, retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt

from reproduce.analysis import lr_range_test
from reproduce.analysis.lr_range_test import Suggestion
from reproduce.data import datasets, study_data
from reproduce.errors import StoreAwayError, TrackingError
from reproduce.files import csv_text
from reproduce.study.fields import SIZES
from reproduce.study.trial import Trial
from reproduce.tracking import reader
from reproduce.tracking.heartbeat import Heartbeat
from reproduce.tracking.logged_model import TrainedNetwork, log_model
from reproduce.tracking.retrying_client import RetryingClient
from reproduce.tracking.store_errors import describe_error
from reproduce.training import checkout, provenance
from reproduce.training.epoch_record import EpochRecord

# The metrics of an epoch are written together: an epoch is in the store if this one is.
LAST_LOGGED = reader.METRICS[0]
# Metrics that MLflow takes in one request.
BATCH = 1000
# MLflow's UI draws so many points of a metric, and leaves out others.
DRAWN_POINTS = 320
# Repeats a call that the store refuses, as it does where the row to be added exists already: a call may collide with
# others, or with an earlier attempt of one's own, twice before a refusal counts as one.
DESPITE_COLLISIONS = Retrying(
    retry=retry_if_exception_type(TrackingError) & retry_if_not_exception_type(StoreAwayError),
    stop=stop_after_attempt(3),
    reraise=True,
)


class RunWriter:
    """A writer of the runs of a store; it creates new ones in the experiment of that id."""

    def __init__(self, client: RetryingClient, heartbeat: Heartbeat, experiment_id: str) -> None:
        self.client, self.heartbeat, self.experiment_id = client, heartbeat, experiment_id

    def create_run(self, tags: dict[str, str], name: str) -> str:
        """Create a run, and return its id: one run, even if an answer was lost and the call was repeated."""
        tags = resolve_tags(tags | self.heartbeat.tags() | {"creation": uuid.uuid4().hex})
        self.client.call(self.client.mlflow.create_run, self.experiment_id, tags=tags, run_name=name)
        made, *others = self.client.search_runs(f"tags.creation = '{tags['creation']}'")
        for other in others:
            self.client.call(self.client.mlflow.delete_run, other.info.run_id)
        return str(made.info.run_id)

    def mark_reused(self, run: Run, parent_id: str) -> None:
        """Record in a finished run how often other commands reused it, and which did last, and when, in ms."""
        times, now = int(run.data.tags.get("times_reused", 0)) + 1, int(time.time() * 1000)
        tags = {"times_reused": str(times), "last_reused_by": parent_id, reader.LAST_REUSED_AT: str(now)}
        self.client.set_tags(run.info.run_id, tags)

    def open_trial(self, trial: Trial, cache_key: str, parent_id: str) -> tuple[str, bool]:
        """Return the run to record that trial in, and whether it resumes one that was interrupted."""
        for run in reader.search_trial_runs(self.client, cache_key):
            if not reader.is_finished(run) and not self.heartbeat.is_running_elsewhere(run):
                run_id, resumed = run.info.run_id, True
                times = int(run.data.tags.get("times_resumed", 0)) + 1
                tags = {MLFLOW_PARENT_RUN_ID: parent_id, "times_resumed": str(times)}
                tags |= _changed_provenance(run.data.tags)
                # The heartbeat comes first, for processes of another home.
                self.client.set_tags(run_id, tags | self.heartbeat.tags())
                self.client.call(self.client.mlflow.update_run, run_id, status="RUNNING")
                break
        else:
            tags = {
                MLFLOW_PARENT_RUN_ID: parent_id,
                "kind": reader.RANGE_TEST if trial.is_range_test else reader.TRIAL,
                "fingerprint": cache_key,
                "specification": trial.config_hash,
                "seed": str(trial.seed),
                "data_sha256": study_data.sha256(trial.dataset, trial.data_sha256),
            }
            run_id, resumed = self.create_run(tags | provenance_tags(), trial.run_name), False
        # A run that is resumed may have been stopped right after it was created.
        parameters = [Param(key, str(value)) for key, value in trial.parameters().items()]
        self.client.call(self.client.mlflow.log_batch, run_id, params=parameters)
        self.log_dataset(run_id, trial.dataset, trial.data_sha256)
        return run_id, resumed

    def record_ranks(self, run_id: str, size: int) -> None:
        """Record over how many ranks a trial's batches are split; of one that was resumed, over how many before.

        It is a part of the run's environment: a report says where the environments of its runs differ.
        """
        before = self.client.call(self.client.mlflow.get_run, run_id).data.tags.get(reader.RANKS)
        now = f"{before}, then {size}" if before and before.split(" ")[-1] != str(size) else before or str(size)
        self.client.set_tags(run_id, {reader.RANKS: now})

    def log_dataset(self, run_id: str, name: str, own: str | None = None) -> None:
        """Log which data set a run uses, with its full hash: `own` is that of a study's own data."""
        # Two runs that are the first with a data set collide. A second try finds the other's.
        DESPITE_COLLISIONS(self.client.call, self.client.mlflow.log_inputs, run_id, [_dataset_input(name, own)])

    def logged_epochs(self, run_id: str) -> set[int]:
        """Return the epochs that the run has already."""
        history = self.client.call(self.client.mlflow.get_metric_history, run_id, LAST_LOGGED)
        return {metric.step for metric in history}

    def log_epoch(self, run_id: str, record: EpochRecord) -> None:
        """Log one epoch's metrics. Those of METRICS come last, together or not at all."""
        timestamp = int(record.finished_at * 1000)
        kind = reader.RANGE_TEST if np.isnan(record.test_accuracy) else reader.TRIAL
        values = {name: getattr(record, name) for name in (*reader.metrics_of_kind(kind), "wall_seconds")}
        # A range test that holds images out is evaluated on them by step.
        validation = [
            Metric(name, value, timestamp, int(step))
            for step, *both in record.validation.tolist()
            for name, value in zip(reader.VALIDATION, both, strict=True)
        ]
        for start in range(0, len(validation), BATCH):
            self.client.call(self.client.mlflow.log_batch, run_id, metrics=validation[start : start + BATCH])
        metrics = [Metric(name, value, timestamp, record.epoch) for name, value in values.items()]
        self.client.call(self.client.mlflow.log_batch, run_id, metrics=metrics)

    def finish_trial(
        self, run_id: str, history: list[EpochRecord], files: Path, network: TrainedNetwork | None, tags: dict[str, str]
    ) -> None:
        """Log everything of a trial that is not logged yet, and mark its run as finished.

        Args:
            run_id: the trial's run.
            history: the records of all its epochs. An epoch that the store does not have is logged again.
            files: a folder whose files are logged; the curve and the provenance are written into it.
            network: the trained network; None for a trial whose network is not kept.
            tags: tags for the run.
        """
        logged = self.logged_epochs(run_id)
        for record in history:
            if record.epoch not in logged:
                self.log_epoch(run_id, record)
        if np.isnan(history[-1].test_accuracy):
            ramp = ramp_metrics(lr_range_test.curve(history), int(history[-1].finished_at * 1000))
            self.client.call(self.client.mlflow.log_batch, run_id, metrics=ramp)
        write_curve(files / reader.CURVE_FILE, history)
        (files / "environment.json").write_text(json.dumps(provenance.environment(), indent=1), encoding="utf-8")
        if diff := provenance.source().diff:
            (files / "uncommitted.diff").write_bytes(diff)
        self.client.call(self.client.mlflow.log_artifacts, run_id, str(files))
        if network is not None:
            # MLflow refuses to log a run's network again, as after an answer that was lost.
            DESPITE_COLLISIONS(self.client.call, log_model, self.client.mlflow, run_id, network)
        outcome = reader.DIVERGED if history[-1].diverged else "finished"
        self.client.set_tags(run_id, tags | {"outcome": outcome})
        self.client.call(self.client.mlflow.set_terminated, run_id, "FINISHED")

    def fail_trial(self, run_id: str, error: BaseException) -> None:
        """Mark a trial's run as failed, and record the error."""
        self.client.set_tags(run_id, {"error": describe_error(error)})
        self.client.call(self.client.mlflow.set_terminated, run_id, "FAILED")

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Log the files of a folder, as artifacts in a folder of that name."""
        self.client.call(self.client.mlflow.log_artifacts, run_id, str(folder), name)

    def log_verdicts(self, verdicts: Mapping[str, str]) -> None:
        """Record of each run, by its id, how it compares with the paper."""
        for run_id, verdict in verdicts.items():
            self.client.set_tags(run_id, {reader.VERDICT: verdict})

    def log_proposals(self, run_id: str, smoothing: float, proposals: dict[str, tuple[int, Suggestion]]) -> None:
        """Record what range tests propose, in the run of each, and by seed in their parent.

        Args:
            run_id: the parent's run.
            smoothing: the smoothing of the loss with which the proposals were read.
            proposals: seed and proposal, by the id of the range test's run.
        """
        now = int(time.time() * 1000)
        metrics = [
            Metric(reader.PROPOSED, found.learning_rate, now, seed) for seed, found in proposals.values() if found
        ]
        self.client.call(self.client.mlflow.log_batch, run_id, metrics=metrics)
        self.client.set_tags(run_id, {"smoothing_used": str(smoothing)})
        # A range test that was reused may have been read with another smoothing.
        for test_id, (_, found) in proposals.items():
            self.client.set_tags(test_id, reader.proposal_tags(found, smoothing))


def ramp_metrics(curve: lr_range_test.Curve, timestamp: int) -> list[Metric]:
    """Return a range test's losses and rates by step for MLflow's charts: means over as few steps as can be drawn.

    The rates are logarithms: the UI has no logarithmic axis for a metric.
    """
    size = max(1, math.ceil(len(curve.losses) / DRAWN_POINTS))
    return [
        Metric(name, float(values[start : start + size].mean()), timestamp, start)
        for start in range(0, len(curve.losses), size)
        for name, values in zip(reader.RAMP, (curve.losses, np.log10(curve.learning_rates)), strict=True)
    ]


def write_curve(path: Path, history: list[EpochRecord]) -> None:
    """Write every step's number, rate and raw loss as CSV."""
    steps = [
        step
        for record in history
        for step in zip(record.step_learning_rates.tolist(), record.step_losses.tolist(), strict=True)
    ]
    rows = ([number, *step] for number, step in enumerate(steps))
    path.write_text(csv_text(["step", "learning_rate", "loss"], rows), encoding="utf-8")


def provenance_tags() -> dict[str, str]:
    """Return the tags that say where a run's numbers come from: commit, changes, code and environment."""
    source = provenance.source()
    # MLflow's UI shows the first of these.
    return {
        **({MLFLOW_GIT_COMMIT: source.commit} if source.commit != checkout.UNKNOWN else {}),
        "commit": source.commit,
        "uncommitted_changes": source.uncommitted_changes,
        "code_sha256": provenance.code_sha256(),
        **{f"environment.{key}": value for key, value in provenance.environment().items()},
    }


def _changed_provenance(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags of provenance that change as a run is resumed: the first value and the last, as "A, then B"."""
    now = {key: value for key, value in provenance_tags().items() if key != MLFLOW_GIT_COMMIT}
    return {
        key: f"{tags[key].partition(', then ')[0]}, then {value}"
        for key, value in now.items()
        if tags.get(key, value).rpartition(", then ")[2] != value
    }


def _dataset_input(name: str, own: str | None) -> DatasetInput:
    full = study_data.sha256(name, own)
    known: dict[str, str] = {}
    if name in datasets.SHA256:
        known = {
            "schema": json.dumps({"images": f"uint8 (n, 1, {datasets.SIDE}, {datasets.SIDE})", "labels": "int64 (n,)"}),
            "profile": json.dumps({"training images": SIZES[name], "test images": 10_000}),
        }
    info = DatasetInfo(
        name=name,
        # MLflow has room for no more. The hashes of the files are in the source.
        digest=full[:36],
        source_type="sha256",
        source=json.dumps(datasets.SHA256.get(name, {"arrays": full})),
        **known,
    )
    return DatasetInput(info, [InputTag("mlflow.data.context", "training"), InputTag("sha256", full)])
