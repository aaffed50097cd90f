"""Trials as tasks of a Ray cluster.

What decides a trial's numbers is the nodes', not this process's: all of them are asked first, and have to agree. Trials
whose worker or node is lost run again elsewhere.
"""

import os
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from reproduce import node
from reproduce.errors import ClusterLostError, TrackingError, UserError
from reproduce.progress import say
from reproduce.ray_session import brief, silent
from reproduce.sight import to_be_seen
from reproduce.trial import Trial
from reproduce.worker import Done, Task

LOOK_SECONDS = 1  # between two looks at the tasks and, where nothing comes, at the cluster itself
GONE_SECONDS = 30  # without the head: Ray itself would end this process after 60, in its own way
CANCEL_SECONDS = 10
AT_ONCE = 1000  # trials asked for at a time: an autoscaler sees what there is to do, and looking at them stays cheap
WORKER_DEATHS, NODE_DEATHS = 2, 10  # after which a trial is given up; to lose a node is not its own fault
PASSED_ON = ("REPRODUCE_STORE_PATIENCE",)  # to workers; secrets are the nodes' own, as Ray shows what it passes on


class Cluster:
    """The cluster at whose `head` this process is connected, until `until_the_end` is closed.

    `jobs` bounds the trials that are asked for at a time.
    """

    def __init__(self, ray: Any, head: str, until_the_end: ExitStack, jobs: int | None, gpus_per_trial: float) -> None:
        self._ray, self._head, self._until_the_end = ray, head, until_the_end
        self.jobs, self.gpus_per_trial = jobs or AT_ONCE, gpus_per_trial
        self._epochs: dict[Trial, int] = {}
        self._away_since: float | None = None

    def device(self, wanted: str) -> str:
        """The kind of device that trials run on: a GPU where a node has one, unless the CPU is wanted."""
        if wanted == "cpu" or (wanted == "auto" and not self._nodes("cuda")):
            return "cpu"
        if not self._nodes("cuda"):
            raise UserError(
                "--device cuda: no node of the Ray cluster has a GPU to give; start one with ray start "
                "--address=… --num-gpus=1, or leave --device out to compute on CPUs"
            )
        return "cuda"

    def _nodes(self, device: str) -> dict[str, str]:
        """Of the nodes that are there and have something to compute on the name, by id."""
        resource = "GPU" if device == "cuda" else "CPU"
        return {
            found["NodeID"]: node.name_of(found)
            for found in self._ray.nodes()
            if found["Alive"] and found["Resources"].get(resource, 0) > 0
        }

    def prepare(self, store: Any, wanted: node.Wanted) -> str:
        """Have every node ready for the trials, and say which engine they have; UserError where one cannot be.

        They all have to see the store that the command sees, and to be of one kind.
        """
        self._store, self._wanted = store, wanted
        nodes = self._nodes(wanted.device)
        if not nodes:
            raise UserError(
                f"no node of the Ray cluster at {self._head} has a CPU to give: start one with ray start --address=…, "
                "or where nodes come on demand keep one of them"
            )
        self._seen = self._until_the_end.enter_context(to_be_seen(store))
        self._settings = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # as in the pool of this machine
        self._settings |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if wanted.device == "cpu":
            self._settings["CUDA_VISIBLE_DEVICES"] = ""  # or Colossal-AI would take a GPU that is there
        answers = self._ask(nodes)
        for name, answer in answers.items():
            if answer.trouble:
                raise UserError(f"node {name} of the Ray cluster: {answer.trouble}")
        _check_alike(answers)
        first = next(iter(answers.values())).ready
        for line in dict.fromkeys(line for answer in answers.values() for line in answer.ready.said):
            say(line)
        if len({answer.cpu for answer in answers.values()}) > 1:
            kinds = "; ".join(f"{name}: {answer.cpu}" for name, answer in answers.items())
            say(f"the nodes' processors differ, and the last bits may with them: {kinds}")
        say(f"Ray cluster at {self._head}: {len(answers)} node{'s' * (len(answers) > 1)} to train on")
        if not all(answer.shares_home for answer in answers.values()):
            say(f"{store.home} is not the same directory on all of them: a trial that loses its node begins anew")
        self._surroundings = first.surroundings
        return first.engine

    def _ask(self, nodes: dict[str, str]) -> dict[str, node.Answer]:
        """Every node's answer by its name. A node that goes away meanwhile is none of them."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        asked = {}
        for node_id, name in nodes.items():
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            probe = ray.remote(node.answer).options(num_cpus=0, max_retries=0, scheduling_strategy=here, name="prepare")
            asked[name if name not in asked else f"{name} {node_id[:8]}"] = probe.remote(
                self._settings, str(Path.cwd()), self._wanted, self._seen
            )
        answers = {}
        for name, reference in asked.items():
            try:
                answers[name] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # of what a node cannot import, say
                raise UserError(
                    f"node {name} of the Ray cluster cannot run this package ({brief(error.cause)}): install the same "
                    "version of it there"
                ) from error
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError) as error:
                say(f"node {name} of the Ray cluster is gone ({type(error).__name__})")
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"node {name} of the Ray cluster cannot run this package ({brief(error)}): look into Ray's logs "
                    "there, or take it out of the cluster"
                ) from error
        if not answers:
            raise UserError(f"all nodes of the Ray cluster at {self._head} are gone: start some")
        return answers

    def surroundings(self, trial: Trial) -> dict[str, str]:
        """All that decides the trial's numbers beside its specification, as the nodes have it."""
        return self._surroundings

    def place(self, index: int) -> tuple[None, int, None]:
        """Ray ends its workers itself, shows each only the device that it may use, and kernels are the nodes' own."""
        return None, 0, None

    def epochs_done(self, task: Task) -> int:
        """How many epochs of a trial its worker said are saved."""
        return self._epochs.get(task.trial, 0)

    def run(self, tasks: list[Task], done: dict[Trial, Done]) -> None:
        """Run the tasks and put what became of them into `done`. One that was lost goes first."""
        waiting, under_way = deque(tasks), {}
        deaths: dict[str, Counter] = {"worker": Counter(), "node": Counter()}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self.jobs:
                    task = waiting.popleft()
                    under_way[self._begin(task)] = task
                for stream in self._ready(list(under_way)):
                    task = under_way[stream]
                    item = self._next(stream, task)
                    if isinstance(item, int):
                        self._epochs[task.trial] = item
                        continue
                    del under_way[stream]
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
            self._store.close_lost(tasks[0].parent_id, waiting=False)
            raise

    def _begin(self, task: Task) -> Any:
        """A trial as a task of the cluster: the stream of what its worker says."""
        gpus = {"num_gpus": self.gpus_per_trial} if self._wanted.device == "cuda" else {}
        remote = self._ray.remote(node.run_trial).options(
            num_cpus=1, num_returns="streaming", max_retries=0, name=task.trial.label, **gpus
        )
        return remote.remote(self._settings, str(Path.cwd()), self._wanted, self._seen, self._surroundings, task)

    def _ready(self, streams: list) -> list:
        """The streams that have something to say. ClusterLostError where the head has been away for long."""
        some, others = self._ray.wait(streams, timeout=LOOK_SECONDS, fetch_local=False)
        if not some:
            self._check_head()
        elif others:
            some += self._ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        return some

    def _check_head(self) -> None:
        if silent(self._head) is None:
            self._away_since = None
            return
        self._away_since = self._away_since or time.monotonic()
        if time.monotonic() - self._away_since >= GONE_SECONDS:
            raise ClusterLostError(f"the head of the Ray cluster, {self._head}, is gone")

    def _next(self, stream: Any, task: Task) -> int | str | Done:
        """What a worker says: an epoch's number or what became of the trial; or what was lost, worker or node."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(next(stream))
        except StopIteration:  # without a last word: the node went away with it
            return "node"
        except errors.RayTaskError as error:
            if isinstance(error.cause, TrackingError | UserError):
                raise error.cause from error
            return Done(task.trial, "", "failed", f"{type(error.cause).__name__}: {brief(error.cause)}")
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError):
            return "node"
        except errors.RayError:
            return "worker"

    def _after_loss(self, task: Task, what: str, deaths: Counter) -> Done | None:
        """Close the run of a trial that lost its worker or node; None to have it run again, else that it failed."""
        self._store.close_lost(task.parent_id, task.fingerprint)
        deaths[task.trial] += 1
        most = WORKER_DEATHS if what == "worker" else NODE_DEATHS
        if deaths[task.trial] >= most:
            times = "twice" if most == 2 else f"{most} times"
            how = "its worker died" if what == "worker" else "its node went away"
            return Done(task.trial, "", "failed", f"{how} {times}")
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


def _check_alike(answers: dict[str, node.Answer]) -> None:
    """UserError that names the nodes that differ, in what, and what to do."""
    kinds = {name: {"this package": answer.package} | answer.ready.surroundings for name, answer in answers.items()}
    kinds = {"this command": {"this package": node.package_sha256()}} | kinds
    for key in next(reversed(kinds.values())):
        values: dict[str, list[str]] = {}
        for name, kind in kinds.items():
            if key in kind:
                values.setdefault(kind[key], []).append(name)
        if len(values) > 1:
            sides = sorted((sorted(names), value) for value, names in values.items())
            sides.sort(key=lambda side: -len(side[0]))  # the many first: the odd one is more likely to be at fault
            told = " and ".join(f"{value[:12]} on {_listed(names)}" for names, value in sides)
            raise UserError(
                f"the nodes of the Ray cluster differ in {key}: {told}; the same bits come from the same kind of "
                "machine only: make them alike, or take some out of the cluster"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
