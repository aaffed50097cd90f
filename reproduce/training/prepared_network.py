"""A network with the preparation of its images in front of it. It needs PyTorch alone, as it is logged with a model."""

import torch
from torch import nn


class PreparedNetwork(nn.Module):
    """A network of images as their data set has them, of any number type: (image - mean) / scale goes through it.

    Images with channels, (n, c, h, w), are laid out with the channels last, which convolutions on a CPU are faster in.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: nn.Module, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes)."""
        prepared = images.to(torch.float32).sub(self.mean).div_(self.scale)
        if prepared.ndim == 4:
            prepared = prepared.contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.network(prepared)
        return logits
