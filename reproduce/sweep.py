"""Run the trials that remain, as many at once as there are jobs, each in a process and a thread of its own.

Trials that are finished are reused, trials that were stopped go on, and one that another process is at is waited for.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import joblib
from filelock import Timeout
from joblib.externals.loky.process_executor import TerminatedWorkerError

from reproduce import engines, following, mnist, progress, provenance
from reproduce.checkpoints import EpochRecord, last_weights, saved_epochs
from reproduce.errors import TrackingError, TrialsFailedError
from reproduce.patience import one_line
from reproduce.tracking import Store
from reproduce.trial import Trial

How = Literal["trained", "resumed", "reused", "busy", "failed"]
PARENT_CHECK_SECONDS = 1
ELSEWHERE_CHECK_SECONDS = 10


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know. `artifacts` draws what the record should show into a folder."""

    trial: Trial
    fingerprint: str
    home: Path
    tracking_uri: str
    experiment_id: str
    parent_id: str
    parent_pid: int
    local_rank: int
    kernel: Path | None
    reuse: bool
    wait: bool
    artifacts: Callable[[Trial, list[EpochRecord], Path], dict[str, str]]

    @property
    def directory(self) -> Path:
        """Where the trial keeps its checkpoints."""
        return self.home / "trials" / self.fingerprint


@dataclass(frozen=True)
class Done:
    """What became of a trial. `run_id` is empty where none was begun."""

    trial: Trial
    run_id: str
    how: How
    note: str = field(default="")


def run(
    trials: list[Trial],
    store: Store,
    parent_id: str,
    *,
    device: str,
    jobs: int,
    devices: int,
    kernel: Path | None,
    force: bool,
    artifacts: Callable[[Trial, list[EpochRecord], Path], dict[str, str]],
) -> list[Done]:
    """Have every trial finished, and say how each came about, in the order given.

    `device` is cpu or cuda, `devices` how many of them there are, `kernel` the fused engine's. `force` trains again
    what is finished. A trial that fails is reported as such and stops no other.
    """
    # What workers import would start a pool of compilers in each, and nothing here is compiled.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # Where workers are ended in the middle, loky's own warden clears up after them, and tells of it at length.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    tasks = []
    for index, trial in enumerate(trials):
        surroundings = provenance.surroundings(
            mnist.data_sha256(trial.dataset), device, engines.digest(trial.engine, kernel), bool(following.size())
        )
        fingerprint = trial.fingerprint(surroundings)
        tasks.append(
            Task(trial, fingerprint, store.home, store.uri, store.experiment_id, parent_id, os.getpid(),
                 index % devices, kernel, not force, False, artifacts)
        )  # fmt: skip
    done: dict[Trial, Done] = {}
    for task in tasks:
        if not force and (finished := store.finished(task.fingerprint)):
            store.mark_reused(finished, parent_id)
            _clear(task, store)
            done[task.trial] = Done(task.trial, finished.info.run_id, "reused")
    if done:
        progress.say(f"{len(done)} of {len(trials)} trials were finished before and are reused")
    remaining = [task for task in tasks if task.trial not in done]
    if remaining:
        total = sum(task.trial.epochs for task in remaining)
        with progress.watch(total, lambda: sum(_epochs_done(task, done) for task in remaining)):
            _run_all(remaining, jobs, done)
            busy = [task for task in remaining if done[task.trial].how == "busy"]
            if busy:
                holders = ", ".join(sorted({done[task.trial].note for task in busy}))
                progress.say(f"{len(busy)} of these trials another command is training ({holders}); waiting for it")
                for task in busy:
                    del done[task.trial]
                _run_all([Task(**{**vars(task), "wait": True}) for task in busy], jobs, done)
    return [done[trial] for trial in trials]


def _epochs_done(task: Task, done: dict[Trial, Done]) -> int:
    if task.trial in done:
        return task.trial.epochs
    return max(saved_epochs(task.directory), default=0)


def _run_all(tasks: list[Task], jobs: int, done: dict[Trial, Done]) -> None:
    """Run the tasks in a pool and put what became of them into `done`. A pool whose worker died is made anew.

    One worker's death ends all of a pool, and does not tell whose it was. The trials that were under way are therefore
    run again each by itself: one whose worker dies once more is given up, and the others go on.
    """
    remaining, early_deaths = tasks, 0
    while (under_way := _run_pool(remaining, jobs, done)) is not None:
        remaining = [task for task in tasks if task.trial not in done]
        early_deaths += not under_way
        for task in under_way or (remaining if early_deaths > 1 else []):
            if _run_pool([task], jobs, done, alone=True) is not None:
                done[task.trial] = Done(task.trial, "", "failed", "its worker died twice")
                progress.say(f"{task.trial.label}: failed, its worker died twice")
        remaining = [task for task in tasks if task.trial not in done]
        if not remaining:
            return


