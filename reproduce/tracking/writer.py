"""MLflow as the record: what is written to a run.

All writing goes by run id, never by an active run of the process: several trials and their parent may be written at
once. A write that fails is made again while the store is away, as `retry.py` has it, and raises in the end: nothing
is left out in silence.
"""

import csv
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Dataset as DatasetInfo
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_BRANCH,
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_REPO_URL,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
)

from reproduce.analysis.lr_range_test import Reading
from reproduce.data import datasets
from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.progress import say
from reproduce.study.trial import SIZES, Trial
from reproduce.tracking import retry
from reproduce.tracking.heartbeat import Liveness
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
    with_cache_key,
)
from reproduce.tracking.retry import one_line
from reproduce.tracking.retrying_client import as_tags
from reproduce.training import provenance
from reproduce.training.epoch_record import EpochRecord

LAST_LOGGED = METRICS[0]  # an epoch is in the store if this is: its metrics are written together
MODEL_NAME = "model"
BATCH = 1000  # metrics that MLflow takes at a time
COLLISIONS = 2  # with others, or with an earlier try of one's own, before a refusal is taken for one
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
NETWORK = "studies/lenet5_mnist/network.py"


class Store(Liveness):
    """The store, to be written and read."""

    # Parents: one run for a command, with the trials as its children.

    @contextmanager
    def parent(self, command: str, parameters: Mapping[str, object], telling: bool = False):
        """A run for this command: the one `mlflow run` made for it, else a new one. Yields its id, and closes it.

        Closed as FINISHED, FAILED when an error comes through, KILLED when it was interrupted. `telling` is at_work's.
        """
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if run_id:
            self._set_status(run_id, "RUNNING")
        else:
            try:
                run_id = self.create_run({"kind": "parent"}, command)
            except StoreAwayError:
                raise
            except TrackingError as error:  # nothing has begun: it can be read only, say
                raise UserError(f"{error}: {self.remedy(error)}") from error
        lock = self.parent_lock(run_id)
        with lock, self.at_work(run_id, telling):
            try:
                known = self.client.get_run(run_id).data  # `mlflow run` logs parameters too, in its own spelling
                new = [Param(key, str(value)) for key, value in parameters.items() if key not in known.params]
                self.client.log_batch(run_id, params=new, tags=as_tags({"kind": "parent"} | _provenance()))
                self._correct_source(run_id, known.tags)
                yield run_id
            except BaseException as error:
                ended = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
                with suppress(*retry.TROUBLES):  # the next start closes what cannot be closed now
                    self.client.at_once.set_terminated(run_id, ended)
                    Path(lock.lock_file).unlink(missing_ok=True)
                raise
            self.client.set_terminated(run_id, "FINISHED")
            Path(lock.lock_file).unlink(missing_ok=True)

    def _correct_source(self, run_id: str, tags: dict[str, str]) -> None:
        """Say why the source is not known, and take away what `mlflow run` took for it: any repository around."""
        if trouble := provenance.source().trouble:
            say(f"{trouble}: what is not known of the source's commit and changes is recorded as unknown")
        if provenance.source().commit == provenance.UNKNOWN:
            for name in {MLFLOW_GIT_COMMIT, MLFLOW_GIT_BRANCH, MLFLOW_GIT_REPO_URL} & tags.keys():
                self.client.delete_tag(run_id, name)

    def describe_parent(self, run_id: str, done: Iterable[tuple[Trial, str, str]]) -> None:
        """Write what became of each trial, (trial, run id, how it came about), where the UI shows it and as a file."""
        rows = [{"trial": trial.label, "run_id": trial_id, "how": how} for trial, trial_id, how in done]
        counts = {how: str(sum(row["how"] == how for row in rows)) for how in ("trained", "resumed", "reused")}
        note = "\n".join(f"- {row['trial']}: {row['how']}, run `{row['run_id']}`" for row in rows[:50])
        tags = {f"trials_{how}": n for how, n in counts.items()} | {MLFLOW_RUN_NOTE: note}
        self.client.log_batch(run_id, tags=as_tags(tags))
        self.client.log_dict(run_id, rows, "trials.json")

    # Trials.

    def mark_reused(self, run: Run, parent_id: str) -> None:
        """Have a finished run say that another command took it for its own, and which did last."""
        times = int(run.data.tags.get("times_reused", 0)) + 1
        tags = {"times_reused": str(times), "last_reused_by": parent_id}
        self.client.log_batch(run.info.run_id, tags=as_tags(tags))

    def open_trial(self, trial: Trial, cache_key: str, parent_id: str) -> tuple[str, bool]:
        """The run to record that trial in, and whether it is one that was interrupted and now goes on."""
        for run in self.runs(with_cache_key(cache_key)):
            if not is_finished(run) and not self.is_alive_elsewhere(run):
                run_id, resumed = run.info.run_id, True
                times = int(run.data.tags.get("times_resumed", 0)) + 1
                tags = {MLFLOW_PARENT_RUN_ID: parent_id, "times_resumed": str(times)}
                tags |= _gone_on(run.data.tags)
                self.client.log_batch(run_id, tags=as_tags(tags | self.sign_of_life()))  # for those with another home
                self._set_status(run_id, "RUNNING")
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
            run_id, resumed = self.create_run(tags | _provenance(), trial.label), False
        # Also for one that goes on: it may have been stopped right after it was made.
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in trial.parameters().items()])
        self.log_dataset(run_id, trial.dataset)
        return run_id, resumed

    def mark_ranks(self, run_id: str, size: int) -> None:
        """Have a trial's run say over how many ranks its batches are split; one that went on, also over how many then.

        As part of its environment: a report that puts runs together tells where they differ.
        """
        before = self.client.get_run(run_id).data.tags.get(RANKS)
        now = f"{before}, then {size}" if before and before.split(" ")[-1] != str(size) else before or str(size)
        self.client.log_batch(run_id, tags=as_tags({RANKS: now}))

    def log_dataset(self, run_id: str, name: str) -> None:
        """Write which data set a run is about, with its full hash."""
        # Two runs that are the first to name a data set collide; for the second it is there now.
        self._despite_collisions(self.client.log_inputs, run_id, [_dataset_input(name)])

    def _despite_collisions(self, call: Callable, *arguments: Any) -> None:
        """Make a call again that the store refuses, as it does where a row is there already that the call would add."""
        for left in reversed(range(COLLISIONS + 1)):
            try:
                call(*arguments)
            except TrackingError as error:
                if isinstance(error, StoreAwayError) or not left:
                    raise
            else:
                return

    def logged_epochs(self, run_id: str) -> set[int]:
        """The epochs that the run already holds."""
        return {metric.step for metric in self.client.get_metric_history(run_id, LAST_LOGGED)}

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
            self.client.log_batch(run_id, metrics=judged[start : start + BATCH])
        metrics = [Metric(name, value, timestamp, record.epoch) for name, value in values.items()]
        self.client.log_batch(run_id, metrics=metrics)

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
        self.client.log_artifacts(run_id, str(files))
        if weights is not None:
            # MLflow cannot say twice that a run made a network, as where the answer to the first time was lost.
            self._despite_collisions(self.client.persist, self._log_model, run_id, weights)
        outcome = DIVERGED if history[-1].diverged else "finished"
        self.client.log_batch(run_id, tags=as_tags(tags | {"outcome": outcome}))
        self.client.set_terminated(run_id, "FINISHED")

    def _log_model(self, run_id: str, weights: Path) -> None:
        client = self.client.at_once
        experiment_id = client.get_run(run_id).info.experiment_id

        def drop_all_but(kept: str | None) -> None:
            for model in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
                if model.model_id != kept:
                    client.delete_logged_model(model.model_id)

        drop_all_but(None)  # those of an attempt that was stopped before its end
        with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature is given
            code = Path(folder) / "reproduce"
            _copy_network(code)
            logged = mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                python_model=str(MODEL_CODE),
                artifacts={"weights": str(weights)},
                code_paths=[str(code)],
                signature=ModelSignature(
                    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, datasets.SIDE, datasets.SIDE))]),
                    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10))]),
                ),
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch", "numpy", "safetensors")],
            )
        drop_all_but(logged.model_id)  # one whose making was not answered, and was asked for again

    def fail(self, run_id: str, error: BaseException) -> None:
        """Mark a trial's run as failed, with the reason."""
        self.client.set_tag(run_id, "error", one_line(error))
        self.client.set_terminated(run_id, "FAILED")

    def log_folder(self, run_id: str, folder: Path, under: str) -> None:
        """Write the files of a folder to a run."""
        self.client.log_artifacts(run_id, str(folder), under)

    def log_proposals(self, run_id: str, smoothing: float, proposals: dict[str, tuple[int, Reading]]) -> None:
        """Write what range tests, by run id, propose for their seed: to each, and to the parent by seed."""
        now = int(time.time() * 1000)
        metrics = [Metric(PROPOSED, found.learning_rate, now, seed) for seed, found in proposals.values() if found]
        self.client.log_batch(run_id, metrics=metrics, tags=as_tags({"smoothing_used": str(smoothing)}))
        for test_id, (_, found) in proposals.items():  # a finished test may have been read with another smoothing
            self.client.log_batch(test_id, tags=as_tags(proposal_tags(found, smoothing)))

    def _set_status(self, run_id: str, status: str) -> None:
        self.client.update_run(run_id, status=status)


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


def _provenance() -> dict[str, str]:
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
    now = {key: value for key, value in _provenance().items() if key != MLFLOW_GIT_COMMIT}
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


def _copy_network(folder: Path) -> None:
    """Copy the network's module and the packages around it, so that a logged model needs nothing else of ours."""
    package = MODEL_CODE.parent.parent
    for name in ("__init__.py", "studies/__init__.py", "studies/lenet5_mnist/__init__.py", NETWORK):
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((package / name).read_bytes())
