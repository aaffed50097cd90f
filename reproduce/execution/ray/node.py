"""What runs on a node of a Ray cluster: it gets ready, tells what it is, and trains trials."""

import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproduce import paths
from reproduce.errors import UserError
from reproduce.execution.ray import shared_storage
from reproduce.training import provenance


@dataclass(frozen=True)
class Wanted:
    """What every node has to be ready for."""

    home: Path
    dataset: str
    data_dir: Path | None
    engine: str
    device: str


@dataclass(frozen=True)
class Command:
    """What a node is told of the command that it works for. `environment` is added to its own."""

    environment: dict[str, str]
    directory: Path
    wanted: Wanted
    seen: shared_storage.Seen


@dataclass(frozen=True)
class Ready:
    """What a node is ready with, and what it said meanwhile. `package` is the digest of this package there."""

    engine: str
    kernel: Path | None
    package: str
    numerics_environment: dict[str, str]
    said: tuple[str, ...]

    @property
    def kind(self) -> dict[str, str]:
        """All that has to be the same on every node."""
        return {"this package": self.package} | self.numerics_environment


@dataclass(frozen=True)
class Answer:
    """A node's: it is ready, or has some trouble."""

    processor: str
    shares_home: bool
    ready: Ready | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Refused:
    """Why that node, which may have come later than the others, cannot train for a command."""

    node_id: str
    name: str
    why: str


def answer(command: Command) -> Answer:
    """Have this node ready, and say what it is."""
    _settle(command)
    found = provenance.environment()
    gpus = sorted(set(found["gpu"].split(", ")))  # of one model, however many
    processor = ", ".join([found["cpu"], *(gpus if command.wanted.device != "cpu" else [])])
    reached = Answer(processor, shared_storage.shares_home(command.seen))
    try:
        return replace(reached, ready=_made_ready(command.wanted, command.seen, known=False))
    except UserError as error:
        return replace(reached, trouble=str(error))


def run_trial(command: Command, like: Ready, task: Any) -> Iterator[Any]:
    """What the trial's worker says of it; or a refusal, where this node is not like the others.

    TrackingError, which ends the whole command, where the store stays away.
    """
    _settle(command)
    import ray

    from reproduce.execution import worker

    own = ray.get_runtime_context().get_node_id()
    name = next((name_of(found) for found in ray.nodes() if found["NodeID"] == own), own)
    try:
        here = _made_ready(replace(command.wanted, engine=like.engine), command.seen, known=True)
        differing = [key for key, value in here.kind.items() if like.kind.get(key) != value]
        if differing:
            raise UserError(f"it differs from the other nodes in {', '.join(differing)}")
        _check_gpu(command.wanted.device)
    except UserError as error:
        yield Refused(own, name, str(error))
        return
    yield from worker.run_trial(replace(task, kernel=here.kernel, node=name))


def name_of(node: dict[str, Any]) -> str:
    """A node's name for people: its own where it was given one, else its machine's."""
    own = node.get("NodeName")
    return own if own and own != node["NodeManagerAddress"] else node["NodeManagerHostname"]


@functools.cache
def package_sha256() -> str:
    """What tells one version of this package from another."""
    root = Path(__file__).parent.parent.parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".cpp"))
    listed = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _settle(command: Command) -> None:
    """Be as the command is: relative paths, in the store's address say, are from its directory."""
    os.environ.update(command.environment)
    with suppress(OSError):  # where that is not there, nothing relative is seen, and that is told
        os.chdir(command.directory)


@functools.cache
def _made_ready(wanted: Wanted, seen: shared_storage.Seen, known: bool) -> Ready:
    """Store seen, data and kernel in place, in this node's home; once a process."""
    from reproduce.data import datasets, verified_cache
    from reproduce.training import engines

    paths.prepare_home(wanted.home)
    shared_storage.check(seen, known)
    said: list[str] = []
    is_here = wanted.data_dir is not None and paths.why_no_data(wanted.data_dir) is None
    brought = wanted.data_dir if is_here else paths.default_data_dir()
    engine, kernel = engines.resolve(wanted.engine, wanted.device, wanted.home, said.append)
    verified_cache.prepare(wanted.dataset, wanted.home, brought, said.append)
    digest = engines.digest(engine, kernel)
    found = provenance.numerics_environment(datasets.data_sha256(wanted.dataset), wanted.device, digest)
    return Ready(engine, kernel, package_sha256(), found, tuple(said))


def _check_gpu(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():  # it would compute on the CPU, and be recorded as of a GPU
            raise UserError("its PyTorch sees no GPU, though Ray gives one: install one that does")
