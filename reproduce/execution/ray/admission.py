"""Which nodes of a Ray cluster may train, and what decides the numbers on them.

That is the nodes', not this process's: every node is checked before any trial, and they have to agree.
"""

import time
from collections import defaultdict
from textwrap import shorten

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reproduce.errors import UserError
from reproduce.execution.ray import node
from reproduce.progress import say, say_if_slow
from reproduce.tracking.store_errors import describe_error

# A node may have to fetch the data, from each source in turn.
READY_SECONDS = 3600
NAMES_SHOWN = 80


def usable_nodes(device: str) -> dict[str, str]:
    """Return the name, by id, of each node that is there and has such a device, and a core to feed it."""
    needed = ("CPU", "GPU") if device == "cuda" else ("CPU",)
    return {
        found["NodeID"]: node.node_name(found)
        for found in ray.nodes()
        if found["Alive"] and all(found["Resources"].get(resource, 0) > 0 for resource in needed)
    }


def choose_device(requested: str) -> str:
    """Return the kind of device that trials run on: a GPU where a node has one, unless the CPU is requested.

    UserError where a GPU is requested and no node has one.
    """
    if requested != "cpu" and usable_nodes("cuda"):
        return "cuda"
    if requested == "cuda":
        raise UserError(
            "--device cuda: no node of the Ray cluster offers a GPU and a CPU; start one with ray start "
            "--address=… --num-gpus=1, or leave out --device to compute on CPUs"
        )
    return "cpu"


def admit_nodes(request: node.NodeRequest, head: str) -> node.NodeEnvironment:
    """Make every node of the cluster at `head` ready, and return what they all train with.

    UserError where one cannot use the command's storage, cannot get ready, or differs from the others.
    """
    probes = {}
    for node_id, name in usable_nodes(request.options.device).items():
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        probe = ray.remote(node.prepare).options(num_cpus=0, max_retries=0, scheduling_strategy=there, name="prepare")
        probes[name if name not in probes else f"{name} {node_id[:8]}"] = probe.remote(request)
    if not probes:
        raise UserError(
            f"no node of the Ray cluster at {head} offers a CPU: start one with ray start --address=…, or, "
            "if nodes start on demand, keep one of them"
        )
    deadline = time.monotonic() + READY_SECONDS
    answers = {name: _wait_for(probe, name, deadline - time.monotonic()) for name, probe in probes.items()}
    environments = {name: answer for name, answer in answers.items() if answer}
    if not environments:
        raise UserError(f"all nodes of the Ray cluster at {head} are gone: start at least one")
    check_equal({name: environment.deciding for name, environment in environments.items()})
    for line in dict.fromkeys(line for environment in environments.values() for line in environment.messages):
        say(line)
    if len({environment.processor for environment in environments.values()}) > 1:
        processors = "; ".join(f"{name}: {environment.processor}" for name, environment in environments.items())
        say(f"the nodes' processors differ, so the last bits may differ too: {processors}")
    say(f"Ray cluster at {head}: {len(environments)} node{'s' * (len(environments) > 1)} to train on")
    if not all(environment.shares_home for environment in environments.values()):
        home = request.options.home
        say(f"{home} is not the same directory on all of them: a trial that loses its node starts again")
    return next(iter(environments.values()))


def _wait_for(probe: "ray.ObjectRef[node.NodeEnvironment]", name: str, seconds: float) -> node.NodeEnvironment | None:
    """Return what that node trains with; None where it is gone. UserError where it cannot train."""
    called = f"node {name} of the Ray cluster"
    try:
        with say_if_slow(f"waiting for {called} to have data and kernel ready, for up to an hour"):
            environment: node.NodeEnvironment = ray.get(probe, timeout=max(seconds, 0))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(f"{called}: {error.cause}") from error
        # The node cannot import something, say.
        unable, remedy = describe_error(error.cause), "install the same version there"
    except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError) as error:
        say(f"{called} is gone ({type(error).__name__})")
        return None
    except ray.exceptions.GetTimeoutError as error:
        raise UserError(
            f"{called} did not prepare data and kernel within an hour: take it out of the cluster"
        ) from error
    except ray.exceptions.RayError as error:
        unable, remedy = describe_error(error), "look at Ray's logs there, or take it out of the cluster"
    else:
        return environment
    raise UserError(f"{called} cannot run this package ({unable}): {remedy}")


def check_equal(deciding: dict[str, dict[str, str]]) -> None:
    """Refuse nodes, by name, whose numbers would differ. UserError names them, in what they differ, what to do."""
    for key in next(iter(deciding.values())):
        names: dict[str, list[str]] = defaultdict(list)
        for name in sorted(deciding):
            names[deciding[name][key]].append(name)
        if len(names) > 1:
            # The many come first: the odd one is more likely to be at fault.
            values = sorted(names, key=lambda value: -len(names[value]))
            sides = [f"{value[:12]} on {shorten(', '.join(names[value]), NAMES_SHOWN, placeholder=' …')}"
                     for value in values]  # fmt: skip
            instead = ", or have none compiled with --engine torch" if key == "engine" else ""
            raise UserError(
                f"the nodes of the Ray cluster differ in {key}: {' and '.join(sides)}; only machines of the same "
                f"kind give the same bits: make them alike, or take some out of the cluster{instead}"
            )
