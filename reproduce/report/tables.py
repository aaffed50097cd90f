"""Every model and curve of a study as rows, CSV and data, with the paper's value beside ours."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis import intervals, lr_range_test
from reproduce.analysis.lr_range_test import Curve
from reproduce.files import csv_text
from reproduce.results.archive import finite
from reproduce.results.table import Table
from reproduce.study.fields import format_rate
from reproduce.study.schema import Reported
from reproduce.study.trial import Trial
from reproduce.tracking.reader import Result

NAMES = {
    "none": "no schedule",
    "step": "StepLR",
    "multistep": "MultiStepLR",
    "onecycle": "OneCycleLR",
    "exponential": "ExponentialLR",
}
FINAL = ("train_loss", "test_accuracy", "test_accuracy_batch_mean")
COLUMNS = (
    "optimizer", "scheduler", "learning_rate", "seed", "protocol", "epochs", "engine", *FINAL, "outcome", "run_id",
)  # fmt: skip
HEAD = (
    "schedule", "rate", "accuracy, paper", "accuracy, here", "over all images, here", "loss, paper", "loss, here",
    "outcome", "the paper's word",
)  # fmt: skip


def schedule_name(scheduler: str) -> str:
    """Return a schedule's name for readers: that of its class in PyTorch, or the study's own."""
    return NAMES.get(scheduler, scheduler)


@dataclass(frozen=True)
class Row:
    """One trial, and what the paper reports of it; None where it is missing or the paper is silent.

    `model` tells which trials are one model under several seeds: they share it though their rates may differ, where
    each seed has its own proposal.
    """

    trial: Trial
    model: tuple[str, int]
    protocol: str
    result: Result | None
    reported: Reported | None

    def values(self) -> dict[str, str | int | float | None]:
        """Return the columns of summary.csv, by their names; None where there is no run."""
        trial, result = self.trial, self.result
        return {
            "optimizer": trial.optimizer,
            "scheduler": trial.schedule.name,
            "learning_rate": trial.learning_rate,
            "seed": trial.seed,
            "protocol": self.protocol,
            "epochs": trial.epochs,
            "engine": trial.engine,
            **{name: result.last(name) if result else None for name in FINAL},
            "outcome": result.outcome if result else "missing",
            "run_id": result.run_id if result else None,
        }


def group_by_model(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each model, one a seed, in the order given."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.model, []).append(row)
    return list(groups.values())


def rate_text(trials: Sequence[Trial]) -> str:
    """Return the rate of a model; about the mean of its rates, where each seed has its own."""
    rates = [trial.learning_rate for trial in trials]
    if len(set(rates)) == 1:
        return format_rate(rates[0])
    return f"≈ {format_rate(intervals.mean_rate_interval(rates).mean, 3)}"


def models_table(rows: Sequence[Row]) -> Table:
    """Return the summary table under HEAD, a row a model. Accuracies are means over test batches.

    With several seeds a cell is their mean and its 95% interval.
    """
    return Table(HEAD, [_model_cells(model_rows) for model_rows in group_by_model(rows)])


def _model_cells(rows: Sequence[Row]) -> list[str]:
    reported, results = rows[0].reported, [row.result for row in rows if row.result]
    outcomes = Counter(row.result.outcome if row.result else "missing" for row in rows)
    return [
        schedule_name(rows[0].trial.schedule.name),
        rate_text([row.trial for row in rows]),
        _reported_text(reported),
        _mean_text(results, "test_accuracy_batch_mean"),
        _mean_text(results, "test_accuracy"),
        f"≈ {reported.train_loss:g}" if reported and reported.train_loss is not None else "—",
        _mean_text(results, "train_loss"),
        ", ".join(outcomes if len(outcomes) == 1 else (f"{n} {outcome}" for outcome, n in outcomes.items())),
        (reported and reported.said) or "—",
    ]


def _reported_text(reported: Reported | None) -> str:
    """Return the paper's accuracy, of several runs with the interval of their mean."""
    if reported is None:
        return "—"
    if len(reported.runs) > 1:
        return intervals.mean_interval(reported.runs).text()
    return f"≈ {reported.test_accuracy:.2f}" if reported.source == "plot" else f"{reported.test_accuracy:.4f}"


def _mean_text(results: Sequence[Result], metric: str) -> str:
    """Return the mean of a final value and its interval."""
    if not results:
        return "missing"
    found = intervals.mean_interval([result.last(metric) for result in results])
    return found.formatted(".4g", ".2g") if metric == "train_loss" else found.text()


def models_csv(rows: Sequence[Row]) -> str:
    """Return every trial under COLUMNS."""
    return csv_text(COLUMNS, (row.values().values() for row in rows))


def curves_csv(curves: Mapping[int, Curve], smoothing: float) -> str:
    """Return every step of every range test."""
    rows = (
        [seed, step, *row]
        for seed, curve in curves.items()
        for step, row in enumerate(lr_range_test.curve_rows(curve, smoothing))
    )
    return csv_text(["seed", "step", "learning_rate", "loss", "smoothed_loss"], rows)


def trials_data(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return every trial as data, with the paper's values beside."""
    return [
        {key: finite(value) if isinstance(value, float) else value for key, value in row.values().items()}
        | {"paper": _reported_data(row.reported), "parameters": row.trial.parameters()}
        for row in rows
    ]


def _reported_data(reported: Reported | None) -> dict[str, object] | None:
    return None if reported is None else reported.model_dump(exclude=None if reported.runs else {"runs"})
