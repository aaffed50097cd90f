"""Which engine computes the network: `torch`, PyTorch's own layers, or `fused`, our kernel for CPUs."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from reproduce.errors import UserError
from reproduce.studies.lenet5_mnist.network import LeNet5
from reproduce.training.fused import library
from reproduce.training.fused.network import FusedLeNet5

ENGINES = ("torch", "fused")


def resolve(
    requested: str, device: str, home: Path, say: Callable[[str], None] = print, own_network: bool = False
) -> tuple[str, Path | None]:
    """Return the engine to use, and the fused engine's compiled kernel.

    Args:
        requested: An engine, or `auto`: fused on a CPU where its kernel can be compiled, else torch, with a line why.
        device: The kind of device, `cpu` or `cuda`.
        home: Where the compiled kernel is kept.
        say: Gets that line.
        own_network: Whether the study has a network of its own, which the kernel does not compute.

    Raises:
        UserError: The fused engine is requested and cannot be used.
    """
    if own_network:
        if requested == "fused":
            raise UserError("--engine fused computes only the network that is built in: leave out --engine")
        return "torch", None
    if requested == "torch" or (requested == "auto" and device != "cpu"):
        return "torch", None
    if device != "cpu":
        raise UserError(f"--engine fused computes on a CPU, and this run is on {device}: use --engine torch")
    try:
        return "fused", library.find_or_compile(home)
    except (library.UnavailableError, OSError) as error:
        if requested == "fused":
            raise UserError(f"--engine fused cannot be used: {error}; use --engine torch") from error
        say(
            f"using engine torch, which is several times slower than engine fused; engine fused cannot be used: {error}"
        )
        return "torch", None


def build_network(engine: str, kernel: Path | None = None, by_layer: bool = False) -> nn.Module:
    """Return LeNet-5 with fresh weights from torch's generator, the same in both engines.

    With `by_layer` each layer has its own parameters in the fused engine too, which is slower.
    """
    return LeNet5() if engine == "torch" else FusedLeNet5(_required(kernel), by_layer)


def engine_id(engine: str, kernel: Path | None = None) -> str:
    """Return what decides the last bits of the engine beside our code and the versions of libraries."""
    return "torch" if engine == "torch" else library.sha256(_required(kernel))


def _required(kernel: Path | None) -> Path:
    if kernel is None:
        raise ValueError("the fused engine needs its compiled kernel")
    return kernel
