"""The plots: the paper's figures drawn from our numbers. They draw what they are given and decide nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reproduce.analysis.lr_range_test import Curve, Suggestion, smooth
from reproduce.report.figure_axes import axis_of_explosion, log_of_losses, rate_axis, top_of_losses
from reproduce.report.figure_style import (
    BAND_ALPHA,
    COLOURS,
    GREY,
    MARKERS,
    Axes,
    Figure,
    Line2D,
    MaxNLocator,
    Patch,
    styled,
)
from reproduce.report.tables import rate_text, schedule_name
from reproduce.study.fields import CROSS_ENTROPY, format_rate, loss_name
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial
from reproduce.tracking.reader import Result
from reproduce.training.epoch_record import EpochRecord

# An accuracy axis begins there if no curve is below.
CLOSE = 0.9
# Above the cross entropy of ten classes that are guessed, 2.3.
UNLEARNT = 2.6


@styled
def trial(trial: Trial, history: Sequence[EpochRecord]) -> Figure:
    """Draw one trial: loss by step and epoch, test accuracy by epoch, rate by step."""
    steps = np.cumsum([0, *(len(record.step_losses) for record in history)])
    losses = np.concatenate([record.step_losses for record in history])
    rates = np.concatenate([record.step_learning_rates for record in history])
    epochs = np.arange(1, len(history) + 1)
    at_step = np.arange(1, len(losses) + 1) / trial.steps_per_epoch
    figure = Figure(figsize=(8, 8))
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    loss.plot(at_step, losses, color=COLOURS[5], linewidth=0.4, label="each batch")
    loss.plot(
        epochs,
        [record.train_loss for record in history],
        "o-",
        color=COLOURS[0],
        markersize=4,
        label="mean over the epoch, at its end",
    )
    rate_of = f"{schedule_name(trial.schedule.name)}, {trial.optimizer}, {format_rate(trial.learning_rate)}"
    title = f"{rate_of}, seed {trial.seed}"
    loss.set(ylabel=f"training loss ({loss_name(trial.loss)})", title=title)
    log_of_losses(loss)
    loss.legend()
    accuracy.plot(epochs, [record.test_accuracy_batch_mean for record in history], "s-", color=COLOURS[1], markersize=4)
    accuracy.set(ylabel="test accuracy\n(mean over batches)", ylim=(0, 1.02))
    rate.plot(at_step[: steps[-1]], rates, color=COLOURS[2])
    rate.set(ylabel="learning rate", xlabel="epoch", yscale="log")
    return figure


@styled
def range_test(
    curves: Mapping[int, Curve],
    smoothing: float,
    proposals: Mapping[int, Suggestion],
    paper: Paper | None = None,
    shows: tuple[float, float] = (0, 1),
    validation: np.ndarray | None = None,
    loss: str = CROSS_ENTROPY,
) -> Figure:
    """Draw loss against step, and rate along the top, with the proposed rates: raw and smoothed, or a band over seeds.

    Args:
        curves: The range tests, by seed.
        smoothing: The weight of the past in the average that smooths their loss.
        proposals: What they propose, by seed.
        paper: The paper, whose proposal is then marked.
        shows: From where to where of the ramp, in [0, 1]. A part is drawn without the explosion.
        validation: (times, 3), step, loss and accuracy on held-out images, for its loss and a panel for its accuracy.
        loss: The loss's name.
    """
    judged = validation is not None and len(validation) > 0
    figure = Figure(figsize=(9, 5 + 2.5 * judged))
    panels = figure.subplots(1 + judged, 1, sharex=True, squeeze=False, height_ratios=(2, 1)[: 1 + judged])
    axes = panels[0, 0]
    smoothed = {seed: smooth(curve.losses, smoothing) for seed, curve in curves.items()}
    if len(curves) == 1:
        (curve,) = curves.values()
        axes.plot(curve.losses, color=COLOURS[0], alpha=0.45, linewidth=0.6, label="thin: each batch")
    label = f"smoothed by {smoothing:g}" + (f", mean of {len(curves)} seeds" if len(curves) > 1 else "")
    steps = np.arange(max(map(len, smoothed.values())))
    over_seeds(axes, steps, [*smoothed.values()], label, COLOURS[0], linewidth=1.8)
    if len(curves) > 1:
        axes.fill_between([], [], [], color=COLOURS[0], alpha=BAND_ALPHA, label="lowest to highest, each seed thin")
    for index, (seed, proposal) in enumerate(proposals.items()):
        if proposal:
            axes.plot(
                proposal.step, smoothed[seed][proposal.step], MARKERS[index % len(MARKERS)],
                color=COLOURS[index % len(COLOURS)], markersize=9, markeredgecolor="black", linestyle="none",
                label=f"seed {seed} proposes {proposal.short} (step {proposal.step})",
            )  # fmt: skip
    longest = max(curves.values(), key=lambda curve: len(curve.losses))
    total = len(longest.losses)
    if paper is not None and paper.range_test.reported:
        rate = paper.range_test.reported.proposed_learning_rate
        step = np.interp(np.log(rate), np.log(longest.learning_rates), np.arange(total))
        axes.axvline(step, color=GREY, linestyle="--", label=f"the paper proposes {format_rate(rate)}")
    if shows == (0, 1):
        axis_of_explosion(axes, max(curve.losses.max() for curve in curves.values()), loss, smoothed.values())
    elif (top := top_of_losses(loss, smoothed.values(), UNLEARNT)) is not None:
        axes.set(ylim=(0, top))
    axes.set(xlim=(shows[0] * total, shows[1] * total))
    axes.set(ylabel=f"training loss of the batch ({loss})")
    if validation is not None and judged:
        steps, losses, accuracies = validation.T
        axes.plot(steps, losses, "s-", color=COLOURS[1], markersize=3, linewidth=1, label="on the held-out images")
        axes.set(ylabel=f"loss ({loss})")
        panels[1, 0].plot(steps, accuracies, "s-", color=COLOURS[1], markersize=3, linewidth=1)
        panels[1, 0].set(ylabel="accuracy on the\nheld-out images", ylim=(0, 1.02))
    panels[-1, 0].set(xlabel="step")
    rate_axis(axes, longest)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def rules(
    curves: Mapping[int, Curve],
    smoothing: float,
    suggested: Mapping[str, Mapping[int, Suggestion]],
    loss: str = CROSS_ENTROPY,
) -> Figure:
    """Draw what each rule suggests, a colour and a marker a rule, on the smoothed curve of every seed."""
    figure = Figure(figsize=(9, 5))
    axes = figure.subplots()
    smoothed = {seed: smooth(curve.losses, smoothing) for seed, curve in curves.items()}
    for seed, curve in curves.items():
        axes.plot(curve.learning_rates, smoothed[seed], color=GREY, linewidth=1.2)
    for index, (name, by_seed) in enumerate(suggested.items()):
        points = [
            (proposal.learning_rate,
             np.interp(proposal.learning_rate, curves[seed].learning_rates, smoothed[seed]))
            for seed, proposal in by_seed.items() if proposal
        ]  # fmt: skip
        if points:
            # Markers grow smaller, so that none hides another.
            axes.plot(
                *zip(*points, strict=True), MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)],
                markersize=13 - index, markeredgecolor="black", linestyle="none", label=name,
            )  # fmt: skip
    axis_of_explosion(axes, max(losses.max() for losses in smoothed.values()), loss, smoothed.values())
    axes.set(xscale="log", xlabel="learning rate")
    axes.set_ylabel(f"training loss, smoothed by {smoothing:g}")
    # Where no rule suggests a rate there is nothing to name.
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def over_seeds(
    axes: Axes, x: np.ndarray, lines: Sequence[Sequence[float] | np.ndarray], label: str, color: str, **style: Any
) -> None:
    """Draw the mean of several lines over `x`, each of them thinly, and the band between their lowest and highest.

    A line that ended early, having diverged, cuts the mean and the band off where it ends.

    Args:
        axes: Where to draw.
        x: (n,), the place of each value.
        lines: The values, one line a seed, each (n,) or shorter.
        label: The name of the mean in the legend.
        color: The colour of all.
        style: Further properties of the mean's line.
    """
    shortest = min(map(len, lines))
    values = np.array([line[:shortest] for line in lines])
    if len(lines) > 1:
        for line in lines:
            axes.plot(x[: len(line)], line, color=color, linewidth=0.5, alpha=0.7)
        axes.fill_between(x[:shortest], values.min(0), values.max(0), color=color, alpha=BAND_ALPHA, linewidth=0)
    axes.plot(x[:shortest], values.mean(0), label=label, color=color, **style)


@styled
def schedule(scheduler: str, models: Sequence[Sequence[Result]], paper: Paper) -> Figure:
    """Draw one schedule's loss and test accuracy by epoch: a colour a model, a band over seeds, the paper's values."""
    figure = Figure(figsize=(11, 4.5))
    loss, accuracy = figure.subplots(1, 2)
    models = sorted(models, key=lambda runs: -runs[0].trial.learning_rate)
    results = [result for runs in models for result in runs]
    last = max(result.trial.epochs for result in results)
    seeds, epochs = len({result.trial.seed for result in results}), np.arange(1, last + 1)
    for index, runs in enumerate(models):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        label = rate_text([result.trial for result in runs])
        style: dict[str, Any] = {"marker": marker, "markersize": 4, "markevery": max(1, last // 10)}
        for axes, metric in ((loss, "train_loss"), (accuracy, "test_accuracy_batch_mean")):
            over_seeds(axes, epochs, [result.epochs[metric] for result in runs], label, colour, **style)
        reported = paper.reported(runs[0].trial)
        if reported is not None and last == paper.epochs(scheduler):
            # Values that agree would hide each other in one place.
            beside = last * (1.03 + 0.03 * index)
            for axes, value in ((loss, reported.train_loss), (accuracy, reported.test_accuracy)):
                if value is not None:
                    axes.plot(
                        beside, value, marker, color="none", markeredgecolor=colour, markersize=12,
                        markeredgewidth=1.6, clip_on=False,
                    )  # fmt: skip
    for axes in (loss, accuracy):
        # There may be one epoch.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    loss.set(xlabel="epoch", ylabel="training loss (mean over the epoch)")
    log_of_losses(loss)
    lowest = min(min(result.epochs["test_accuracy_batch_mean"]) for result in results)
    # Above it, curves that are all good would be one line.
    limits = (CLOSE, 1.002) if lowest >= CLOSE else (0, 1.02)
    accuracy.set(xlabel="epoch", ylabel="test accuracy (mean over batches)", ylim=limits)
    handles, labels = accuracy.get_legend_handles_labels()
    if any(paper.reported(result.trial) for result in results) and last == paper.epochs(scheduler):
        handles.append(Line2D([], [], linestyle="none", marker="o", color="none", markeredgecolor=GREY, markersize=11))
        labels.append("the paper's final value")
    if seeds > 1:
        handles.append(Patch(color=GREY, alpha=BAND_ALPHA, linewidth=0))
        labels.append(f"lowest to highest of {seeds} seeds, each thin")
    title = "max_lr" if scheduler == "onecycle" else "initial learning rate"
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=len(handles))
    figure.suptitle(schedule_name(scheduler))
    return figure
