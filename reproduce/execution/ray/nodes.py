"""The nodes of a Ray cluster: which are there, whether they are alike, and what decides the numbers on them.

What decides a trial's numbers is the nodes', not this process's: all of them are asked first, and have to agree.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.execution.ray import node
from reproduce.execution.ray.session import brief
from reproduce.execution.ray.shared_storage import to_be_seen
from reproduce.progress import SILENT_SECONDS, say

READY_SECONDS = 3600  # for a node to fetch the data, from each source in turn
STILL_SECONDS = 30  # between two lines that say whose answer is waited for
PASSED_ON = ("REPRODUCE_STORE_PATIENCE",)  # to workers; secrets are the nodes' own, as Ray shows what it passes on


class Nodes:
    """Those of the cluster at whose `head` this process is connected."""

    def __init__(self, ray: Any, head: str) -> None:
        self.ray, self.head = ray, head

    def device(self, wanted: str) -> str:
        """The kind of device that trials run on: a GPU where a node has one, unless the CPU is wanted."""
        if wanted == "cpu" or (wanted == "auto" and not self.with_a("cuda")):
            return "cpu"
        if not self.with_a("cuda"):
            raise UserError(
                "--device cuda: no node of the Ray cluster has a GPU and a CPU to give; start one with ray start "
                "--address=… --num-gpus=1, or leave --device out to compute on CPUs"
            )
        return "cuda"

    def with_a(self, device: str) -> dict[str, str]:
        """Of the nodes that are there and have such a device, and a core to feed it, the name, by id."""
        wanted = ("CPU", "GPU") if device == "cuda" else ("CPU",)
        return {
            found["NodeID"]: node.name_of(found)
            for found in self.ray.nodes()
            if found["Alive"] and all(found["Resources"].get(resource, 0) > 0 for resource in wanted)
        }

    @contextmanager
    def ready(self, store: Any, wanted: node.Wanted) -> Iterator[tuple[node.Command, node.Ready]]:
        """Have every node ready for the trials; what they are told of this command, and with what they all are ready.

        UserError where one cannot be: they have to see the store that the command sees, and to be of one kind.
        """
        nodes = self.with_a(wanted.device)
        if not nodes:
            raise UserError(
                f"no node of the Ray cluster at {self.head} has a CPU to give: start one with ray start --address=…, "
                "or where nodes come on demand keep one of them"
            )
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # as in the pool of this machine
        environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if wanted.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""  # or Colossal-AI would take a GPU that is there
        with to_be_seen(store) as seen:
            command = node.Command(environment, Path.cwd(), wanted, seen)
            answers = self._asked(nodes, command)
            for name, answer in answers.items():
                if answer.trouble:
                    raise UserError(f"node {name} of the Ray cluster: {answer.trouble}")
            _check_alike(answers)
            self._tell(answers, store.home)
            yield command, next(iter(answers.values())).ready

    def _tell(self, answers: dict[str, node.Answer], home: Path) -> None:
        for line in dict.fromkeys(line for answer in answers.values() for line in answer.ready.said):
            say(line)
        if len({answer.processor for answer in answers.values()}) > 1:
            kinds = "; ".join(f"{name}: {answer.processor}" for name, answer in answers.items())
            say(f"the nodes' processors differ, and the last bits may with them: {kinds}")
        say(f"Ray cluster at {self.head}: {len(answers)} node{'s' * (len(answers) > 1)} to train on")
        if not all(answer.shares_home for answer in answers.values()):
            say(f"{home} is not the same directory on all of them: a trial that loses its node begins anew")

    def _asked(self, nodes: dict[str, str], command: node.Command) -> dict[str, node.Answer]:
        """Every node's answer by its name. A node that goes away meanwhile is none of them."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray, remote = self.ray, self.ray.remote(node.answer)
        asked: dict[Any, str] = {}
        for node_id, name in nodes.items():
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            probe = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=here, name="prepare")
            asked[probe.remote(command)] = name if name not in asked.values() else f"{name} {node_id[:8]}"
        waiting, wait, until = list(asked), SILENT_SECONDS, time.monotonic() + READY_SECONDS
        while waiting:
            some, waiting = ray.wait(waiting, timeout=wait)
            if not some:
                late, wait = _listed([asked[each] for each in waiting]), STILL_SECONDS
                if time.monotonic() > until:
                    raise UserError(f"{late} of the Ray cluster had no data and kernel ready in an hour: take it out")
                say(f"waiting for {late} to have data and kernel ready, for up to an hour")
        answers = {name: self._answer(reference, name) for reference, name in asked.items()}
        answers = {name: answer for name, answer in answers.items() if answer}
        if not answers:
            raise UserError(f"all nodes of the Ray cluster at {self.head} are gone: start some")
        return answers

    def _answer(self, reference: Any, name: str) -> node.Answer | None:
        """What a node answered; None where it is gone."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:  # of what a node cannot import, say
            raise UserError(
                f"node {name} of the Ray cluster cannot run this package ({brief(error.cause)}): install the same "
                "version of it there"
            ) from error
        except (errors.NodeDiedError, errors.TaskUnschedulableError) as error:
            say(f"node {name} of the Ray cluster is gone ({type(error).__name__})")
            return None
        except errors.RayError as error:
            raise UserError(
                f"node {name} of the Ray cluster cannot run this package ({brief(error)}): look into Ray's logs "
                "there, or take it out of the cluster"
            ) from error


def _check_alike(answers: dict[str, node.Answer]) -> None:
    """UserError that names the nodes that differ, in what, and what to do."""
    kinds = {"this command": {"this package": node.package_sha256()}}
    kinds |= {name: answer.ready.kind for name, answer in answers.items()}
    for key in next(reversed(kinds.values())):
        values: dict[str, list[str]] = {}
        for name, kind in kinds.items():
            if key in kind:
                values.setdefault(kind[key], []).append(name)
        if len(values) > 1:
            sides = sorted((sorted(names), value) for value, names in values.items())
            sides.sort(key=lambda side: -len(side[0]))  # the many first: the odd one is more likely to be at fault
            told = " and ".join(f"{value[:12]} on {_listed(names)}" for names, value in sides)
            instead = ", or have none compiled with --engine torch" if key == "engine" else ""
            raise UserError(
                f"the nodes of the Ray cluster differ in {key}: {told}; the same bits come from the same kind of "
                f"machine only: make them alike, or take some out of the cluster{instead}"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
