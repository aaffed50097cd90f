"""A study's own network made for a trial, behind the preparation that the study states."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from reproduce.errors import UserError
from reproduce.study.fields import Code, Preparation
from reproduce.study.own_code import OwnCode, OwnCodeError
from reproduce.training.prepared_network import PreparedNetwork

BYTE = 255.0


def build(
    network: Code, preparation: Preparation | None, code: OwnCode, images: NDArray[np.generic]
) -> PreparedNetwork:
    """Return a study's own network with fresh weights from torch's generator, behind its preparation.

    Args:
        network: The class, or a function that returns a module, and its arguments.
        preparation: Of the images; None only scales.
        code: The study's own Python.
        images: Those that are trained on (n, …), for their mean.

    Raises:
        OwnCodeError: The code fails, or makes no module.
    """
    made = code.load(network.code)(**dict(network.arguments))
    if not isinstance(made, nn.Module):
        raise OwnCodeError(f"{network.code} makes a {type(made).__name__}, expected a torch.nn.Module")
    preparation = preparation or Preparation()
    scale = preparation.scale or (BYTE if images.dtype == np.uint8 else 1.0)
    prepared = PreparedNetwork(made, _mean(preparation.mean, images), torch.tensor(scale))
    # Layers as LazyLinear have no weights before they have seen an image.
    if any(map(is_lazy, (*made.parameters(), *made.buffers()))):
        with torch.no_grad():
            prepared.eval()(torch.from_numpy(images[:1].copy()))
        prepared.train()
    _refuse_shared(network.code, made)
    return prepared


def _refuse_shared(name: str, made: nn.Module) -> None:
    """OwnCodeError where a weight has two names, which a checkpoint in safetensors cannot hold."""
    first: dict[int, str] = {}
    for key, value in made.state_dict(keep_vars=True).items():
        # A module may have further state of any kind.
        if (
            isinstance(value, torch.Tensor)
            and value.numel()
            and (other := first.setdefault(value.data_ptr(), key)) != key
        ):
            raise OwnCodeError(f"{name} has one weight as {other} and as {key}, expected each weight once")


def _mean(mean: float | tuple[float, ...] | str, images: NDArray[np.generic]) -> torch.Tensor:
    if isinstance(mean, str):
        return torch.from_numpy(images.mean(axis=0, dtype=np.float64).astype(np.float32))
    if isinstance(mean, tuple):
        if images.ndim != 4 or len(mean) != images.shape[1]:
            raise UserError(f"preparation: mean has {len(mean)} numbers, and the images {images.shape[1:]}")
        return torch.tensor(mean).view(-1, 1, 1)
    return torch.tensor(float(mean))
