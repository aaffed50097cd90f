"""MLflow as the record: what is written to a run, and what is found again.

The names below are the same on every run, so that the UI's compare view lines runs up. All writing goes by run id,
never by an active run of the process: several trials and their parent may be written at once. A failed write raises.
"""

import csv
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from filelock import FileLock, Timeout
from mlflow.entities import Dataset as DatasetInfo
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from reproduce import mnist, provenance
from reproduce.checkpoints import EpochRecord
from reproduce.errors import TrackingError, UserError
from reproduce.trial import SIZES, Trial

EXPERIMENT = "lenet5-mnist"  # where runs go unless `mlflow run` or the usual variables choose
METRICS = ("train_loss", "test_accuracy", "test_accuracy_batch_mean", "learning_rate")
VALIDATION = ("validation_loss", "validation_accuracy")
PROPOSED = "proposed_learning_rate"
CURVE_FILE, MODEL_NAME = "curve.csv", "model"
PAGE = 1000  # runs fetched at a time
MODEL_CODE = Path(__file__).with_name("serving.py")


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


class Store:
    """The tracking store that MLflow's usual variables name; by default MLflow's own, SQLite in the current directory.

    `home` holds the locks that tell whether a run's process is alive: `trials/FINGERPRINT/lock`, `parents/RUN.lock`.
    """

    def __init__(self, home: Path, uri: str | None = None, experiment_id: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        for talkative in ("alembic", "mlflow.store.db.utils"):  # a new SQLite store tells of each of its migrations
            logging.getLogger(talkative).setLevel(logging.WARNING)
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        self.uri = mlflow.get_tracking_uri()
        self.home = home
        try:
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / "store.lock"):  # two processes that both make a new SQLite store would collide
                self.client = mlflow.MlflowClient()
                self.experiment_id = experiment_id or self._choose_experiment()
        except (MlflowException, OSError) as error:
            raise UserError(f"the tracking store {self.uri} cannot be used: {_one_line(error)}") from error

    def _choose_experiment(self) -> str:
        if run_id := os.environ.get("MLFLOW_RUN_ID"):  # `mlflow run` made it, in the experiment it was told
            return self.client.get_run(run_id).info.experiment_id
        if chosen := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return chosen
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        # Tells the UI to show training runs first, not prompts and traces.
        return self.client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})

    # Parents: one run for a command, with the trials as its children.

    @contextmanager
    def parent(self, command: str, parameters: dict[str, object]):
        """A run for this command: the one `mlflow run` made for it, else a new one. Yields its id, and closes it.

        Closed as FINISHED, FAILED when an error comes through, KILLED when it was interrupted.
        """
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if run_id:
            self._write(self._set_status, run_id, "RUNNING")
        else:
            run_id = self._write(
                self.client.create_run, self.experiment_id, tags=resolve_tags({"kind": "parent"}), run_name=command
            ).info.run_id
        lock_file = self.home / "parents" / f"{run_id}.lock"
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_file):
            try:
                known = self.client.get_run(
                    run_id
                ).data.params  # `mlflow run` logs them too, and rejects other spellings
                new = [Param(key, str(value)) for key, value in parameters.items() if key not in known]
                self._write(self.client.log_batch, run_id, params=new, tags=_tags({"kind": "parent"} | _provenance()))
                yield run_id
            except (KeyboardInterrupt, SystemExit):
                self._write(self.client.set_terminated, run_id, "KILLED")
                raise
            except BaseException:
                self._write(self.client.set_terminated, run_id, "FAILED")
                raise
            else:
                self._write(self.client.set_terminated, run_id, "FINISHED")
            finally:
                lock_file.unlink(missing_ok=True)

    def describe_parent(self, run_id: str, done: Iterable[tuple[Trial, str, str]]) -> None:
        """Write what became of each trial, (trial, run id, how it came about), where the UI shows it and as a file."""
        rows = [{"trial": trial.label, "run_id": trial_id, "how": how} for trial, trial_id, how in done]
        counts = {how: str(sum(row["how"] == how for row in rows)) for how in ("trained", "resumed", "reused")}
        note = "\n".join(f"- {row['trial']}: {row['how']}, run `{row['run_id']}`" for row in rows[:50])
        self._write(
            self.client.log_batch,
            run_id,
            tags=_tags({f"trials_{how}": n for how, n in counts.items()} | {MLFLOW_RUN_NOTE: note}),
        )
        self._write(self.client.log_dict, run_id, rows, "trials.json")

    # Trials.

    def lock(self, fingerprint: str) -> FileLock:
        """The lock of whoever trains that trial."""
        directory = self.home / "trials" / fingerprint
        directory.mkdir(parents=True, exist_ok=True)
        return FileLock(directory / "lock")

    def finished(self, fingerprint: str) -> Run | None:
        """The newest finished run of that fingerprint, in any experiment."""
        return next((run for run in self._runs(f"tags.fingerprint = '{fingerprint}'") if _is_finished(run)), None)

    def mark_reused(self, run: Run, parent_id: str) -> None:
        """Have a finished run say that another command took it for its own, and which did last."""
        times = int(run.data.tags.get("times_reused", 0)) + 1
        tags = {"times_reused": str(times), "last_reused_by": parent_id}
        self._write(self.client.log_batch, run.info.run_id, tags=_tags(tags))

    def open_trial(self, trial: Trial, fingerprint: str, parent_id: str) -> tuple[str, bool]:
        """The run to record that trial in, and whether it is one that was interrupted and now goes on."""
        for run in self._runs(f"tags.fingerprint = '{fingerprint}'"):
            if not _is_finished(run):
                times = int(run.data.tags.get("times_resumed", 0)) + 1
                tags = {MLFLOW_PARENT_RUN_ID: parent_id, "times_resumed": str(times)}
                self._write(self.client.log_batch, run.info.run_id, tags=_tags(tags))
                self._write(self._set_status, run.info.run_id, "RUNNING")
                return run.info.run_id, True
        tags = {
            MLFLOW_PARENT_RUN_ID: parent_id,
            "kind": "range_test" if trial.is_range_test else "trial",
            "fingerprint": fingerprint,
            "specification": trial.specification,
            "seed": str(trial.seed),
            "data_sha256": mnist.data_sha256(trial.dataset),
            "code_sha256": provenance.code_sha256(),
        }
        run = self._write(
            self.client.create_run, self.experiment_id, tags=resolve_tags(tags | _provenance()), run_name=trial.label
        )
        self._write(
            self.client.log_batch,
            run.info.run_id,
            params=[Param(key, str(value)) for key, value in trial.parameters().items()],
        )
        self.log_dataset(run.info.run_id, trial.dataset)
        return run.info.run_id, False

    def log_dataset(self, run_id: str, name: str) -> None:
        """Write which data set a run is about, with its full hash."""
        inputs = [_dataset_input(name)]
        try:
            self.client.log_inputs(run_id, datasets=inputs)
        except (
            MlflowException
        ):  # two runs that are the first to name a data set collide; for the second it is there now
            self._write(self.client.log_inputs, run_id, datasets=inputs)

    def logged_epochs(self, run_id: str) -> set[int]:
        """The epochs that the run already holds."""
        return {metric.step for metric in self.client.get_metric_history(run_id, "train_loss")}

    def log_epoch(self, run_id: str, record: EpochRecord) -> None:
        """Write one epoch's metrics, all in one go: they are there together or not at all."""
        timestamp = int(record.finished_at * 1000)
        values = {name: getattr(record, name) for name in (*METRICS, "wall_seconds")}
        if np.isnan(record.test_accuracy):  # a range test is not evaluated
            values = {name: value for name, value in values.items() if not name.startswith("test_")}
        metrics = [Metric(name, value, timestamp, record.epoch) for name, value in values.items()]
        for step, *judged in record.validation.tolist():  # of a range test that holds images out: by step, not epoch
            metrics += [
                Metric(name, value, timestamp, int(step)) for name, value in zip(VALIDATION, judged, strict=True)
            ]
        self._write(self.client.log_batch, run_id, metrics=metrics)

    def finish_trial(
        self,
        run_id: str,
        trial: Trial,
        history: list[EpochRecord],
        files: Path,
        weights: Path | None,
        tags: dict[str, str],
    ) -> None:
        """Write what a trial leaves behind: the folder `files`, the network, provenance; then call the run finished."""
        write_curve(files / CURVE_FILE, history)
        (files / "environment.json").write_text(json.dumps(provenance.environment(), indent=1))
        if provenance.uncommitted_changes():
            (files / "uncommitted.diff").write_text(provenance.uncommitted_changes())
        self._write(self.client.log_artifacts, run_id, str(files))
        if weights is not None:
            self._log_model(run_id, weights)
        outcome = "diverged" if history[-1].diverged else "finished"
        self._write(self.client.log_batch, run_id, tags=_tags(tags | {"outcome": outcome}))
        self._write(self.client.set_terminated, run_id, "FINISHED")

    def _log_model(self, run_id: str, weights: Path) -> None:
        outputs = self.client.get_run(run_id).outputs
        for earlier in outputs.model_outputs if outputs else []:  # of an attempt that was killed before its end
            self.client.delete_logged_model(earlier.model_id)
        with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature is given
            code = Path(folder) / "reproduce"  # the network alone, so that the model needs nothing else of ours
            code.mkdir()
            for name in ("__init__.py", "lenet5.py"):
                (code / name).write_bytes((MODEL_CODE.parent / name).read_bytes())
            mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                python_model=str(MODEL_CODE),
                artifacts={"weights": str(weights)},
                code_paths=[str(code)],
                signature=ModelSignature(
                    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, mnist.SIDE, mnist.SIDE))]),
                    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10))]),
                ),
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch", "numpy", "safetensors")],
            )

    def close_abandoned(self) -> None:
        """Mark as KILLED the runs whose process is gone: those still RUNNING whose lock is there and nobody holds."""
        for run in self._runs("attributes.status = 'RUNNING'"):
            fingerprint = run.data.tags.get("fingerprint")
            if fingerprint:
                lock_file = self.home / "trials" / fingerprint / "lock"
            else:
                lock_file = self.home / "parents" / f"{run.info.run_id}.lock"
            if not lock_file.exists():
                continue  # made elsewhere, or not by us: nothing is known of it
            try:
                with FileLock(lock_file, blocking=False):
                    self._write(self.client.set_terminated, run.info.run_id, "KILLED")
                if not fingerprint:
                    lock_file.unlink(missing_ok=True)
            except Timeout:
                continue  # at work

    def fail(self, run_id: str, error: BaseException) -> None:
        """Mark a trial's run as failed, with the reason."""
        self._write(self.client.set_tag, run_id, "error", _one_line(error)[:500])
        self._write(self.client.set_terminated, run_id, "FAILED")

    # Reading.

    def finished_runs(self) -> dict[str, Run]:
        """The newest finished run of each specification."""
        found: dict[str, Run] = {}
        for run in self._runs("tags.outcome LIKE '%'"):
            if _is_finished(run):
                found.setdefault(run.data.tags.get("specification"), run)
        return found

    def results(self, trials: Iterable[Trial]) -> dict[Trial, Result]:
        """For each trial the newest finished run of exactly that specification; those without one are left out."""
        found = self.finished_runs()
        return {trial: self.result(trial, found[trial.specification]) for trial in trials
                if trial.specification in found}  # fmt: skip

    def newest_proposal(self, like: Trial) -> tuple[float | None, str | None]:
        """What the newest finished range test of the same data, optimizer, batch and seed proposes, and its run.

        Its ramp and engine may be any. None, None without such a run; None and the run where its loss never fell.
        """
        same = {key: str(getattr(like, key)) for key in ("dataset", "train_size", "optimizer", "batch_size", "seed")}
        for run in self._runs("tags.kind = 'range_test'"):
            if _is_finished(run) and same.items() <= run.data.params.items():
                try:
                    return float(run.data.tags[PROPOSED]), run.info.run_id
                except ValueError:  # in words, that there is none
                    return None, run.info.run_id
        return None, None

    def seeds(self) -> tuple[int, ...]:
        """The seeds of all finished trials, in rising order."""
        return tuple(sorted({int(run.data.tags["seed"]) for run in self._runs("tags.outcome LIKE '%'")}))

    def result(self, trial: Trial, run: Run) -> Result:
        """What that run recorded of the trial."""
        epochs = {}
        for name in METRICS:
            if name in run.data.metrics:
                history = self.client.get_metric_history(run.info.run_id, name)
                epochs[name] = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
        tags = run.data.tags
        begin, end = (datetime.fromtimestamp(at / 1000, UTC) for at in (run.info.start_time, run.info.end_time))
        return Result(trial, run.info.run_id, run.info.experiment_id, tags["outcome"], epochs, tags, begin, end)

    def curve(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The rates and raw losses of every step of a finished trial, both (steps,) float64."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self.client.download_artifacts(run_id, CURVE_FILE, folder)
            except (MlflowException, OSError) as error:
                raise UserError(f"run {run_id} has lost its {CURVE_FILE}: {_one_line(error)}") from error
            with Path(path).open(newline="") as file:
                rows = list(csv.DictReader(file))
        return np.array([float(row["learning_rate"]) for row in rows]), np.array([float(row["loss"]) for row in rows])

    def log_folder(self, run_id: str, folder: Path, under: str) -> None:
        """Write the files of a folder to a run."""
        self._write(self.client.log_artifacts, run_id, str(folder), under)

    def log_proposals(self, run_id: str, smoothing: float, proposals: dict[str, tuple[int, float]]) -> None:
        """Write what range tests, by run id, propose for their seed: to each, and to the parent by seed."""
        now = int(time.time() * 1000)
        metrics = [Metric(PROPOSED, rate, now, seed) for seed, rate in proposals.values()]
        self._write(self.client.log_batch, run_id, metrics=metrics, tags=_tags({"smoothing_used": str(smoothing)}))
        for test_id, (_, rate) in proposals.items():  # a finished test may have been read with another smoothing
            self._write(self.client.log_batch, test_id, tags=_tags({"smoothing": str(smoothing), PROPOSED: repr(rate)}))

    def _runs(self, condition: str) -> list[Run]:
        """All runs that meet the condition, in every experiment, the newest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        found, token = [], None
        while True:
            page = self.client.search_runs(
                experiments, condition, ViewType.ACTIVE_ONLY, PAGE, ["attributes.start_time DESC"], token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _set_status(self, run_id: str, status: str) -> None:
        self.client.update_run(run_id, status=status)

    def _write(self, call: Callable, *arguments, **named):
        try:
            return call(*arguments, **named)
        except (MlflowException, OSError) as error:
            raise TrackingError(f"the tracking store {self.uri} refused a write: {_one_line(error)}") from error


def write_curve(path: Path, history: list[EpochRecord]) -> None:
    """Every step's number, rate and raw loss as CSV, with the digits that give the same floats back."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "learning_rate", "loss"])
        step = 0
        for record in history:
            for rate, loss in zip(record.step_learning_rates.tolist(), record.step_losses.tolist(), strict=True):
                writer.writerow([step, repr(rate), repr(loss)])
                step += 1


def _is_finished(run: Run) -> bool:
    return run.info.status == "FINISHED" and "outcome" in run.data.tags


def _provenance() -> dict[str, str]:
    return {
        "commit": provenance.commit(),
        "uncommitted_changes": "yes" if provenance.uncommitted_changes() else "no",
        **{f"environment.{key}": value for key, value in provenance.environment().items()},
    }


def _dataset_input(name: str) -> DatasetInput:
    full = mnist.data_sha256(name)
    info = DatasetInfo(
        name=name,
        digest=full[:36],  # all that MLflow has room for; the files' own hashes stand in the source
        source_type="sha256",
        source=json.dumps(mnist.SHA256[name]),
        schema=json.dumps({"images": f"uint8 (n, 1, {mnist.SIDE}, {mnist.SIDE})", "labels": "int64 (n,)"}),
        profile=json.dumps({"training images": SIZES[name], "test images": 10_000}),
    )
    return DatasetInput(info, [InputTag("mlflow.data.context", "training"), InputTag("sha256", full)])


def _tags(tags: dict[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
