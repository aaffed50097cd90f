"""The axes of the plots: where losses and learning rates end, and which of their values have a tick."""

from collections.abc import Iterable

import numpy as np

from reproduce.analysis.lr_range_test import Curve
from reproduce.report.figure_style import Axes, LogLocator, NullFormatter
from reproduce.study.fields import CROSS_ENTROPY

# How many times the losses that a range test starts with are still drawn.
EXPLODED = 100


def top_of_losses(loss: str, smoothed: Iterable[np.ndarray], cross_entropy: float) -> float | None:
    """Return where the axis of a range test's losses ends: above those that it starts with, below its explosion.

    That of cross entropy is the same in every figure, as it starts at the logarithm of the classes. None where a loss
    of a study's own starts at nothing that an axis from 0 could end at.
    """
    if loss == CROSS_ENTROPY:
        return cross_entropy
    starts = [float(losses[0]) for losses in smoothed if np.isfinite(losses[0]) and losses[0] > 0]
    return 1.2 * max(starts) if starts else None


def axis_of_explosion(axes: Axes, highest: float, loss: str, smoothed: Iterable[np.ndarray]) -> None:
    """Draw losses linear up to where they start, 2.5 for cross entropy, and logarithmic above.

    A loss of 50 would leave the descent on the floor, and one without bound too: it leaves the axis at its end.
    """
    start = top_of_losses(loss, smoothed, 2.5)
    if start is None:
        return
    decade = 10.0 ** np.floor(np.log10(start))
    linear = next(decade * number for number in (1, 2.5, 5, 10) if decade * number >= start)
    axes.set_yscale("symlog", linthresh=linear, linscale=2)
    powers = 10.0 ** np.arange(np.floor(np.log10(linear)) + 1, np.floor(np.log10(linear)) + 3)
    ticks = [*np.linspace(0, linear, 6), *(power for power in powers if power > 2 * linear)]
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set(ylim=(0, max(1.04 * linear, min(1.3 * highest, EXPLODED * linear))))


def log_of_losses(axes: Axes) -> None:
    """Draw a logarithmic axis with plain numbers: 0.5, 1, 2."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def rate_axis(axes: Axes, curve: Curve) -> None:
    """Draw the learning rates along the top, where the steps reach a power of ten."""
    powers = np.arange(
        np.ceil(np.log10(curve.learning_rates[0]) - 1e-9), np.floor(np.log10(curve.learning_rates[-1]) + 1e-9) + 1
    )
    steps = np.interp(powers, np.log10(curve.learning_rates), np.arange(len(curve.learning_rates)))
    low, high = axes.get_xlim()
    shown = [(step, power) for step, power in zip(steps, powers, strict=True) if low <= step <= high]
    top = axes.secondary_xaxis("top")
    top.set_xticks([step for step, _ in shown], [f"$10^{{{int(power)}}}$" for _, power in shown])
    top.set_xlabel("learning rate")
