"""Run one trial in this process: train and record it, reuse it, or leave it to another command that trains it."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from reproduce.data import datasets, study_data
from reproduce.errors import TrackingError, TrialsFailedError
from reproduce.execution import interruption
from reproduce.execution.executor import TrialOutcome, TrialTask
from reproduce.study.own_code import FAILURES, OwnCodeError, describe, own_line, pass_signal_on
from reproduce.tracking.locks import trial_lock
from reproduce.tracking.logged_model import TrainedNetwork
from reproduce.tracking.store import TrackingStore, reopen_store
from reproduce.tracking.store_errors import describe_error
from reproduce.training import distributed, launcher
from reproduce.training.checkpoints import last_weights, saved_epochs
from reproduce.training.epoch_record import EpochRecord

ELSEWHERE_CHECK_SECONDS = 10


def run_to_the_end(task: TrialTask) -> TrialOutcome:
    """Run one trial, and return what became of it."""
    *_, outcome = run_trial(task)
    assert isinstance(outcome, TrialOutcome)
    return outcome


def run_trial(task: TrialTask) -> Iterator[int | TrialOutcome]:
    """Run one trial: yield each epoch's number once it is saved and recorded, at last the outcome.

    TrackingError, which ends the whole command, where the store stays away: no trial could be recorded.
    """
    try:
        yield from _run_trial(task)
    # There is no room for a lock, say.
    except OSError as error:
        yield TrialOutcome(task.trial, "", "failed", describe_error(error))


def _run_trial(task: TrialTask) -> Iterator[int | TrialOutcome]:
    if os.getpid() != task.placement.parent_pid:
        _prepare_worker(task.placement.parent_pid)
    store = reopen_store(task.home, task.tracking_uri, task.experiment_id)
    lock = trial_lock(task.home, task.cache_key)
    try:
        lock.acquire(timeout=-1 if task.wait else 0)
    except Timeout:
        holder = _marked_by(task)
        yield TrialOutcome(task.trial, "", "busy", f"run {holder}" if holder else "just started")
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
        under_way_file(task).write_text(task.parent_id, encoding="utf-8")
        yield from _train_and_record(task, store)
    finally:
        under_way_file(task).unlink(missing_ok=True)
        lock.release()


def _train_and_record(task: TrialTask, store: TrackingStore) -> Iterator[int | TrialOutcome]:
    trial = task.trial
    run_id, resumed = store.writer.open_trial(trial, task.cache_key, task.parent_id)
    if ranks := launcher.world_size():
        store.writer.record_ranks(run_id, ranks)
    if not (task.reuse or resumed):
        # A kill may have left those of the run that is not to be used.
        _remove_checkpoints(task.directory)
    history: list[EpochRecord] = []
    try:
        with store.heartbeat.record_heartbeat(run_id):
            begun_at = time.time()
            logged = store.writer.logged_epochs(run_id) if resumed else set()
            data = study_data.open_for(trial, task.home)
            for record in _train(task, data):
                history.append(record)
                if record.epoch not in logged:
                    store.writer.log_epoch(run_id, record)
                yield record.epoch
                distributed.broadcast_next_epoch()
            with tempfile.TemporaryDirectory() as folder:
                tags = task.draw_artifacts(trial, history, Path(folder))
                if resumed:
                    tags["resumed"] = f"after epoch {sum(record.finished_at < begun_at for record in history)}"
                if task.node:
                    tags["node"] = task.node
                network = None if trial.is_range_test else _trained_network(task, data)
                store.writer.finish_trial(run_id, history, Path(folder), network, tags)
    except TrackingError:
        raise
    except FAILURES as error:
        is_own = isinstance(error, OwnCodeError) or own_line(error)
        pass_signal_on(error)
        if isinstance(error, SystemExit) and not is_own:
            raise
        why = describe(error) if is_own else f"{type(error).__name__}: {describe_error(error)}"
        store.writer.fail_trial(run_id, error)
        if launcher.world_size():
            # The other ranks are in the middle of the trial, and wait for this one.
            raise TrialsFailedError(f"{trial.label} failed: {why}") from error
        yield TrialOutcome(trial, run_id, "failed", why)
        return
    _remove_checkpoints(task.directory)
    yield TrialOutcome(trial, run_id, "resumed" if resumed else "trained", _summary(history[-1], trial.is_range_test))


def _trained_network(task: TrialTask, data: datasets.Dataset) -> TrainedNetwork:
    """Return the network of a trial that is trained, to be kept."""
    return TrainedNetwork(last_weights(task.directory), data.test.images.shape[1:], task.trial.network, task.code)


def _train(task: TrialTask, data: datasets.Dataset) -> Iterator[EpochRecord]:
    """Train the trial, on all ranks, and yield the record of each epoch, from the first, once it is saved."""
    # It takes seconds to import, and a trial that is reused needs none of it.
    from reproduce.training import loop, torch_setup

    if task.trial.optimizer in ("lamb", "lars", "hybridadam"):
        # With these optimizers Colossal-AI imports more of itself, and prints which kernels it lacks. None is used.
        with torch_setup.quiet():
            import colossalai.nn.optimizer  # noqa: F401
    trial, where = task.trial, task.placement
    distributed.broadcast_trial(trial)
    yield from loop.train(trial, data, task.directory, where.local_rank, where.kernel, task.code)


def _summary(last: EpochRecord, is_range_test: bool) -> str:
    note = f"loss {last.train_loss:.4g}"
    if not is_range_test:
        note += f", accuracy {last.test_accuracy_batch_mean:.4f}"
    return f"{note}, diverged in epoch {last.epoch}" if last.diverged else note


def _prepare_worker(parent_pid: int | None) -> None:
    """Make this process end with its parent, which alone handles Ctrl-C."""
    # It is the parent's run, which no trial may take for its own.
    os.environ.pop("MLFLOW_RUN_ID", None)
    if parent_pid is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interruption.end_with(parent_pid)


def under_way_file(task: TrialTask) -> Path:
    """Return the file that names the command which trains the trial in this home."""
    return task.directory / "under-way"


def is_under_way(task: TrialTask) -> bool:
    """Return whether a worker of this very command trains the trial; a kill may have left another command's file."""
    return _marked_by(task) == task.parent_id


def _marked_by(task: TrialTask) -> str | None:
    try:
        return under_way_file(task).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def remove_leftovers(task: TrialTask, store: TrackingStore) -> None:
    """Remove what a kill just after the end of a trial has left, unless another command trains it."""
    if saved_epochs(task.directory):
        with suppress(Timeout), trial_lock(store.home, task.cache_key).acquire(timeout=0):
            _remove_checkpoints(task.directory)
            under_way_file(task).unlink(missing_ok=True)


def _remove_checkpoints(directory: Path) -> None:
    """Remove the checkpoints, once the record is complete. The lock stays, as others may wait for it."""
    for epoch in saved_epochs(directory):
        shutil.rmtree(directory / f"epoch-{epoch:04d}")
