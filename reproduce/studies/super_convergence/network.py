"""Caffe's LeNet, as its port to Keras has it: 431,080 parameters, of which only the dense layers have an activation."""

from torch import nn


class LeNet(nn.Sequential):
    """A network of images (n, 1, 28, 28), float32, to logits (n, 10). Weights begin as in Keras: Glorot's uniform."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 20, kernel_size=5), nn.MaxPool2d(2),
            nn.Conv2d(20, 50, kernel_size=5), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
        )  # fmt: skip
        for parameter in self.parameters():
            # Only biases have one dimension.
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)
