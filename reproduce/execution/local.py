"""Train trials on this machine, several at once, each in a process of its own with one thread."""

import heapq
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import joblib
import psutil
from joblib.externals.loky.process_executor import TerminatedWorkerError

from reproduce.data import study_data
from reproduce.errors import UserError
from reproduce.execution.executor import Placement, TrialOutcome, TrialTask
from reproduce.execution.interruption import blocked_interrupts
from reproduce.execution.run_options import RunOptions
from reproduce.execution.worker import is_under_way, run_to_the_end, under_way_file
from reproduce.progress import say, say_if_slow
from reproduce.study.trial import Trial
from reproduce.tracking.store import TrackingStore
from reproduce.training import distributed, engines, launcher, provenance
from reproduce.training.checkout import ROOT
from reproduce.training.checkpoints import saved_epochs

# What a process that trains a trial needs, in bytes.
PROCESS_MEMORY = 2**30


class Pool:
    """The processes of this machine."""

    def __init__(self, options: RunOptions) -> None:
        self._jobs = jobs_at_once(options.jobs)
        self.device, self._devices = choose_devices(options.device)
        self._may_share_cores = options.jobs is None and self.device == "cpu" and not launcher.world_size()
        self._options = options.model_copy(update={"device": self.device})
        self.kernel: Path | None = None
        # Where workers are killed, loky's resource tracker cleans up after them, and would warn of each file.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")

    @contextmanager
    def prepare(self, store: TrackingStore) -> Iterator[str]:
        """Make data and kernel ready, and the other ranks where a launcher started several; yield the engine."""
        engine, self.kernel = prepare_machine(self._options, say)
        data = study_data.sha256(self._options.dataset, self._options.data_sha256)
        ours = numerics_environment(data, self.device, engine, self.kernel, self._options.packages)
        with distributed.main_process(ours, self._options.code):
            yield engine

    def numerics_environment(self, trial: Trial) -> dict[str, str]:
        """Return all that decides the trial's numbers beside its configuration."""
        data = study_data.sha256(trial.dataset, trial.data_sha256)
        return numerics_environment(data, self.device, trial.engine, self.kernel, self._options.packages)

    def place(self, index: int) -> Placement:
        """Return the device of the trial of that number; trials take turns on the GPUs."""
        return Placement(os.getpid(), index % self._devices, self.kernel)

    def epochs_done(self, task: TrialTask) -> int:
        """Return how many epochs of an unfinished trial are saved, whichever process trains it."""
        return max(saved_epochs(task.directory), default=0)

    def run(self, tasks: list[TrialTask]) -> Generator[TrialOutcome, None, None]:
        """Train the trials, and yield what became of each as it ends.

        The death of one worker ends all of them, and does not say whose it was. The trials that were under way are
        then trained one by one: one whose worker dies again is given up, and the others are resumed.
        """
        batches, died_early = deque([(tasks, False)]), False
        while batches:
            batch, is_apart = batches.popleft()
            remaining = {task.trial: task for task in batch}
            try:
                for outcome in self._run_processes(batch, is_apart):
                    del remaining[outcome.trial]
                    yield outcome
            except TerminatedWorkerError:
                under_way = [task for task in remaining.values() if is_under_way(task)]
                for task in under_way:
                    under_way_file(task).unlink(missing_ok=True)
                if is_apart:
                    yield TrialOutcome(batch[0].trial, "", "failed", "its worker died twice")
                    continue
                names = ", ".join(task.trial.label for task in under_way)
                say(f"a worker died, perhaps because memory ran out; in training: {names or 'nothing yet'}")
                # Where a second one dies before it trains anything, any trial may be the cause.
                suspects = under_way or (list(remaining.values()) if died_early else [])
                died_early = died_early or not under_way
                batches.extend(([task], True) for task in suspects)
                if others := [task for task in remaining.values() if task not in suspects]:
                    batches.append((others, False))

    def _run_processes(self, tasks: list[TrialTask], apart: bool) -> Iterator[TrialOutcome]:
        """Train the trials in new processes; `apart` keeps even a single one out of this process."""
        _put_package_first()
        workers, ahead = (2, 1) if apart else (self._count_workers(tasks), "2*n_jobs")
        pool = joblib.Parallel(n_jobs=workers, pre_dispatch=ahead, batch_size=1, return_as="generator_unordered")
        with blocked_interrupts():
            outcomes = pool(joblib.delayed(run_to_the_end)(task) for task in tasks)
        yield from outcomes

    def _count_workers(self, tasks: list[TrialTask]) -> int:
        if not self._may_share_cores:
            return min(self._jobs, len(tasks))
        epochs = [task.trial.epochs - self.epochs_done(task) for task in tasks]
        return choose_workers(epochs, self._jobs, psutil.virtual_memory().available // PROCESS_MEMORY)


def _put_package_first() -> None:
    """Make sure that new processes, which get this one's sys.path, import this package.

    MLflow puts the code of a model that it has loaded first there, and that has a part of this package under its name.
    """
    root = str(ROOT)
    if sys.path[:1] != [root]:
        sys.path[:] = [root, *(place for place in sys.path if place != root)]


def choose_workers(epochs: Sequence[int], cores: int, at_most: int) -> int:
    """Return how many trials to train at once so that they end soonest.

    More than there are cores where the last ones would leave a core idle: 15 trials on two cores take the time of 8
    on one if two are trained at once, and of 7.5 if three share the cores.

    Args:
        epochs: What each trial has left, in the order in which they begin.
        cores: How many cores train.
        at_most: How many processes there is memory for, beyond one for each core.
    """
    fewest = min(cores, len(epochs))
    most = max(fewest, min(2 * cores - 1, len(epochs), at_most))
    return min(range(fewest, most + 1), key=lambda workers: _duration(epochs, workers, cores))


def _duration(epochs: Sequence[int], workers: int, cores: int) -> float:
    """Return how long the trials take, in epochs on a core of their own, if the workers share the cores evenly."""
    loads = [0] * workers
    for count in epochs:
        heapq.heapreplace(loads, loads[0] + count)
    duration, ended = 0.0, 0
    for index, load in enumerate(sorted(loads)):
        duration += (load - ended) * max(1.0, (workers - index) / cores)
        ended = load
    return duration


def prepare_machine(options: RunOptions, tell: Callable[[str], None]) -> tuple[str, Path | None]:
    """Make data and kernel ready on this machine, and return the engine and the fused one's compiled kernel.

    The `device` of the options is cpu or cuda here. `tell` gets a line for each thing that is done.
    """
    with say_if_slow("compiling the kernel of engine fused, once for this machine, for up to 120 s"):
        engine, kernel = engines.resolve(options.engine, options.device, options.home, tell, options.own_network)
    study_data.prepare(options.dataset, options.data_sha256, options.home, options.data_dir, options.code, tell)
    return engine, kernel


def numerics_environment(
    data_sha256: str, device: str, engine: str, kernel: Path | None, packages: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return all that decides a trial's numbers on this machine beside its configuration.

    Args:
        data_sha256: The hash of the data set.
        device: cpu or cuda.
        engine: torch or fused.
        kernel: The fused engine's compiled kernel.
        packages: The modules that a study's own code imports.
    """
    digest = engines.engine_id(engine, kernel)
    return provenance.numerics_environment(data_sha256, device, digest, bool(launcher.world_size()), packages)


def jobs_at_once(requested: int | None) -> int:
    """Return how many trials to train at once: as many as `requested`, or as there are cores."""
    cores = provenance.cores()
    if ranks := launcher.world_size():
        if requested is not None:
            say(f"--jobs {requested} has no effect: {ranks} ranks train the trials together, one after another")
        return 1
    if requested is not None and requested > cores:
        say(f"--jobs {requested}: there are {cores} cores, which the trials share")
    return requested or cores


def choose_devices(requested: str) -> tuple[str, int]:
    """Return the kind of device to train on, and how many of them there are. UserError where there is none.

    For the CPU, GPUs are hidden from this process and its workers: Colossal-AI takes one that it sees.
    """
    if requested == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return "cpu", 1
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.device_count()
    if requested == "cuda":
        raise UserError("--device cuda: PyTorch sees no CUDA device here; leave out --device to compute on the CPU")
    return "cpu", 1
