"""One trial, in whatever process this is: trained and recorded, reused, or left to whoever is at it."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import Timeout

from reproduce.data import datasets
from reproduce.errors import TrackingError, TrialsFailedError
from reproduce.execution import interruption
from reproduce.study.trial import Trial
from reproduce.tracking.locks import trial_lock
from reproduce.tracking.store import TrackingStore, reopen_store
from reproduce.tracking.store_errors import describe_error
from reproduce.training import distributed
from reproduce.training.checkpoints import last_weights, saved_epochs
from reproduce.training.epoch_record import EpochRecord

How = Literal["trained", "resumed", "reused", "busy", "failed"]
ELSEWHERE_CHECK_SECONDS = 10


@dataclass(frozen=True)
class TrialTask:
    """All that a worker needs to know. `artifacts` draws what the record should show into a folder.

    `parent_pid` is the process that a worker does not outlive; None where a cluster sees to that.
    """

    trial: Trial
    cache_key: str
    home: Path
    tracking_uri: str
    experiment_id: str
    parent_id: str
    parent_pid: int | None
    local_rank: int
    kernel: Path | None
    reuse: bool
    wait: bool
    artifacts: Callable[[Trial, list[EpochRecord], Path], dict[str, str]]
    node: str = ""  # of a cluster

    @property
    def directory(self) -> Path:
        """Where the trial keeps its checkpoints."""
        return self.home / "trials" / self.cache_key


@dataclass(frozen=True)
class TrialOutcome:
    """What became of a trial. `run_id` is empty where none was begun."""

    trial: Trial
    run_id: str
    how: How
    note: str = field(default="")

    def __str__(self) -> str:
        return f"{self.trial.label}: {self.how}{self.note and ', ' + self.note}"


def run_trial(task: TrialTask) -> Iterator[int | TrialOutcome]:
    """Train one trial and record it; yields each epoch's number once it is saved and recorded, at last the outcome.

    TrackingError, which ends the whole command, where the store is gone: no trial could be recorded.
    """
    try:
        yield from _run_trial(task)
    except OSError as error:  # no room for a lock, say
        yield TrialOutcome(task.trial, "", "failed", describe_error(error))


def _run_trial(task: TrialTask) -> Iterator[int | TrialOutcome]:
    if os.getpid() != task.parent_pid:
        _prepare_worker(task.parent_pid)
    store = reopen_store(task.home, task.tracking_uri, task.experiment_id)
    lock = trial_lock(task.home, task.cache_key)
    try:
        lock.acquire(timeout=-1 if task.wait else 0)
    except Timeout:
        yield TrialOutcome(task.trial, "", "busy", _holder(task))
        return
    try:
        while run := store.heartbeat.find_running_elsewhere(task.cache_key):
            if not task.wait:
                yield TrialOutcome(task.trial, "", "busy", f"run {run.info.run_id}, from another directory or machine")
                return
            time.sleep(ELSEWHERE_CHECK_SECONDS)
        if task.reuse and (finished := store.reader.find_finished_run(task.cache_key)):
            store.writer.mark_reused(finished, task.parent_id)
            _remove_checkpoints(task.directory)
            yield TrialOutcome(task.trial, finished.info.run_id, "reused")
            return
        marker(task).write_text(task.parent_id, encoding="utf-8")
        yield from _train_and_record(task, store)
    finally:
        marker(task).unlink(missing_ok=True)
        lock.release()


def _train_and_record(task: TrialTask, store: TrackingStore) -> Iterator[int | TrialOutcome]:
    from reproduce.training import loop  # takes seconds to import: only where something is trained

    if task.trial.optimizer in ("lamb", "lars", "hybridadam"):
        with loop.quiet():  # with them comes more of Colossal-AI, and what that says of kernels not used here
            import colossalai.nn.optimizer  # noqa: F401

    trial = task.trial
    run_id, resumed = store.writer.open_trial(trial, task.cache_key, task.parent_id)
    if distributed.size():
        store.writer.record_ranks(run_id, distributed.size())
    if not (task.reuse or resumed):
        _remove_checkpoints(task.directory)  # a kill may have left those of the run that is not to be used
    try:
        with store.heartbeat.record_heartbeat(run_id):
            begun_at = time.time()
            logged = store.writer.logged_epochs(run_id) if resumed else set()
            data = datasets.open_dataset(trial.dataset, task.home)
            history = []
            distributed.announce(trial)
            for record in loop.train(trial, data, task.directory, task.local_rank, task.kernel):
                history.append(record)
                if record.epoch not in logged:
                    store.writer.log_epoch(run_id, record)
                yield record.epoch
                distributed.go_on()
            with tempfile.TemporaryDirectory() as folder:
                tags = task.artifacts(trial, history, Path(folder))
                if resumed:
                    tags["resumed"] = f"after epoch {sum(record.finished_at < begun_at for record in history)}"
                if task.node:
                    tags["node"] = task.node
                weights = None if trial.is_range_test else last_weights(task.directory)
                store.writer.finish_trial(run_id, trial, history, Path(folder), weights, tags)
    except TrackingError:
        raise
    except Exception as error:
        store.writer.fail_trial(run_id, error)
        if distributed.size():  # the other ranks are in the middle of it, and wait
            raise TrialsFailedError(f"{trial.label} failed: {type(error).__name__}: {describe_error(error)}") from error
        yield TrialOutcome(trial, run_id, "failed", f"{type(error).__name__}: {describe_error(error)}")
        return
    _remove_checkpoints(task.directory)
    last = history[-1]
    note = f"loss {last.train_loss:.4g}"
    if not trial.is_range_test:
        note += f", accuracy {last.test_accuracy_batch_mean:.4f}"
    if last.diverged:
        note += f", diverged in epoch {last.epoch}"
    yield TrialOutcome(trial, run_id, "resumed" if resumed else "trained", note)


def _prepare_worker(parent_pid: int | None) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    os.environ.pop("MLFLOW_RUN_ID", None)  # the parent's: no trial may take it for its own
    if parent_pid is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption.end_with(parent_pid)


def marker(task: TrialTask) -> Path:
    """The file that names the command which trains that trial here."""
    return task.directory / "under-way"


def _holder(task: TrialTask) -> str:
    """The command that trains that trial here."""
    parent_id = _marked_by(task)
    return f"run {parent_id}" if parent_id else "just started"


def is_under_way(task: TrialTask) -> bool:
    """Whether a worker of this very command is at it; another's marker may be left over from a kill."""
    return _marked_by(task) == task.parent_id


def _marked_by(task: TrialTask) -> str | None:
    try:
        return marker(task).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def clear(task: TrialTask, store: TrackingStore) -> None:
    """Drop what a kill just after the end of a trial has left, unless somebody is at it."""
    if saved_epochs(task.directory):
        with suppress(Timeout), trial_lock(store.home, task.cache_key).acquire(timeout=0):
            _remove_checkpoints(task.directory)
            marker(task).unlink(missing_ok=True)


def _remove_checkpoints(directory: Path) -> None:
    """Drop what was kept to go on from: the record is complete. The lock stays, as others may wait for it."""
    for epoch in saved_epochs(directory):
        shutil.rmtree(directory / f"epoch-{epoch:04d}")
