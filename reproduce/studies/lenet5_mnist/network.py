"""LeNet-5 as the paper trained it: tanh and average pooling, 61,706 parameters.

Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998, with a plain linear output layer.
"""

import torch
from torch import nn


class LeNet5(nn.Module):
    """A network of images (n, 1, 32, 32), uint8 or float32 in [0, 1], to logits (n, 10), initialised as by PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(16, 120, kernel_size=5), nn.Tanh(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, 10) of images (n, 1, 32, 32)."""
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(255)
        # The convolutions keep this memory format, and are faster in it.
        images = images.to(memory_format=torch.channels_last)
        logits: torch.Tensor = self.classifier(self.features(images).flatten(start_dim=1))
        return logits
