"""The artifacts of a finished trial: a picture, and for a range test the curves along its ramp."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reproduce.analysis import lr_range_test
from reproduce.files import csv_text
from reproduce.report import figure_style, figures
from reproduce.study.fields import loss_name
from reproduce.study.trial import Trial
from reproduce.tracking.reader import proposal_tags
from reproduce.training.epoch_record import EpochRecord


def write_artifacts(trial: Trial, history: list[EpochRecord], folder: Path, smoothing: float) -> dict[str, str]:
    """Write the files into `folder`, and return the tags that go with them.

    Args:
        trial: The trial.
        history: The records of all its epochs.
        folder: Where to write; it exists.
        smoothing: The weight of the past in the average that smooths the loss of a range test.
    """
    if not trial.is_range_test:
        figure_style.save(figures.trial(trial, history), folder / "curves.png")
        return {}
    found = lr_range_test.curve(history)
    _write(
        folder / "range_test.csv",
        ["step", "learning_rate", "loss", "smoothed_loss"],
        ([step, *row] for step, row in enumerate(lr_range_test.curve_rows(found, smoothing))),
    )
    validation = lr_range_test.validation(history)
    if len(validation):
        rates = np.concatenate([record.step_learning_rates for record in history]).tolist()
        _write(
            folder / "validation.csv",
            ["step", "learning_rate", "validation_loss", "validation_accuracy"],
            ([int(step), rates[int(step)], *both] for step, *both in validation.tolist() if step < len(rates)),
        )
    proposal = lr_range_test.propose(found, smoothing)
    proposals, loss = {trial.seed: proposal}, loss_name(trial.loss)
    figure = figures.range_test({trial.seed: found}, smoothing, proposals, validation=validation, loss=loss)
    figure_style.save(figure, folder / "range_test.png")
    return proposal_tags(proposal, smoothing)


def _write(path: Path, head: list[str], rows: Iterable[Iterable[object]]) -> None:
    path.write_text(csv_text(head, rows), encoding="utf-8")
