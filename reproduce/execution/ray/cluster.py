"""Trials as tasks of a Ray cluster. One whose worker or node is lost runs again elsewhere."""

import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from typing import Any

from reproduce.errors import ClusterLostError, TrackingError, TrialsFailedError, UserError
from reproduce.execution.ray import node
from reproduce.execution.ray.nodes import Nodes
from reproduce.execution.ray.session import brief, silent
from reproduce.execution.worker import TrialOutcome, TrialTask
from reproduce.progress import say
from reproduce.study.trial import Trial
from reproduce.tracking.store import TrackingStore

LOOK_SECONDS = 1  # between two looks at the tasks, and at the cluster itself
GONE_SECONDS = 30  # without the head: Ray itself would end this process after 60, in its own way
CANCEL_SECONDS = 10
AT_ONCE = 1000  # trials asked for at a time: an autoscaler sees what there is to do, and looking at them stays cheap
WORKER_DEATHS, NODE_DEATHS = 2, 10  # after which a trial is given up; to lose a node is not its own fault


class Cluster:
    """What a command's trials run on: nodes that are `ready` for it alike.

    `jobs` bounds the trials that are asked for at a time.
    """

    def __init__(
        self,
        nodes: Nodes,
        store: TrackingStore,
        command: node.Command,
        ready: node.Ready,
        jobs: int | None,
        gpus_per_trial: float,
    ) -> None:
        self._nodes, self._ray, self._store = nodes, nodes.ray, store
        self._command, self._like = command, ready
        self._jobs = jobs or AT_ONCE
        needs = {"num_cpus": 1} | ({"num_gpus": gpus_per_trial} if command.wanted.device == "cuda" else {})
        # Asked for here, not with each trial: so Ray ends a worker after its trial on a GPU, which opened that one for
        # good, and could be given another next.
        self._remote = self._ray.remote(**needs)(node.run_trial)
        self._epochs: dict[Trial, int] = {}
        self._refused: dict[str, node.Refused] = {}
        self._looked_at, self._away_since = 0.0, None

    def numerics_environment(self, trial: Trial) -> dict[str, str]:
        """All that decides the trial's numbers beside its configuration, as the nodes have it."""
        return self._like.numerics_environment

    def place(self, index: int) -> tuple[None, int, None]:
        """Ray ends its workers itself, shows each only the device that it may use, and kernels are the nodes' own."""
        return None, 0, None

    def epochs_done(self, task: TrialTask) -> int:
        """How many epochs of a trial its worker said are saved."""
        return self._epochs.get(task.trial, 0)

    def run(self, tasks: list[TrialTask], done: dict[Trial, TrialOutcome]) -> None:
        """Run the tasks and put what became of them into `done`. One that was lost goes first."""
        waiting, under_way = deque(tasks), {}
        deaths: dict[str, Counter] = {"worker": Counter(), "node": Counter()}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self._jobs:
                    task = waiting.popleft()
                    under_way[self._begin(task)] = task
                for stream in self._ready(list(under_way)):
                    task = under_way[stream]
                    item = self._next(stream, task)
                    if isinstance(item, int):
                        self._epochs[task.trial] = item
                        continue
                    del under_way[stream]
                    if isinstance(item, node.Refused):
                        self._leave_out(item)
                        waiting.append(task)
                        continue
                    if isinstance(item, str):
                        item = self._after_loss(task, item, deaths[item])
                    if item is None:
                        waiting.appendleft(replace(task, wait=True))  # for the lock of one that is just ending
                        continue
                    done[task.trial] = item
                    if item.how != "busy":
                        say(str(item))
        except ClusterLostError:
            raise
        except BaseException:
            self._cancel(list(under_way))
            with suppress(TrackingError):
                self._store.heartbeat.no_wait.end_lost_trials(tasks[0].parent_id)
            raise

    def _begin(self, task: TrialTask) -> Any:
        """A trial as a task of the cluster, wherever it was not refused: the stream of what its worker says."""
        options = {"num_returns": "streaming", "max_retries": 0, "name": task.trial.label}
        if self._refused:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._refused)})"}
        return self._remote.options(**options).remote(self._command, self._like, task)

    def _ready(self, streams: list) -> list:
        """The streams that have something to say. ClusterLostError where the head has been away for long."""
        self._check_head()
        some, others = self._ray.wait(streams, timeout=LOOK_SECONDS, fetch_local=False)
        if some and others:
            some += self._ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        return some

    def _check_head(self) -> None:
        if (now := time.monotonic()) - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if silent(self._nodes.head) is None:
            self._away_since = None
            return
        self._away_since = now if self._away_since is None else self._away_since
        if time.monotonic() - self._away_since >= GONE_SECONDS:
            raise ClusterLostError(f"the head of the Ray cluster, {self._nodes.head}, is gone")

    def _leave_out(self, refused: node.Refused) -> None:
        """Have no more trials go to that node. TrialsFailedError where there is no other."""
        if refused.node_id not in self._refused:
            self._refused[refused.node_id] = refused
            say(f"node {refused.name} of the Ray cluster is left out: {refused.why}")
        if self._nodes.with_a(self._command.wanted.device).keys() <= self._refused.keys():
            raise TrialsFailedError(f"no node of the Ray cluster is left to train on; {refused.name}: {refused.why}")

    def _next(self, stream: Any, task: TrialTask) -> int | str | TrialOutcome:
        """What a worker says: an epoch's number or what became of the trial; or what was lost, worker or node."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(next(stream))
        except StopIteration:  # without a last word: the node went away with it
            return "node"
        except errors.RayTaskError as error:
            if isinstance(error.cause, TrackingError | UserError):
                raise error.cause from error
            return TrialOutcome(task.trial, "", "failed", f"{type(error.cause).__name__}: {brief(error.cause)}")
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError):
            return "node"
        except errors.RayError:
            return "worker"

    def _after_loss(self, task: TrialTask, what: str, deaths: Counter) -> TrialOutcome | None:
        """Close the run of a trial that lost its worker or node; None to have it run again, else that it failed."""
        self._store.heartbeat.end_lost_trials(task.parent_id, task.cache_key)
        deaths[task.trial] += 1
        most = WORKER_DEATHS if what == "worker" else NODE_DEATHS
        if deaths[task.trial] >= most:
            times = "twice" if most == 2 else f"{most} times"
            how = "its worker died" if what == "worker" else "its node went away"
            return TrialOutcome(task.trial, "", "failed", f"{how} {times}")
        how = "its worker died, perhaps for want of memory" if what == "worker" else "its node is gone"
        say(f"{task.trial.label}: {how}; it is run again")
        return None

    def _cancel(self, streams: list) -> None:
        """End the tasks, and wait until they have."""
        ray, deadline = self._ray, time.monotonic() + CANCEL_SECONDS
        for stream in streams:
            with suppress(ray.exceptions.RayError):
                ray.cancel(stream, force=True)
        while streams and time.monotonic() < deadline:
            for stream in ray.wait(streams, num_returns=1, timeout=LOOK_SECONDS, fetch_local=False)[0]:
                try:
                    ray.get(next(stream))
                except (StopIteration, ray.exceptions.RayError):
                    streams.remove(stream)
