"""Every figure for which there are runs, drawn into the report's folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.report import conclusion_figure, figures, tables
from reproduce.report.output_folder import FIGURE_FORMATS
from reproduce.report.report_data import ReportData
from reproduce.tracking.reader import Result

# `figures` has to be the first that imports it.
if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_all(data: ReportData, folder: Path) -> dict[str, str]:
    """Draw the figures, and return their files' names, without ending, by what they show."""
    drawn: dict[str, str] = {}
    for key, (name, draw) in _figures(data).items():
        for ending in FIGURE_FORMATS:
            figures.save(draw(), folder / f"{name}.{ending}")
        drawn[key] = name
    return drawn


def _figures(data: ReportData) -> dict[str, tuple[str, Callable[[], Figure]]]:
    """Return each figure's file and what draws it, by what it shows."""
    paper, smoothing = data.paper, data.collection.smoothing
    found: dict[str, tuple[str, Callable[[], Figure]]] = {}
    if data.curves:
        for key, figure in paper.range_test.figures:
            draw = partial(figures.range_test, data.curves, smoothing, data.proposed, paper, figure.shows)
            found[key] = f"figure-{figure.number}", draw
        found["rules"] = "figure-rules", partial(figures.rules, data.curves, smoothing, data.by_rule)
    models = _results_by_scheduler(data)
    for scheduler, results in models.items():
        name = f"figure-{paper.sweep(scheduler).figure or scheduler}"
        found[scheduler] = name, partial(figures.schedule, scheduler, results, paper)
    if models and data.curves:
        draw = partial(conclusion_figure.draw, models, data.curves, smoothing, data.proposed, data.regrets)
        found["conclusion"] = "figure-conclusion", draw
    return found


def _results_by_scheduler(data: ReportData) -> dict[str, list[list[Result]]]:
    """Return the runs of every model, one a seed, by their schedule."""
    found: dict[str, list[list[Result]]] = {}
    for rows in tables.group_by_model(data.rows):
        if results := [row.result for row in rows if row.result]:
            found.setdefault(results[0].trial.schedule.name, []).append(results)
    return found
