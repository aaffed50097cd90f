"""A network with one hidden layer."""

from torch import nn


class TwoLayers(nn.Sequential):
    """A network of images (n, 1, 8, 8), float32, to logits (n, 10)."""

    def __init__(self, hidden: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
