"""LeNet-5 with weights and images of every kind, and how far from exact a network's numbers are."""

import copy

import torch

from helpers import rounding
from reproduce.studies.lenet5_mnist.network import LeNet5

CLASSES = 10
# Factors of the weights and of the images: as they come, driven into saturation, tiny, and huge.
KINDS = {"random": (1.0, 1.0), "saturated": (8.0, 1.0), "tiny": (1.0, 1e-6), "huge": (1.0, 1e4)}


def plain_and_exact(seed=3, weight_scale=1.0):
    """The same weights twice: torch's float32, and torch's float64."""
    torch.manual_seed(seed)
    plain = LeNet5()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(weight_scale)
    return plain, copy.deepcopy(plain).double()


def images(count, seed=0, scale=1.0):
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * scale


def at_logits(count):
    return torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(9))


def labels(count):
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(8))


def deviations(found, exact, batch, gradient_at_logits=None):
    """How far logits and gradients, by name, lie from the exact ones, in standard deviations of float32's rounding.

    The gradients are those for `at_logits`, unless something else gives that at the logits.
    """
    gradient_at_logits = gradient_at_logits or rounding.given(at_logits(len(batch)).double())
    with torch.no_grad():
        truth = rounding.forward_and_backward(exact, batch.double(), gradient_at_logits)
    return {name: rounding.deviations(value, truth[name]) for name, value in found.items()}
