"""The types that the runner, an executor and its workers exchange: a trial to train, where, and its outcome."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from reproduce.study.own_code import NO_CODE, OwnCode
from reproduce.study.trial import Trial

if TYPE_CHECKING:
    from reproduce.tracking.store import TrackingStore
    from reproduce.training.epoch_record import EpochRecord

# "busy" is a trial that another command trains.
TrialState = Literal["trained", "resumed", "reused", "busy", "failed"]
# Draws what a trial's record is to show into a folder, and returns tags for the record.
DrawArtifacts = Callable[[Trial, list["EpochRecord"], Path], dict[str, str]]


@dataclass(frozen=True)
class Placement:
    """The place where a trial's worker runs.

    The worker ends with the process `parent_pid`; None where a cluster ends it. `local_rank` is the number of its
    device on its machine, `kernel` the fused engine's compiled kernel there.
    """

    parent_pid: int | None
    local_rank: int
    kernel: Path | None


@dataclass(frozen=True)
class TrialTask:
    """All that a worker needs for a trial.

    `reuse` takes a finished run of the trial, `wait` waits for another command that trains it. `node` is the name of
    the cluster's node that the worker runs on. `code` is the study's own Python.
    """

    trial: Trial
    cache_key: str
    home: Path
    tracking_uri: str
    experiment_id: str
    parent_id: str
    placement: Placement
    draw_artifacts: DrawArtifacts
    reuse: bool
    wait: bool = False
    node: str = ""
    code: OwnCode = NO_CODE

    @property
    def directory(self) -> Path:
        """The folder of the trial's checkpoints."""
        return self.home / "trials" / self.cache_key


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial. `run_id` is empty where no run was opened."""

    trial: Trial
    run_id: str
    state: TrialState
    note: str = ""

    def __str__(self) -> str:
        return f"{self.trial.label}: {self.state}{self.note and ', ' + self.note}"


class Executor(Protocol):
    """The place where trials are trained, on `device`, cpu or cuda: `local.Pool` or `ray.cluster.Cluster`."""

    device: str

    def prepare(self, store: "TrackingStore") -> AbstractContextManager[str]:
        """Make data and kernel ready wherever trials will run, for the block. Yield the engine; the rest needs this."""

    def numerics_environment(self, trial: Trial) -> dict[str, str]:
        """Return all that decides the trial's numbers beside its configuration."""

    def place(self, index: int) -> Placement:
        """Return where the trial of that number runs."""

    def epochs_done(self, task: TrialTask) -> int:
        """Return how many epochs of an unfinished trial are saved."""

    def run(self, tasks: list[TrialTask]) -> Generator[TrialOutcome, None, None]:
        """Train the trials, and yield what became of each as it ends. Where this is closed before, workers end."""
