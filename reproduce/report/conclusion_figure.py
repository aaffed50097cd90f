"""The figure that sums up: how well each rate did, what the range test proposes, and what its proposal is worth."""

from collections.abc import Mapping, Sequence

import numpy as np

from reproduce.analysis import intervals
from reproduce.analysis.lr_range_test import Curve, smooth
from reproduce.report.figure_axes import top_of_losses
from reproduce.report.figure_style import BAND_ALPHA, COLOURS, GREY, MARKERS, Axes, Figure, styled
from reproduce.report.figures import over_seeds
from reproduce.report.report_data import ReportData
from reproduce.report.tables import schedule_name
from reproduce.results.comparisons import Regrets
from reproduce.study.fields import format_rate, loss_name
from reproduce.tracking.reader import Result

# Of the grid's accuracies, from the fewest epochs to the most.
DASHES = (":", "--", "-")


@styled
def draw(models: Mapping[str, Sequence[Sequence[Result]]], data: ReportData) -> Figure:
    """Draw final accuracies by initial rate, the grid with each rule's proposal, and the range test's loss.

    All are on one axis of rates. Without a grid its panel is left out. `models` are the runs of every model, one a
    seed, by their schedule.
    """
    heights = (3, 3, 2) if data.regrets else (3, 2)
    figure = Figure(figsize=(9, 4 * len(heights)))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _models(panels[0], models)
    if data.regrets:
        _grid(panels[1], data.regrets)
    _range_test(panels[-1], data.curves, data.collection.smoothing, loss_name(data.paper.loss))
    panels[-1].set_xlabel(f"learning rate (initial{'; max_lr for OneCycleLR' * ('onecycle' in models)})")
    proposed = [proposal.learning_rate for proposal in data.proposed.values() if proposal]
    if proposed:
        middle, low, high = intervals.mean_rate_interval(proposed)
        # An interval over seeds that propose unlike rates may span many more decades than were trained.
        limits = panels[-1].get_xlim()
        for axes in panels:
            label = f"proposed: {format_rate(middle, 3)}"
            axes.axvline(middle, color="black", linestyle="--", linewidth=1.2, label=label)
            if len(proposed) > 1:
                label = f"95% interval, {format_rate(low, 2)} to {format_rate(high, 2)}"
                axes.axvspan(low, high, color="black", alpha=BAND_ALPHA / 2, linewidth=0, label=label)
        panels[-1].set_xlim(limits)
    drawn = {schedule_name(scheduler) for scheduler in models}
    handles, labels = panels[0].get_legend_handles_labels()
    shown = [(handle, name) for handle, name in zip(handles, labels, strict=True) if name in drawn]
    figure.legend(*zip(*shown, strict=True), loc="outside upper center", ncols=len(shown))
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _models(axes: Axes, models: Mapping[str, Sequence[Sequence[Result]]]) -> None:
    for index, (scheduler, schedule_models) in enumerate(models.items()):
        points = []
        for results in schedule_models:
            finals = [result.last("test_accuracy_batch_mean") for result in results]
            rate = intervals.mean_rate_interval([result.trial.learning_rate for result in results]).mean
            points.append((rate, np.mean(finals), np.mean(finals) - min(finals), max(finals) - np.mean(finals)))
        rates, means, below, above = zip(*sorted(points), strict=True)
        # Points of equal rate stand beside, not on, each other.
        apart = 1.07 ** (index - (len(models) - 1) / 2)
        axes.errorbar(
            np.array(rates) * apart, means, (below, above), marker=MARKERS[index % len(MARKERS)], markersize=7,
            color=COLOURS[index % len(COLOURS)], capsize=3, label=schedule_name(scheduler),
        )  # fmt: skip
    axes.set(ylabel="final test accuracy\n(mean over batches)", ylim=(0, 1.02))


def _grid(axes: Axes, regrets: Regrets) -> None:
    """Draw the accuracy over the grid after so many epochs, and what each rule's proposal came to after the last."""
    rates = np.array(sorted(next(iter(regrets.grid.values()))))
    last = max(regrets.epochs_compared)
    for dash, epochs in zip(DASHES[-len(regrets.epochs_compared) :], regrets.epochs_compared, strict=True):
        lines = [[_after(accuracies[rate], epochs) for rate in rates] for accuracies in regrets.grid.values()]
        label = f"grid after {epochs} epoch{'s' * (epochs > 1)}"
        over_seeds(axes, rates, lines, label, GREY, linestyle=dash)
    for index, (name, by_seed) in enumerate(regrets.proposed.items()):
        if by_seed:
            points = [(at.learning_rate, _after(at.accuracies, last)) for at in by_seed.values()]
            axes.plot(
                *zip(*points, strict=True), MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)],
                markersize=11 - index, markeredgecolor="black", linestyle="none", label=name,
            )  # fmt: skip
    seeds = f", {len(regrets.grid)} seeds" * (len(regrets.grid) > 1)
    axes.set(ylabel=f"test accuracy at a fixed rate{seeds}\n(mean over batches)", ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="lower center", ncols=2, title=f"markers: each rule's proposal after {last} epochs",
                title_fontsize=8)  # fmt: skip


def _after(accuracies: Sequence[float], epochs: int) -> float:
    """Return the accuracy after that epoch; NaN, which is not drawn, if the training had diverged before."""
    return accuracies[epochs - 1] if len(accuracies) >= epochs else float("nan")


def _range_test(axes: Axes, curves: Mapping[int, Curve], smoothing: float, loss: str) -> None:
    longest = max(curves.values(), key=lambda curve: len(curve.losses))
    label = f"range test, smoothed by {smoothing:g}"
    if len(curves) > 1:
        label += f": mean, each and band of {len(curves)} seeds"
    smoothed = [smooth(curve.losses, smoothing) for curve in curves.values()]
    over_seeds(axes, longest.learning_rates, smoothed, label, GREY)
    axes.set(xscale="log")
    if (top := top_of_losses(loss, smoothed, 3)) is not None:
        axes.set(ylim=(0, top))
    axes.set_ylabel(f"training loss\n({loss})")
