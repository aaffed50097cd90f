"""What runs on a node of a Ray cluster: it makes data and kernel ready, and trains trials."""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reproduce import paths
from reproduce.data import study_data
from reproduce.errors import UserError
from reproduce.execution.executor import TrialOutcome, TrialTask
from reproduce.execution.ray import shared_storage
from reproduce.execution.run_options import RunOptions
from reproduce.training import provenance


class UnfitNodeError(Exception):
    """The reason why a node cannot train for a command. The arguments are its id and the reason."""


@dataclass(frozen=True)
class NodeRequest:
    """A request to a node to get ready, sent by the command whose package has that SHA-256.

    `variables` are set in the node's environment. Relative paths, in the store's address say, are from `directory`.
    """

    options: RunOptions
    variables: tuple[tuple[str, str], ...]
    directory: Path
    package_sha256: str
    storage: shared_storage.SharedStorage


@dataclass(frozen=True)
class NodeEnvironment:
    """The environment that a node trains with.

    `deciding` has all that decides the numbers, and has to be the same on every node. `messages` are the lines that the
    node had to say as it got ready.
    """

    engine: str
    kernel: Path | None
    deciding: dict[str, str]
    processor: str
    shares_home: bool
    messages: tuple[str, ...]


def run_trial(request: NodeRequest, expected: NodeEnvironment, task: TrialTask) -> Iterator[int | TrialOutcome]:
    """Yield what the trial's worker does. UnfitNodeError where this node cannot train as the others do.

    TrackingError, which ends the whole command, where the store stays away.
    """
    import ray
    import torch

    from reproduce.execution import worker

    node_id = ray.get_runtime_context().get_node_id()
    try:
        options = request.options.model_copy(update={"engine": expected.engine})
        ours = prepare(replace(request, options=options), is_known=True)
        differing = [key for key, value in ours.deciding.items() if expected.deciding.get(key) != value]
        if differing:
            raise UserError(f"it differs from the other nodes in {', '.join(differing)}")
        if request.options.device == "cuda" and not torch.cuda.is_available():
            # It would compute on the CPU, and be recorded as of a GPU.
            raise UserError("its PyTorch sees no GPU, although Ray offers one: install a PyTorch that does")
    except UserError as error:
        raise UnfitNodeError(node_id, str(error)) from error
    name = next((node_name(node) for node in ray.nodes() if node["NodeID"] == node_id), node_id)
    yield from worker.run_trial(replace(task, placement=replace(task.placement, kernel=ours.kernel), node=name))


def node_name(node: Mapping[str, str]) -> str:
    """Return a node's name for people, of what `ray.nodes` says of it: its own where it has one, else its machine's."""
    own = node.get("NodeName")
    return own if own and own != node["NodeManagerAddress"] else node["NodeManagerHostname"]


@functools.cache
def package_sha256() -> str:
    """Return what tells one version of this package from another."""
    root, digest = Path(__file__).parent.parent.parent, hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".cpp")):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def prepare(request: NodeRequest, is_known: bool = False) -> NodeEnvironment:
    """Make this node ready, once a process, and return what it trains with. UserError where it cannot.

    Package and storage are checked, and data and kernel made ready in this node's home. `is_known` is that of
    `shared_storage.check`.
    """
    # Ray submits no function that is cached.
    return _prepare(request, is_known)


@functools.cache
def _prepare(request: NodeRequest, is_known: bool) -> NodeEnvironment:
    from reproduce.execution import local

    os.environ.update(request.variables)
    # Where the directory is not there, nothing relative is found, and the check of the storage says so.
    with suppress(OSError):
        os.chdir(request.directory)
    options = request.options
    if package_sha256() != request.package_sha256:
        raise UserError("its version of this package is not the command's: install the same version there")
    paths.prepare_home(options.home)
    shared_storage.check(request.storage, is_known)
    if options.data_dir is None or paths.why_no_data(options.data_dir) is not None:
        options = options.model_copy(update={"data_dir": paths.default_data_dir()})
    messages: list[str] = []
    engine, kernel = local.prepare_machine(options, messages.append)
    data = study_data.sha256(options.dataset, options.data_sha256)
    deciding = local.numerics_environment(data, options.device, engine, kernel, options.packages)
    hardware = provenance.environment()
    # GPUs of one model are named once, however many there are.
    gpus = sorted(set(hardware["gpu"].split(", "))) if options.device == "cuda" else []
    processor = ", ".join([hardware["cpu"], *gpus])
    shares_home = shared_storage.shares_home(request.storage)
    return NodeEnvironment(engine, kernel, deciding, processor, shares_home, tuple(messages))
