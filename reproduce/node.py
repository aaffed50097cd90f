"""What runs on a node of a Ray cluster: it gets ready, tells what it is, and trains trials."""

import functools
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproduce import places, provenance, sight
from reproduce.errors import UserError
from reproduce.sight import Seen


@dataclass(frozen=True)
class Wanted:
    """What every node has to be ready for."""

    home: Path
    dataset: str
    data_dir: Path | None
    engine: str
    device: str


@dataclass(frozen=True)
class Ready:
    """What a node is ready with, and what it said meanwhile."""

    engine: str
    kernel: Path | None
    surroundings: dict[str, str]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """A node's: it is ready, or has some trouble. `package` is the digest of this package there."""

    package: str
    cpu: str
    shares_home: bool
    ready: Ready | None = None
    trouble: str = ""


def answer(settings: dict[str, str], directory: str, wanted: Wanted, seen: Seen) -> Answer:
    """Have this node ready, and say what it is."""
    _settle(settings, directory)
    found = provenance.environment()
    kind = found["cpu"] if wanted.device == "cpu" else f"{found['cpu']}, {found['gpu']}"
    try:
        shares_home = (wanted.home / "id").read_text() == seen.home_id
    except OSError:
        shares_home = False
    answer = Answer(package_sha256(), kind, shares_home)
    try:
        sight.check(seen)
        return replace(answer, ready=_made_ready(wanted))
    except UserError as error:
        return replace(answer, trouble=str(error))


def run_trial(
    settings: dict[str, str], directory: str, wanted: Wanted, seen: Seen, surroundings: dict[str, str], task: Any
) -> Iterator[Any]:
    """Run the trial here, unless this node, which may have come later than the others, is not like them."""
    _settle(settings, directory)
    import ray

    from reproduce import worker

    own = ray.get_runtime_context().get_node_id()
    name = next((name_of(found) for found in ray.nodes() if found["NodeID"] == own), platform.node())
    try:
        sight.check_files(seen)
        here = _made_ready(replace(wanted, engine=task.trial.engine))
        differing = [key for key, value in here.surroundings.items() if surroundings[key] != value]
        if differing:
            raise UserError(f"it differs from the other nodes in {', '.join(differing)}: take it out of the cluster")
        _check_gpu(wanted)
    except UserError as error:
        yield worker.Done(task.trial, "", "failed", f"node {name}: {error}")
        return
    yield from worker.run_trial(replace(task, kernel=here.kernel, node=name))


def name_of(node: dict[str, Any]) -> str:
    """A node's name for people: its own where it was given one, else its machine's."""
    own = node.get("NodeName")
    return own if own and own != node["NodeManagerAddress"] else node["NodeManagerHostname"]


@functools.cache
def package_sha256() -> str:
    """What tells one version of this package from another."""
    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".cpp"))
    listed = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _settle(settings: dict[str, str], directory: str) -> None:
    """Be as the command is: relative paths, in the store's address say, are from its directory."""
    os.environ.update(settings)
    with suppress(OSError):  # where that is not there, nothing relative is seen, and that is told
        os.chdir(directory)


@functools.cache
def _made_ready(wanted: Wanted) -> Ready:
    """Data and kernel in place, in this node's home."""
    from reproduce import engines, mnist, mnist_files

    said: list[str] = []
    places.own(wanted.home, "REPRODUCE_HOME")
    brought = wanted.data_dir if wanted.data_dir and wanted.data_dir.is_dir() else places.usual_data_dir()
    engine, kernel = engines.resolve(wanted.engine, wanted.device, wanted.home, said.append)
    mnist_files.prepare(wanted.dataset, wanted.home, brought, said.append)
    digest = engines.digest(engine, kernel)
    found = provenance.surroundings(mnist.data_sha256(wanted.dataset), wanted.device, digest)
    return Ready(engine, kernel, found, tuple(said))


def _check_gpu(wanted: Wanted) -> None:
    if wanted.device == "cuda":
        import torch

        if not torch.cuda.is_available():  # it would compute on the CPU, and be recorded as of a GPU
            raise UserError("its PyTorch sees no GPU, though Ray gives one: install one that does")
