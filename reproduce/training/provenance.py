"""Where a number comes from: commit, uncommitted changes, code, versions, hardware, image. Knows nothing of MLflow.

A fact that cannot be found out is `unknown` and never an error: no trial is lost because git fails.
"""

import ast
import functools
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions, version
from typing import Literal

import joblib
import psutil

from reproduce.errors import UserError, shown
from reproduce.escaping import printable
from reproduce.study.own_code import without_docstrings
from reproduce.training.checkout import DIRTY, ROOT, UNKNOWN, Checkout, run_program
from reproduce.training.fused import library

# The modules that decide a trial's numbers; trial.py only says which trial it is, and that is hashed by itself.
DECIDING_MODULES = (
    "data/arrays", "data/datasets", "data/study_data", "studies/lenet5_mnist/network", "training/fused/network",
    "training/engines", "training/optimizers", "training/lr_schedulers", "training/data_parallel",
    "training/torch_setup", "training/loop", "training/prepared", "training/prepared_network", "training/losses",
)  # fmt: skip
PACKAGES = ("torch", "torchvision", "colossalai", "numpy", "pillow", "scikit-learn", "mlflow")
DECIDING_PACKAGES = ("torch", "colossalai", "numpy", "pillow")
NONE = "none"
# Characters of a value. MLflow takes 8,000 bytes.
MAX_LENGTH = 1000


def code_sha256(sources: list[str] | None = None, kernel: str | None = None) -> str:
    """Return the SHA-256 of the code that decides the numbers; comments, docstrings and layout do not count.

    `sources` are Python, `kernel` is C++. Without them it is this package's code.
    """
    if sources is None:
        sources = [(ROOT / "reproduce" / f"{name}.py").read_text(encoding="utf-8") for name in DECIDING_MODULES]
    if kernel is None:
        kernel = (ROOT / "reproduce" / "training" / "fused" / "lenet5.cpp").read_text(encoding="utf-8")
    parts = [ast.dump(without_docstrings(source)) for source in sources] + [_without_comments(kernel)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _without_comments(source: str) -> str:
    return "\n".join(filter(None, (" ".join(line.partition("//")[0].split()) for line in source.splitlines())))


def numerics_environment(
    data_sha256: str, device: str, engine: str, split: bool = False, packages: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return all that decides a trial's numbers beside its configuration, for its cache key.

    Args:
        data_sha256: The data set's hash, as `study_data.sha256` returns it.
        device: The kind of device.
        engine: As `engines.engine_id` returns it, as another compiler may round otherwise.
        split: Whether batches are split over ranks, which rounds otherwise too. The number of ranks is left out, so
            that a trial can be resumed with another number.
        packages: The modules that a study's own code imports.
    """
    return ({"batches": "split over ranks"} if split else {}) | {
        "data": data_sha256,
        "code": code_sha256(),
        "device": device,
        "engine": engine,
        **{name: version(name) for name in (*DECIDING_PACKAGES, *_distributions(packages))},
    }


@cache
def _distributions(packages: tuple[str, ...]) -> list[str]:
    """Return the installed distributions of modules, as pillow is PIL's. Those that are not installed are left out."""
    wanted = set(packages) - set(DECIDING_PACKAGES)
    # To look through all that is installed takes a second. importlib's own table of it lacks most in Python 3.10.
    found = {
        distribution.metadata["Name"]
        for distribution in (distributions() if wanted else ())
        if not wanted.isdisjoint(file.parts[0].removesuffix(".py") for file in distribution.files or ())
    }
    return sorted(name for name in found if name.lower() not in DECIDING_PACKAGES)


@dataclass(frozen=True)
class Source:
    """The source that runs: its commit, or unknown, and whether files differ from it.

    `diff` holds the differences, in the bytes that the files have. `trouble` is the reason where git fails, else empty.
    """

    commit: str
    uncommitted_changes: Literal["yes", "no", "unknown"]
    diff: bytes = b""
    trouble: str = ""


@cache
def source() -> Source:
    """Return the source that runs, from its own git repository, else from its container's image."""
    commit = UNKNOWN
    try:
        if not (ROOT / ".git").exists():
            return _source_of_image()
        checkout = Checkout.open(ROOT)
        commit = checkout.commit
        diff = checkout.diff()
    # A git that is damaged, or is another program, can cause any error.
    except Exception as error:
        return Source(commit, UNKNOWN, trouble=_clean(str(error)))
    return Source(commit, "yes" if diff else "no", diff)


def _source_of_image() -> Source:
    commit = _image().get("commit", UNKNOWN)
    if commit.endswith(DIRTY):
        said = f"The image was built from a checkout with uncommitted changes. Its files are in the image: {ROOT}\n"
        return Source(commit.removesuffix(DIRTY), "yes", said.encode("utf-8", "backslashreplace"))
    return Source(commit, "no" if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit) else UNKNOWN)


@cache
def _image() -> dict[str, str]:
    """Return what docker/identity.py wrote when the image was built; empty outside an image."""
    try:
        written = json.loads((ROOT / "image.json").read_bytes())
        return {name: _clean(text) for name, text in written.items()}
    except FileNotFoundError:
        return {}
    # The file is damaged.
    except (OSError, ValueError, AttributeError):
        return {"contents": UNKNOWN, "base": UNKNOWN}


@cache
def environment() -> dict[str, str]:
    """Return versions and hardware, as text, by the name under which they are recorded."""
    found: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        **{name: functools.partial(version, name) for name in PACKAGES},
        "system": lambda: f"{platform.system()} {platform.machine()}",
        "cpu": lambda: next(iter(library.cpu_lines("model name")), platform.processor()),
        # What the fused engine's kernel is compiled for.
        "instructions": library.best_target,
        "cores": lambda: str(cores()),
        "memory": lambda: f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpu": _gpu_model,
        "image": lambda: _image().get("contents", NONE),
        "image_base": lambda: _image().get("base", NONE),
        # Only the container engine outside knows it.
        "image_id": lambda: os.environ.get("REPRODUCE_IMAGE_ID") or NONE,
    }
    return {name: _or_unknown(find) for name, find in found.items()}


def _or_unknown(find: Callable[[], str]) -> str:
    try:
        return _clean(find()) or UNKNOWN
    # A file may be unreadable, a package without its metadata, a machine of an unknown kind.
    except Exception:
        return UNKNOWN


def _clean(text: str) -> str:
    """Return the text as one short line that every store takes, whatever bytes it came from."""
    return printable(text)[:MAX_LENGTH]


def cores() -> int:
    """Return how many cores this process may use: those it is bound to, fewer where a container's quota says so."""
    try:
        return int(joblib.cpu_count())
    except ValueError as error:
        named = shown(os.environ.get("LOKY_MAX_CPU_COUNT"))
        raise UserError(f"LOKY_MAX_CPU_COUNT is {named}, expected a whole number: correct or unset it") from error


def _gpu_model() -> str:
    if shutil.which("nvidia-smi") is None:
        return NONE
    names = run_program(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).decode("utf-8")
    return ", ".join(filter(None, map(str.strip, names.splitlines())))
