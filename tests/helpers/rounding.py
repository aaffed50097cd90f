"""How far float32 may lie from LeNet-5's exact logits and gradients, worked out from the arithmetic alone.

A float32 rounding moves a result by at most half a unit in the last place, UNIT times its size, and by UNIT / sqrt(3)
of it in the root mean square. Roundings are taken as independent of each other, so that their variances add up: through
a layer with the squares of its weights, and in a sum once for each of its terms, as no partial sum is larger than the
terms' sizes together (N. J. Higham and T. Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019). So
nothing here depends on a processor or on another program.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from reproduce.studies.lenet5_mnist.network import LeNet5

UNIT = 2.0**-24  # half of a float32's unit in the last place, for a number of size 1
DEVIATIONS = 3  # how many standard deviations may lie between float32 and the exact value
TANH_UNITS = 3  # more than the kernel's tanh is off in the root mean square: its test holds it to that
EXP_UNITS = 3  # as much of its exponential, which is made of the same parts
SIDE_BY_SIDE = 16  # samples that the kernel adds up side by side, whatever the width of its vectors


class Rounded(NamedTuple):
    """An exact float64 tensor, and the variance of float32's error in each of its elements."""

    value: torch.Tensor
    variance: torch.Tensor

    def shaped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Rounded":
        """Reorder the elements."""
        return Rounded(change(self.value), change(self.variance))


