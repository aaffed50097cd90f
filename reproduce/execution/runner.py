"""Which trials remain, and who runs them: the cores of this machine, or a cluster.

Trials that are finished are reused, trials that were stopped go on, and one that another process is at is waited for.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from reproduce import progress
from reproduce.execution.worker import TrialOutcome, TrialTask, clear
from reproduce.study.trial import Trial
from reproduce.tracking.store import TrackingStore
from reproduce.training.epoch_record import EpochRecord


class Executor(Protocol):
    """What trials run on: `pool.Pool` or `cluster.Cluster`."""

    def numerics_environment(self, trial: Trial) -> dict[str, str]:
        """All that decides the trial's numbers beside its configuration."""

    def place(self, index: int) -> tuple[int | None, int, Path | None]:
        """Of the trial of that number: the process its worker does not outlive, its device's number, its kernel."""

    def epochs_done(self, task: TrialTask) -> int:
        """How many epochs of a trial that is under way are saved."""

    def run(self, tasks: list[TrialTask], done: dict[Trial, TrialOutcome]) -> None:
        """Run the tasks, say as each ends, and put what became of it into `done`."""


def run(
    trials: list[Trial],
    store: TrackingStore,
    parent_id: str,
    *,
    ground: Executor,
    force: bool,
    artifacts: Callable[[Trial, list[EpochRecord], Path], dict[str, str]],
) -> list[TrialOutcome]:
    """Have every trial finished, and say how each came about, in the order given.

    `force` trains again what is finished. A trial that fails is reported as such and stops no other.
    """
    tasks = []
    for index, trial in enumerate(trials):
        cache_key = trial.cache_key(ground.numerics_environment(trial))
        parent_pid, local_rank, kernel = ground.place(index)
        tasks.append(
            TrialTask(trial, cache_key, store.home, store.uri, store.experiment_id, parent_id, parent_pid,
                 local_rank, kernel, not force, False, artifacts)
        )  # fmt: skip
    done: dict[Trial, TrialOutcome] = {}
    finished = {} if force else store.reader.find_finished_runs([task.cache_key for task in tasks])
    for task in tasks:
        if run := finished.get(task.cache_key):
            store.writer.mark_reused(run, parent_id)
            clear(task, store)
            done[task.trial] = TrialOutcome(task.trial, run.info.run_id, "reused")
    if done:
        progress.say(f"{len(done)} of {len(trials)} trials were finished before and are reused")
    remaining = [task for task in tasks if task.trial not in done]
    if remaining:
        total = sum(task.trial.epochs for task in remaining)

        def epochs_done() -> int:
            return sum(task.trial.epochs if task.trial in done else ground.epochs_done(task) for task in remaining)

        with progress.show_progress(total, epochs_done):
            ground.run(remaining, done)
            busy = [task for task in remaining if done[task.trial].how == "busy"]
            if busy:
                holders = ", ".join(sorted({done[task.trial].note for task in busy}))
                progress.say(f"{len(busy)} of these trials another command is training ({holders}); waiting for it")
                for task in busy:
                    del done[task.trial]
                ground.run([replace(task, wait=True) for task in busy], done)
    return [done[trial] for trial in trials]
