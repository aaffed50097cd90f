"""Where a number comes from: commit, uncommitted changes, code, versions, hardware, image. Knows nothing of MLflow."""

import ast
import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import joblib
import psutil

from reproduce.errors import UserError, shown

ROOT = Path(__file__).resolve().parent.parent
# The modules that decide a trial's numbers; trial.py only says which trial it is, and that is hashed by itself.
DECIDING_MODULES = ("mnist", "lenet5", "fused/network", "engines", "optimizers", "schedules", "ranks", "training")
PACKAGES = ("torch", "torchvision", "colossalai", "numpy", "pillow", "scikit-learn", "mlflow")
DECIDING_PACKAGES = ("torch", "colossalai", "numpy", "pillow")
DIRTY = "-dirty"  # how git describe marks a commit with changes on top


def code_sha256(sources: list[str] | None = None, kernel: str | None = None) -> str:
    """SHA-256 of the code that decides the numbers; comments, docstrings and layout do not count.

    `sources` are Python, `kernel` is C++.
    """
    if sources is None:
        sources = [(ROOT / "reproduce" / f"{name}.py").read_text(encoding="utf-8") for name in DECIDING_MODULES]
    if kernel is None:
        kernel = (ROOT / "reproduce" / "fused" / "lenet5.cpp").read_text(encoding="utf-8")
    parts = [ast.dump(_without_docstrings(source)) for source in sources] + [_without_comments(kernel)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _without_docstrings(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def _without_comments(source: str) -> str:
    return "\n".join(filter(None, (" ".join(line.partition("//")[0].split()) for line in source.splitlines())))


def surroundings(data_sha256: str, device: str, engine: str, split: bool = False) -> dict[str, str]:
    """All that decides a trial's numbers beside its specification: what its fingerprint is taken over.

    `engine` is the digest of the compiled engine: another compiler may round otherwise. So does a batch that is `split`
    over ranks; over how many is left out, so that a trial goes on with another number of them.
    """
    return ({"batches": "split over ranks"} if split else {}) | {
        "data": data_sha256,
        "code": code_sha256(),
        "device": device,
        "engine": engine,
        **{name: version(name) for name in DECIDING_PACKAGES},
    }


@cache
def commit() -> str:
    """The commit of the checkout, or of the one the image was built from; `unknown` elsewhere."""
    return _git("rev-parse", "HEAD").strip() or _image().get("commit", "unknown").removesuffix(DIRTY)


@cache
def uncommitted_changes() -> str:
    """The diff of tracked files against the commit; empty in a clean checkout."""
    if _image().get("commit", "").endswith(DIRTY):
        return f"The image was built from a checkout with uncommitted changes. Its files are in the image: {ROOT}\n"
    return _git("diff", "HEAD")


@cache
def _image() -> dict[str, str]:
    """What docker/identity.py wrote when the image was built; empty outside an image."""
    path = ROOT / "image.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


@cache
def environment() -> dict[str, str]:
    """Versions and hardware, as text, under names fit for a table."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpu": _gpu_model(),
        "image": _image().get("contents", "none"),
        "image_base": _image().get("base", "none"),
        "image_id": os.environ.get("REPRODUCE_IMAGE_ID", "none"),  # only the engine outside knows it
    }


def cores() -> int:
    """How many cores this process may use: those it is bound to, fewer where a container's quota says so."""
    try:
        return joblib.cpu_count()
    except ValueError as error:
        named = shown(os.environ.get("LOKY_MAX_CPU_COUNT"))
        raise UserError(f"LOKY_MAX_CPU_COUNT is {named}, expected a whole number: correct or unset it") from error


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpu_model() -> str:
    try:
        names = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return ", ".join(names.stdout.split("\n")).strip(", ") if names.returncode == 0 else "none"