def _run_pool(tasks: list[Task], jobs: int, done: dict[Trial, Done], alone: bool = False) -> list[Task] | None:
    """Run the tasks until all are done, which gives None, or a worker dies: those that were under way then.

    `alone` keeps even a single task out of this process.
    """
    workers, ahead = (2, 1) if alone else (min(jobs, len(tasks)), "2*n_jobs")
    pool = joblib.Parallel(n_jobs=workers, pre_dispatch=ahead, batch_size=1, return_as="generator_unordered")
    try:
        with _interrupts_held():
            results = pool(joblib.delayed(run_trial)(task) for task in tasks)
        for result in results:
            done[result.trial] = result
            if result.how != "busy":
                progress.say(f"{result.trial.label}: {result.how}{result.note and ', ' + result.note}")
    except TerminatedWorkerError:
        remaining = [task for task in tasks if task.trial not in done]
        under_way = [task for task in remaining if _is_under_way(task)]
        names = ", ".join(task.trial.label for task in under_way)
        progress.say(f"a worker died, perhaps for want of memory; under way: {names or 'nothing yet'}")
        for task in under_way:
            _marker(task).unlink(missing_ok=True)
        return under_way
    return None


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Have the processes that are started meanwhile hear nothing of Ctrl-C, from their first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_trial(task: Task) -> Done:
    """Train one trial and record it, in whatever process this is; the task says what may be reused.

    TrackingError, which ends the whole command, where the store is gone: no trial could be recorded.
    """
    try:
        return _run_trial(task)
    except OSError as error:  # no room for a lock, say
        return Done(task.trial, "", "failed", one_line(error))


def _run_trial(task: Task) -> Done:
    if os.getpid() != task.parent_pid:
        _prepare_worker(task.parent_pid)
    store = Store(task.home, task.tracking_uri, task.experiment_id)
    lock = store.lock(task.fingerprint)
    try:
        lock.acquire(timeout=-1 if task.wait else 0)
    except Timeout:
        return Done(task.trial, "", "busy", _holder(task))
    try:
        while run := store.at_work_elsewhere(task.fingerprint):
            if not task.wait:
                return Done(task.trial, "", "busy", f"run {run.info.run_id}, from another directory or machine")
            time.sleep(ELSEWHERE_CHECK_SECONDS)
        if task.reuse and (finished := store.finished(task.fingerprint)):
            store.mark_reused(finished, task.parent_id)
            _remove_checkpoints(task.directory)
            return Done(task.trial, finished.info.run_id, "reused")
        _marker(task).write_text(task.parent_id)
        return _train_and_record(task, store)
    finally:
        _marker(task).unlink(missing_ok=True)
        lock.release()


def _train_and_record(task: Task, store: Store) -> Done:
    from reproduce import training  # takes seconds to import: only where something is trained

    if task.trial.optimizer in ("lamb", "lars", "hybridadam"):
        with training.quiet():  # with them comes more of Colossal-AI, and what that says of kernels not used here
            import colossalai.nn.optimizer  # noqa: F401

    trial = task.trial
    run_id, resumed = store.open_trial(trial, task.fingerprint, task.parent_id)
    if following.size():
        store.mark_ranks(run_id, following.size())
    if not (task.reuse or resumed):
        _remove_checkpoints(task.directory)  # a kill may have left those of the run that is not to be used
    try:
        with store.at_work(run_id):
            begun_at = time.time()
            logged = store.logged_epochs(run_id) if resumed else set()
            data = mnist.open_dataset(trial.dataset, task.home)
            history = []
            following.announce(trial)
            for record in training.train(trial, data, task.directory, task.local_rank, task.kernel):
                history.append(record)
                if record.epoch not in logged:
                    store.log_epoch(run_id, record)
            with tempfile.TemporaryDirectory() as folder:
                tags = task.artifacts(trial, history, Path(folder))
                if resumed:
                    tags["resumed"] = f"after epoch {sum(record.finished_at < begun_at for record in history)}"
                weights = None if trial.is_range_test else last_weights(task.directory)
                store.finish_trial(run_id, trial, history, Path(folder), weights, tags)
    except TrackingError:
        raise
    except Exception as error:
        store.fail(run_id, error)
        if following.size():  # the other ranks are in the middle of it, and wait
            raise TrialsFailedError(f"{trial.label} failed: {type(error).__name__}: {one_line(error)}") from error
        return Done(trial, run_id, "failed", f"{type(error).__name__}: {one_line(error)}")
    _remove_checkpoints(task.directory)
    last = history[-1]
    note = f"loss {last.train_loss:.4g}"
    if not trial.is_range_test:
        note += f", accuracy {last.test_accuracy_batch_mean:.4f}"
    if last.diverged:
        note += f", diverged in epoch {last.epoch}"
    return Done(trial, run_id, "resumed" if resumed else "trained", note)


def _prepare_worker(parent_pid: int) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.pop("MLFLOW_RUN_ID", None)  # the parent's: no trial may take it for its own
    if not any(thread.name == "parent-watch" for thread in threading.enumerate()):

        def watch() -> None:
            while os.getppid() == parent_pid:
                time.sleep(PARENT_CHECK_SECONDS)
            os._exit(1)

        threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _marker(task: Task) -> Path:
    return task.directory / "under-way"


def _holder(task: Task) -> str:
    """The command that trains that trial here."""
    parent_id = _marked_by(task)
    return f"run {parent_id}" if parent_id else "just started"


def _is_under_way(task: Task) -> bool:
    """Whether a worker of this very command is at it; another's marker may be left over from a kill."""
    return _marked_by(task) == task.parent_id


def _marked_by(task: Task) -> str | None:
    try:
        return _marker(task).read_text()
    except FileNotFoundError:
        return None


def _clear(task: Task, store: Store) -> None:
    """Drop what a kill just after the end of a trial has left, unless somebody is at it."""
    if saved_epochs(task.directory):
        with suppress(Timeout), store.lock(task.fingerprint).acquire(timeout=0):
            _remove_checkpoints(task.directory)
            _marker(task).unlink(missing_ok=True)


def _remove_checkpoints(directory: Path) -> None:
    """Drop what was kept to go on from: the record is complete. The lock stays, as others may wait for it."""
    for epoch in saved_epochs(directory):
        shutil.rmtree(directory / f"epoch-{epoch:04d}")
