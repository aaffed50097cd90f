"""Which engine computes the network: `torch`, PyTorch's own layers, or `fused`, our kernel for CPUs."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from reproduce.errors import UserError
from reproduce.studies.lenet5_mnist.network import LeNet5
from reproduce.training.fused import library
from reproduce.training.fused.network import FusedLeNet5

ENGINES = ("torch", "fused")


def resolve(wanted: str, device: str, home: Path, say: Callable[[str], None] = print) -> tuple[str, Path | None]:
    """The engine that `wanted`, or `auto`, comes to on that kind of device, and the fused engine's compiled kernel.

    `auto` is fused on a CPU where it can be had, and says in one line why where it cannot. UserError where the fused
    engine is asked for and cannot be had.
    """
    if wanted == "torch" or (wanted == "auto" and device != "cpu"):
        return "torch", None
    if device != "cpu":
        raise UserError(f"--engine fused computes on a CPU, and this run is on {device}: use --engine torch")
    try:
        return "fused", library.ready(home)
    except (library.UnavailableError, OSError) as error:
        if wanted == "fused":
            raise UserError(f"--engine fused cannot be had: {error}; use --engine torch") from error
        say(f"engine torch, several times slower than the fused one, which cannot be had: {error}")
        return "torch", None


def network(engine: str, kernel: Path | None = None) -> nn.Module:
    """LeNet-5 with fresh weights from torch's generator, the same in both engines."""
    return LeNet5() if engine == "torch" else FusedLeNet5(kernel)


def digest(engine: str, kernel: Path | None = None) -> str:
    """What of the engine decides the last bits beside our code: torch's version is counted elsewhere."""
    return "torch" if engine == "torch" else library.sha256(kernel)
