"""The loss of a trial: one of torch's by its name, or a study's own."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from reproduce.study.fields import Code
from reproduce.study.own_code import OwnCode, OwnCodeError


class OwnLoss(nn.Module):
    """A study's own loss: a function of logits (n, classes) and labels (n,) that returns one number."""

    def __init__(self, name: str, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss. OwnCodeError where it is not one number."""
        loss = self.function(logits, labels)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"{loss!r}"
            raise OwnCodeError(f"{self.name} returned {shape}, expected one number, the mean over the batch")
        return loss.reshape(())


class SquaredError(nn.Module):
    """The mean squared error between logits (n, classes) and the labels (n,), one class being 1 and the others 0."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return functional.mse_loss(logits, functional.one_hot(labels, logits.shape[1]).to(logits.dtype))


def build(loss: str | Code, code: OwnCode) -> nn.Module:
    """Return the loss of that name, or the study's own."""
    if isinstance(loss, Code):
        return OwnLoss(loss.code, partial(code.load(loss.code), **dict(loss.arguments)))
    return SquaredError() if loss == "mse" else nn.CrossEntropyLoss()
