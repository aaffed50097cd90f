"""The runs behind a report in one file, `runs.json`: written beside the report, and read back in place of the store.

Whoever has the report can so have it made again, and judged again, without a run of their own. Numbers come back to the
last bit; one that is not finite, which JSON has not, is the text inf, -inf or nan.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from reproduce.errors import UserError
from reproduce.range_test import Curve
from reproduce.records import Result
from reproduce.study import Wishes
from reproduce.trial import Trial

NAME = "runs.json"
FORMAT = 1
KEPT_TAGS = ("commit", "uncommitted_changes", "code_sha256", "data_sha256")


class Archive:
    """Runs from a file, found and read as `tracking.Store` finds and reads its own.

    `wishes`, `smoothing` and `ui` are those of the report that they are of. UserError where the file is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"there is no {path}, in which a report keeps its runs: write one with reproduce report")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
            self.wishes, self.smoothing = Wishes.model_validate(content["wishes"]), float(content["smoothing"])
            self.ui: str | None = content["ui"]
            self._made_with, self._ramps, self._runs = content["made_with"], content["ramps"], content["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no record of runs: {' '.join(str(error).split())[:200]}") from error

    def finished_runs(self) -> dict[str, dict[str, Any]]:
        """Each run by its specification."""
        return {run["specification"]: run for run in self._runs}

    def result(self, trial: Trial, run: Mapping[str, Any]) -> Result:
        """What was recorded of the trial."""
        epochs = {name: [float(value) for value in values] for name, values in run["epochs"].items()}
        times = (datetime.fromisoformat(run[key]) for key in ("started_at", "ended_at"))
        tags = self._made_with[run["made_with"]]
        return Result(trial, run["run_id"], run["experiment_id"], run["outcome"], epochs, tags, *times)

    def curve(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The rates and raw losses of every step of a range test, both (steps,) float64."""
        (run,) = (run for run in self._runs if run["run_id"] == run_id)
        rates, losses = self._ramps[run["ramp"]], run["losses"]
        return np.array(rates, np.float64)[: len(losses)], np.array(losses, np.float32).astype(np.float64)


def write(
    path: Path,
    wishes: Wishes,
    smoothing: float,
    ui: str | None,
    results: Iterable[Result],
    curves: Mapping[str, Curve],
) -> None:
    """Write the results, and the curves of the range tests among them by run id."""
    made_with: list[dict[str, str]] = []
    ramps: list[list[float]] = []
    runs = []
    for result in sorted(results, key=lambda result: (result.started_at, result.run_id)):
        tags = {key: value for key, value in sorted(result.tags.items())
                if key in KEPT_TAGS or key.startswith("environment.")}  # fmt: skip
        run = {
            "name": result.trial.label,
            "specification": result.trial.specification,
            "parameters": result.trial.parameters(),
            "run_id": result.run_id,
            "experiment_id": result.experiment_id,
            "outcome": result.outcome,
            "started_at": result.started_at.isoformat(),
            "ended_at": result.ended_at.isoformat(),
            "made_with": _place(tags, made_with),
            "epochs": {name: [finite(value) for value in values] for name, values in result.epochs.items()},
        }
        if result.run_id in curves:
            curve = curves[result.run_id]
            run["ramp"] = _place(curve.learning_rates.tolist(), ramps)
            # The losses are float32: their shortest texts are half as long as those of the same numbers in float64.
            run["losses"] = [float(str(loss)) for loss in curve.losses.astype(np.float32)]
        runs.append(run)
    content = {"format": FORMAT, "wishes": wishes.model_dump(mode="json"), "smoothing": smoothing, "ui": ui,
               "made_with": made_with, "ramps": ramps, "runs": runs}  # fmt: skip
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: float | None) -> float | str | None:
    """The number as JSON can have it."""
    return value if value is None or np.isfinite(value) else str(float(value))


def _place(item: Any, known: list) -> int:
    """Where the item is in the list, to which it is added if it is new."""
    if item not in known:
        known.append(item)
    return known.index(item)
