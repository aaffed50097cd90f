"""Name → optimizer, each with its library's defaults besides the rate. The assignment's own list, and HybridAdam."""

from collections.abc import Iterable

import torch

from reproduce.errors import UserError

SGD_MOMENTUM = 0.9
NEEDS_CUDA = ("hybridadam",)  # its kernel is CUDA's


def build(name: str, parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of that name over `parameters`; KeyError for an unknown one."""
    # Colossal-AI takes seconds to import: only those optimizers that come from it pay for that.
    if name == "lamb":
        from colossalai.nn.optimizer import Lamb

        return Lamb(parameters, lr=learning_rate)
    if name == "lars":
        from colossalai.nn.optimizer import Lars

        return Lars(parameters, lr=learning_rate)
    if name == "hybridadam":
        from colossalai.nn.optimizer import HybridAdam

        return HybridAdam(parameters, lr=learning_rate)
    # `fused` is PyTorch's: one pass over all parameters instead of a dozen small operations for each of the ten.
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=SGD_MOMENTUM, fused=True)
    if name == "radam":
        return torch.optim.RAdam(parameters, lr=learning_rate)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](parameters, lr=learning_rate, fused=True)


def check_device(name: str, device: str) -> None:
    """UserError if that optimizer cannot run on that kind of device."""
    if name in NEEDS_CUDA and device != "cuda":
        raise UserError(
            f"optimizer {name} needs a CUDA device and this run is on the CPU: use adam, which computes the same"
        )
