"""Trials on this machine, as many at once as there are jobs, each in a process and a thread of its own."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from reproduce import progress
from reproduce.data import datasets
from reproduce.execution.worker import TrialOutcome, TrialTask, is_under_way, marker, run_trial
from reproduce.study.trial import Trial
from reproduce.training import engines, launcher, provenance
from reproduce.training.checkpoints import saved_epochs


class Pool:
    """This machine: `device` is cpu or cuda, `devices` how many of them there are, `kernel` the fused engine's."""

    def __init__(self, jobs: int, device: str, devices: int, kernel: Path | None) -> None:
        self.jobs, self.device, self.devices, self.kernel = jobs, device, devices, kernel
        # What workers import would start a pool of compilers in each, and nothing here is compiled.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        # Where workers are ended in the middle, loky's own warden clears up after them, and tells of it at length.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")

    def numerics_environment(self, trial: Trial) -> dict[str, str]:
        """All that decides the trial's numbers beside its configuration."""
        engine, split = engines.engine_id(trial.engine, self.kernel), bool(launcher.world_size())
        return provenance.numerics_environment(datasets.data_sha256(trial.dataset), self.device, engine, split)

    def place(self, index: int) -> tuple[int, int, Path | None]:
        """Of the trial of that number: the process its worker does not outlive, its device's number, its kernel."""
        return os.getpid(), index % self.devices, self.kernel

    def epochs_done(self, task: TrialTask) -> int:
        """How many epochs of a trial that is under way are saved, whichever process writes them."""
        return max(saved_epochs(task.directory), default=0)

    def run(self, tasks: list[TrialTask], done: dict[Trial, TrialOutcome]) -> None:
        """Run the tasks and put what became of them into `done`. A pool of processes whose worker died is made anew.

        One worker's death ends all of a pool, and does not tell whose it was. The trials that were under way are
        therefore run again each by itself: one whose worker dies once more is given up, and the others go on.
        """
        remaining, early_deaths = tasks, 0
        while (under_way := self._run_processes(remaining, done)) is not None:
            remaining = [task for task in tasks if task.trial not in done]
            early_deaths += not under_way
            for task in under_way or (remaining if early_deaths > 1 else []):
                if self._run_processes([task], done, alone=True) is not None:
                    done[task.trial] = TrialOutcome(task.trial, "", "failed", "its worker died twice")
                    progress.say(str(done[task.trial]))
            remaining = [task for task in tasks if task.trial not in done]
            if not remaining:
                return

    def _run_processes(
        self, tasks: list[TrialTask], done: dict[Trial, TrialOutcome], alone: bool = False
    ) -> list[TrialTask] | None:
        """Run the tasks until all are done, which gives None, or a worker dies: those that were under way then.

        `alone` keeps even a single task out of this process.
        """
        workers, ahead = (2, 1) if alone else (min(self.jobs, len(tasks)), "2*n_jobs")
        pool = joblib.Parallel(n_jobs=workers, pre_dispatch=ahead, batch_size=1, return_as="generator_unordered")
        try:
            with _interrupts_held():
                results = pool(joblib.delayed(_to_the_end)(task) for task in tasks)
            for result in results:
                done[result.trial] = result
                if result.how != "busy":
                    progress.say(str(result))
        except TerminatedWorkerError:
            remaining = [task for task in tasks if task.trial not in done]
            under_way = [task for task in remaining if is_under_way(task)]
            names = ", ".join(task.trial.label for task in under_way)
            progress.say(f"a worker died, perhaps for want of memory; under way: {names or 'nothing yet'}")
            for task in under_way:
                marker(task).unlink(missing_ok=True)
            return under_way
        return None


def _to_the_end(task: TrialTask) -> TrialOutcome:
    *_, last = run_trial(task)
    return last


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Have the processes that are started meanwhile hear nothing of Ctrl-C, from their first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
