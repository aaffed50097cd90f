"""The optimizers by name: the paper's own list, and HybridAdam. All but the rate is as in their libraries."""

from collections.abc import Iterable
from typing import Any

import torch

from reproduce.errors import UserError
from reproduce.study.fields import Arguments

SGD_MOMENTUM = 0.9
COLOSSALAI = {"lamb": "Lamb", "lars": "Lars", "hybridadam": "HybridAdam"}
# They scale each layer's update by the norm of its weights.
BY_LAYER = ("lamb", "lars")
# Its kernel is CUDA's.
NEEDS_CUDA = ("hybridadam",)


def build(
    name: str, parameters: Iterable[torch.nn.Parameter], learning_rate: float, arguments: Arguments = ()
) -> torch.optim.Optimizer:
    """Return the optimizer of that name over `parameters`, with those arguments; KeyError for an unknown one."""
    own: dict[str, Any] = dict(arguments)
    optimizer: torch.optim.Optimizer
    if name in COLOSSALAI:
        # It takes seconds to import: only its own optimizers pay for that.
        from colossalai.nn import optimizer as colossalai_optimizers

        optimizer = getattr(colossalai_optimizers, COLOSSALAI[name])(parameters, lr=learning_rate, **own)
    elif name == "radam":
        optimizer = torch.optim.RAdam(parameters, lr=learning_rate, **own)
    else:
        usual = {"momentum": SGD_MOMENTUM} if name == "sgd" else {}
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
        # `fused` is PyTorch's: one pass over all parameters instead of a dozen small operations for each of the ten.
        optimizer = kind(parameters, lr=learning_rate, fused=True, **(usual | own))
    return optimizer


def check_device(name: str, device: str) -> None:
    """Raise UserError where that optimizer cannot run on that kind of device."""
    if name in NEEDS_CUDA and device != "cuda":
        raise UserError(
            f"optimizer {name} needs a CUDA device and this run is on the CPU: use adam, which computes the same"
        )
