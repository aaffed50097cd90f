"""Train trials as tasks of a Ray cluster. One whose worker or node is lost is run again elsewhere.

Ray could retry by itself, but says nothing of it: a lost trial's run has to be closed before another worker resumes it.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import ray

from reproduce.errors import ClusterLostError, TrackingError, TrialsFailedError, UserError
from reproduce.execution.executor import Placement, TrialOutcome, TrialTask
from reproduce.execution.ray import admission, node, shared_storage
from reproduce.execution.ray.session import why_unreachable
from reproduce.execution.run_options import RunOptions
from reproduce.progress import say
from reproduce.study.trial import Trial
from reproduce.tracking.store import TrackingStore
from reproduce.tracking.store_errors import describe_error

POLL_SECONDS = 1
# Without its head, Ray itself would end this process after 60 s, in its own way.
HEAD_AWAY_SECONDS = 30
CANCEL_SECONDS = 10
# So many trials are submitted at a time: an autoscaler sees what there is to do, and polling them stays cheap.
SUBMITTED = 1000
# Secrets are not among them, as Ray shows what is sent to workers: those are in the nodes' own environment.
SENT_VARIABLES = ("REPRODUCE_STORE_PATIENCE",)

Loss = Literal["worker", "node"]
# How often a trial may be lost before it is given up: to lose a node is not its own fault.
LOSSES: dict[Loss, tuple[int, str]] = {
    "worker": (2, "its worker died, perhaps because memory ran out"),
    "node": (10, "its node is gone"),
}


class Cluster:
    """The nodes of the Ray cluster at whose `head` this process is connected."""

    def __init__(self, options: RunOptions, head: str) -> None:
        self.device = admission.choose_device(options.device)
        if self.device == "cpu" and options.gpus_per_trial != 1:
            say(f"--gpus-per-trial {options.gpus_per_trial:g} has no effect, as trials run on CPUs")
        self._options, self._head = options.model_copy(update={"device": self.device}), head
        needs = {"num_cpus": 1.0} | ({"num_gpus": options.gpus_per_trial} if self.device == "cuda" else {})
        # These belong here, not to each submission: so Ray ends a worker after its trial on a GPU. The worker has
        # opened that GPU for good, and could be given another one next.
        self.remote_trial = ray.remote(**needs)(node.run_trial)
        self._epochs: dict[Trial, int] = {}
        self._refused: set[str] = set()
        self._losses: Counter[tuple[Trial, Loss]] = Counter()
        self._head_away_since: float | None = None

    @contextmanager
    def prepare(self, store: TrackingStore) -> Iterator[str]:
        """Make every node ready, and yield the engine. UserError where one cannot be: see `admission`."""
        variables = {name: os.environ[name] for name in SENT_VARIABLES if name in os.environ}
        # Colossal-AI imports PyTorch's compiler, which would start a process for each core in every worker.
        variables["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        if self.device == "cpu":
            # Colossal-AI would take a GPU that it sees.
            variables["CUDA_VISIBLE_DEVICES"] = ""
        self.store = store
        with shared_storage.open_to_nodes(store) as storage:
            self._request = node.NodeRequest(
                self._options, tuple(variables.items()), Path.cwd(), node.package_sha256(), storage
            )
            self._environment = admission.admit_nodes(self._request, self._head)
            yield self._environment.engine

    def numerics_environment(self, trial: Trial) -> dict[str, str]:
        """Return all that decides the trial's numbers beside its configuration, as the nodes have it."""
        return self._environment.deciding

    def place(self, index: int) -> Placement:
        """Return the same for every trial: Ray ends its workers itself, and shows each only its own device."""
        return Placement(parent_pid=None, local_rank=0, kernel=None)

    def epochs_done(self, task: TrialTask) -> int:
        """Return how many epochs of an unfinished trial its worker said are saved."""
        return self._epochs.get(task.trial, 0)

    def run(self, tasks: list[TrialTask]) -> Generator[TrialOutcome, None, None]:
        """Train the trials, and yield what became of each as it ends. One that was lost goes first."""
        waiting = deque(tasks)
        running: dict[Iterator[object], TrialTask] = {}
        self._head_checked_at, self._head_away_since = time.monotonic(), None
        try:
            while waiting or running:
                while waiting and len(running) < (self._options.jobs or SUBMITTED):
                    task = waiting.popleft()
                    running[self._submit(task)] = task
                for stream in self._wait(list(running)):
                    task = running[stream]
                    said = self._next(stream, task)
                    if isinstance(said, int):
                        self._epochs[task.trial] = said
                        continue
                    del running[stream]
                    if isinstance(said, TrialOutcome):
                        yield said
                    elif isinstance(said, node.UnfitNodeError):
                        self._leave_out(said)
                        waiting.append(task)
                    elif (outcome := self.after_loss(task, said)) is not None:
                        yield outcome
                    else:
                        # It waits for the lock of a worker that is just ending.
                        waiting.appendleft(replace(task, wait=True))
        except ClusterLostError:
            raise
        except BaseException:
            _cancel(list(running))
            with suppress(TrackingError):
                self.store.heartbeat.no_wait.end_lost_trials(tasks[0].parent_id)
            raise

    def _submit(self, task: TrialTask) -> Iterator[object]:
        """Submit a trial to the nodes that were not refused, and return the stream of what its worker says."""
        options: dict[str, object] = {"num_returns": "streaming", "max_retries": 0, "name": task.trial.label}
        if self._refused:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._refused)})"}
        stream: Iterator[object] = self.remote_trial.options(**options).remote(self._request, self._environment, task)
        return stream

    def _wait(self, streams: list[Iterator[object]]) -> list[Iterator[object]]:
        """Return the streams that have something to say. ClusterLostError where the head has been away for long."""
        now = time.monotonic()
        if now - self._head_checked_at >= POLL_SECONDS:
            self._head_checked_at = now
            if why_unreachable(self._head) is None:
                self._head_away_since = None
            elif self._head_away_since is None:
                self._head_away_since = now
            elif now - self._head_away_since >= HEAD_AWAY_SECONDS:
                raise ClusterLostError(f"the head of the Ray cluster, {self._head}, is gone")
        some, others = ray.wait(streams, timeout=POLL_SECONDS, fetch_local=False)
        if some and others:
            some += ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        return list(some)

    def _next(self, stream: Iterator[object], task: TrialTask) -> int | TrialOutcome | node.UnfitNodeError | Loss:
        """Return what a worker says: an epoch's number, the trial's outcome or its node's problem; or what was lost."""
        try:
            said: int | TrialOutcome = ray.get(next(stream))
        # The stream ended without an outcome, as its node went away.
        except StopIteration:
            return "node"
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TrackingError | UserError):
                raise error.cause from error
            if isinstance(error.cause, node.UnfitNodeError):
                return error.cause
            reason = f"{type(error.cause).__name__}: {describe_error(error.cause)}"
            return TrialOutcome(task.trial, "", "failed", reason)
        except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError, ray.exceptions.ObjectLostError):
            return "node"
        except ray.exceptions.RayError:
            return "worker"
        return said

    def _leave_out(self, unfit: node.UnfitNodeError) -> None:
        """Submit no more trials to that node. TrialsFailedError where there is no other."""
        node_id, reason = unfit.args
        usable = admission.usable_nodes(self.device)
        name = usable.get(node_id, node_id)
        if node_id not in self._refused:
            self._refused.add(node_id)
            say(f"node {name} of the Ray cluster is left out: {reason}")
        if usable.keys() <= self._refused:
            raise TrialsFailedError(f"no node of the Ray cluster is left to train on; {name}: {reason}")

    def after_loss(self, task: TrialTask, lost: Loss) -> TrialOutcome | None:
        """Close the run of a trial whose worker or node was lost. Return its failure, or None to run it again."""
        self.store.heartbeat.end_lost_trials(task.parent_id, task.cache_key)
        self._losses[task.trial, lost] += 1
        limit, reason = LOSSES[lost]
        if self._losses[task.trial, lost] >= limit:
            return TrialOutcome(task.trial, "", "failed", f"{reason} ({limit} times)")
        say(f"{task.trial.label}: {reason}; it runs again")
        return None


def _cancel(streams: list[Iterator[object]]) -> None:
    """End the tasks, and wait until they have."""
    for stream in streams:
        with suppress(ray.exceptions.RayError):
            ray.cancel(stream, force=True)
    deadline = time.monotonic() + CANCEL_SECONDS
    while streams and time.monotonic() < deadline:
        for stream in ray.wait(streams, num_returns=1, timeout=POLL_SECONDS, fetch_local=False)[0]:
            try:
                ray.get(next(stream))
            except (StopIteration, ray.exceptions.RayError):
                streams.remove(stream)