def forward_and_backward(
    network: LeNet5, images: torch.Tensor, at_logits: Callable[[Rounded], Rounded]
) -> dict[str, Rounded]:
    """Return the logits and, by parameter, the gradients, all with their variances.

    `network` and `images` (n, 1, 32, 32) are float64; `at_logits` gives the gradient at the logits, both (n, 10).
    """
    conv, linear = functional.conv2d, functional.linear
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    w1, w2, w3, w4, w5 = (_exact(layer.weight.detach()) for layer in layers)
    b1, b2, b3, b4, b5 = (layer.bias.detach() for layer in layers)
    samples = len(images)
    # Additions of a batch's sum: one after the other, then those that were side by side.
    in_a_row = -(-samples // SIDE_BY_SIDE) + int(math.log2(SIDE_BY_SIDE))

    x = _exact(images)
    a1 = _tanh(_plus(_product(conv, x, w1, 25), b1.view(-1, 1, 1)))
    p1 = _pooled(a1)
    a2 = _tanh(_plus(_product(conv, p1, w2, 150), b2.view(-1, 1, 1)))
    p2 = _pooled(a2)
    h1 = _tanh(_plus(_product(conv, p2, w3, 400), b3.view(-1, 1, 1))).shaped(lambda tensor: tensor.flatten(1))
    h2 = _tanh(_plus(_product(linear, h1, w4, 120), b4))
    logits = _plus(_product(linear, h2, w5, 84), b5)

    g5 = at_logits(logits)
    g4 = _times(_product(torch.matmul, g5, w5, 10), _slope(h2))
    g3 = _times(_product(torch.matmul, g4, w4, 84), _slope(h1))
    g3_pixel = g3.shaped(lambda tensor: tensor[:, :, None, None])
    g2 = _times(_unpooled(_product(functional.conv_transpose2d, g3_pixel, w3, 120)), _slope(a2))
    g1 = _times(_unpooled(_product(functional.conv_transpose2d, g2, w2, 400)), _slope(a1))
    return {
        "logits": logits,
        "features.0.weight": _product(_kernels(w1), x, g1, in_a_row * 784),
        "features.0.bias": _total(g1, in_a_row * 784),
        "features.3.weight": _product(_kernels(w2), p1, g2, in_a_row * 100),
        "features.3.bias": _total(g2, in_a_row * 100),
        "features.6.weight": _product(_kernels(w3), p2, g3_pixel, samples),
        "features.6.bias": _total(g3_pixel, samples),
        "classifier.0.weight": _product(_outer, h1, g4, samples),
        "classifier.0.bias": _total(g4, samples),
        "classifier.2.weight": _product(_outer, h2, g5, samples),
        "classifier.2.bias": _total(g5, samples),
    }


def cross_entropy(labels: torch.Tensor) -> Callable[[Rounded], Rounded]:
    """Return what makes of logits the gradient of their mean cross entropy with these labels (n,)."""

    def gradient(logits: Rounded) -> Rounded:
        share = logits.value.softmax(dim=1)
        own = share**2
        # A share changes by itself times the change of its logit less the mean change of all.
        carried = own * ((1 - 2 * share) * logits.variance + (own * logits.variance).sum(1, keepdim=True))
        # The difference from the largest logit, the exponential, the sum of ten of them, and the division.
        difference = logits.value - logits.value.max(1, keepdim=True).values
        rounded = own * (_rounding(difference) + _rounding(torch.full_like(share, EXP_UNITS + 10 + 1)))
        value = share - functional.one_hot(labels, share.shape[1])
        count = len(labels)
        return Rounded(value / count, (carried + rounded + 2 * _rounding(value)) / count**2)

    return gradient


def given(at_logits: torch.Tensor) -> Callable[[Rounded], Rounded]:
    """Return what gives this gradient (n, 10), whatever the logits."""
    return lambda logits: _exact(at_logits)


def deviations(found: torch.Tensor, exact: Rounded) -> float:
    """Return how many standard deviations the worst element lies from its exact value; inf where it had to be exact."""
    error = (found.double() - exact.value.view_as(found)).abs()
    expected = exact.variance.view_as(found).sqrt()
    return torch.where(error == 0, 0.0, error / expected).max().item()


def _exact(value: torch.Tensor) -> Rounded:
    return Rounded(value, torch.zeros_like(value))


def _product(operation: Callable, left: Rounded, right: Rounded, additions: int) -> Rounded:
    """A bilinear operation whose every result is a sum made by so many additions, each rounded."""
    sizes = operation(left.value.abs(), right.value.abs())
    carried = operation(left.variance, right.value**2) + operation(left.value**2, right.variance)
    return Rounded(operation(left.value, right.value), carried + additions * _rounding(sizes))


def _plus(sum_: Rounded, bias: torch.Tensor) -> Rounded:
    value = sum_.value + bias
    return Rounded(value, sum_.variance + _rounding(value))


def _times(left: Rounded, right: Rounded) -> Rounded:
    value = left.value * right.value
    carried = left.variance * right.value**2 + left.value**2 * right.variance
    return Rounded(value, carried + _rounding(value))


def _tanh(of: Rounded) -> Rounded:
    value = of.value.tanh()
    return Rounded(value, (1 - value**2) ** 2 * of.variance + _rounding(TANH_UNITS * value))


def _slope(tanh: Rounded) -> Rounded:
    """1 - tanh², the square rounded and the difference too."""
    value = 1 - tanh.value**2
    return Rounded(value, 4 * tanh.value**2 * tanh.variance + _rounding(tanh.value**2) + _rounding(value))


def _pooled(of: Rounded) -> Rounded:
    """The mean of 2 × 2: three additions, and a division that is exact."""
    pool = functional.avg_pool2d
    return Rounded(pool(of.value, 2), pool(of.variance, 2) / 4 + 3 * _rounding(pool(of.value.abs(), 2)))


def _unpooled(gradient: Rounded) -> Rounded:
    spread = gradient.shaped(lambda tensor: tensor.repeat_interleave(2, -1).repeat_interleave(2, -2))
    return Rounded(spread.value / 4, spread.variance / 16)


def _total(gradient: Rounded, additions: int) -> Rounded:
    """The gradient of a bias: the sum over samples and pixels."""
    over = [axis for axis in range(gradient.value.dim()) if axis != 1]
    carried, sizes = gradient.variance.sum(over), gradient.value.abs().sum(over)
    return Rounded(gradient.value.sum(over), carried + additions * _rounding(sizes))


def _kernels(weight: Rounded) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The gradient of a convolution's weights, from its input and the gradient at its output."""
    return lambda images, gradient: conv2d_weight(images, weight.value.shape, gradient)


def _outer(rows: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return gradient.T @ rows


def _rounding(size: torch.Tensor) -> torch.Tensor:
    """The variance of one rounding of numbers of that size: evenly spread over UNIT times the size to either side."""
    return UNIT**2 / 3 * size**2
