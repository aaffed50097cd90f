"""What a finished trial leaves in its run beside metrics: a picture, and for a range test the smoothed curve."""

import csv
from pathlib import Path

from reproduce import figures, range_test
from reproduce.checkpoints import EpochRecord
from reproduce.trial import Trial


def leave_behind(trial: Trial, history: list[EpochRecord], folder: Path, smoothing: float) -> dict[str, str]:
    """Put the files into `folder` and return the tags that go with them."""
    if not trial.is_range_test:
        figures.save(figures.trial(trial, history), folder / "curves.png")
        return {}
    found = range_test.curve(history)
    smoothed = range_test.smooth(found.losses, smoothing)
    with (folder / "range_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
        rows = zip(found.learning_rates.tolist(), found.losses.tolist(), smoothed.tolist(), strict=True)
        writer.writerows([step, *map(repr, row)] for step, row in enumerate(rows))
    proposal = range_test.steepest(found.learning_rates, smoothed)
    figures.save(figures.range_test({trial.seed: found}, smoothing, {trial.seed: proposal}), folder / "range_test.png")
    return {
        "smoothing": str(smoothing),
        "proposed_learning_rate": repr(proposal.learning_rate) if proposal else "none: the loss never fell",
    }
