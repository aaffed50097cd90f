"""The runs behind a report in one file, `runs.json`: written beside the report, and read back in place of the store.

With the report alone it can be written again, and its claims judged again, without any other run. Numbers come back to
the last bit; one that is not finite, which JSON does not have, is text: inf, -inf or nan.
"""

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from reproduce.errors import UserError, shown
from reproduce.results.run_collection import RunCollection
from reproduce.study.config import StudyConfig
from reproduce.study.fields import MAX_EPOCHS, Frozen, Rate
from reproduce.study.location import DEFAULT
from reproduce.study.trial import Trial
from reproduce.tracking.reader import METRICS, Result

NAME = "runs.json"
FORMAT = 1
# Of some 40,000 runs.
MAX_BYTES = 2**28
# Of a value, as in MLflow.
MAX_TEXT = 6000
FLOAT32 = float(np.finfo(np.float32).max)
KEPT_TAGS = ("commit", "uncommitted_changes", "code_sha256", "data_sha256")


def _moment(text: str) -> str:
    """Return a time as the file has it, checked."""
    moment = datetime.fromisoformat(text)
    # The years leave room for every time zone.
    if moment.tzinfo is None or not 1970 <= moment.year <= 9998:
        raise ValueError("expected a time from 1970 on, with its time zone")
    return text


ItemT = TypeVar("ItemT")
# Each of METRICS.
Metric = Literal["train_loss", "test_accuracy", "test_accuracy_batch_mean", "learning_rate"]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Measured = Finite | Literal["inf", "-inf", "nan"]
Moment = Annotated[str, AfterValidator(_moment)]
Index = Annotated[int, Field(ge=0, strict=True)]


class _Run(Frozen):
    name: Text
    config_hash: Text = Field(alias="specification")
    parameters: dict[Text, object]
    run_id: Text
    experiment_id: Text
    outcome: Literal["finished", "diverged"]
    started_at: Moment
    ended_at: Moment
    made_with: Index
    epochs: dict[Metric, Annotated[list[Measured], Field(min_length=1, max_length=MAX_EPOCHS)]]
    ramp: Index | None = None
    losses: list[Annotated[Finite, Field(ge=-FLOAT32, le=FLOAT32)]] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "_Run":
        needed = set(METRICS) if self.ramp is None else {"train_loss", "learning_rate"}
        if self.epochs.keys() != needed or len(set(map(len, self.epochs.values()))) != 1:
            raise ValueError(f"epochs must have {', '.join(sorted(needed))}, and as many values of each")
        if (self.ramp is None) != (self.losses is None):
            raise ValueError("ramp and losses go together")
        return self


def _rising(rates: list[float]) -> list[float]:
    """Return the rates of a ramp, checked: slopes are taken between them."""
    if any(later <= earlier for earlier, later in pairwise(rates)):
        raise ValueError("the rates of a ramp must rise")
    return rates


class _Record(Frozen):
    format: Literal[1]
    config: StudyConfig = Field(alias="wishes")
    study: Text = DEFAULT
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    ui: Annotated[Text, Field(pattern="^https?://")] | None
    made_with: list[dict[Text, Text]]
    ramps: list[Annotated[list[Rate], AfterValidator(_rising)]]
    runs: list[_Run]

    @model_validator(mode="after")
    def _points_at_what_is_there(self) -> "_Record":
        for run in self.runs:
            if run.made_with >= len(self.made_with):
                raise ValueError(f"{run.name} points at made_with {run.made_with}, which is not there")
            if run.ramp is not None and run.ramp >= len(self.ramps):
                raise ValueError(f"{run.name} points at ramp {run.ramp}, which is not there")
            if run.ramp is not None and len(run.losses or []) > len(self.ramps[run.ramp]):
                raise ValueError(f"{run.name} has more losses than its ramp has steps")
        for key, values in (
            ("specification", {run.config_hash for run in self.runs}),
            ("run_id", {run.run_id for run in self.runs}),
        ):
            if len(values) < len(self.runs):
                raise ValueError(f"two runs have the same {key}")
        return self


class Archive:
    """Runs from a file, found and read as `RunReader` finds and reads those of a store.

    `config`, `study`, `smoothing` and `ui` are those of the report that they are of. UserError where the file is none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.source = path, str(path)
        if not path.is_file():
            raise UserError(f"there is no {path}, in which a report keeps its runs: write one with reproduce report")
        try:
            with path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
            if len(text) > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES} bytes")
            content = json.loads(text.decode(), parse_constant=_no_number)
            if isinstance(content, dict) and content.get("format") != FORMAT:
                raise ValueError(f"format {shown(content.get('format'))}, this version reads {FORMAT}")
            record = _Record.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path} is no record of runs: {f'{where}: ' if where else ''}{message}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is no record of runs: {' '.join(str(error).split())[:200]}") from error
        self.config, self.study, self.smoothing, self.ui = record.config, record.study, record.smoothing, record.ui
        self._made_with, self._ramps, self._runs = record.made_with, record.ramps, record.runs

    def finished_runs(self) -> dict[str, _Run]:
        """Return each run by the hash of its trial's configuration."""
        return {run.config_hash: run for run in self._runs}

    def result(self, trial: Trial, run: _Run) -> Result:
        """Return what was recorded of the trial. UserError where that cannot be a record of it."""
        epochs: dict[str, list[float]] = {name: list(map(float, values)) for name, values in run.epochs.items()}
        trained = len(epochs["train_loss"])
        too_few = trained < trial.epochs and run.outcome == "finished" and not trial.is_range_test
        if trained > trial.epochs or too_few or (run.ramp is not None) != trial.is_range_test:
            raise UserError(f"{self.path} is no record of runs: {run.name} does not have what a run of its kind has")
        times = (datetime.fromisoformat(at) for at in (run.started_at, run.ended_at))
        return Result(trial, run.run_id, run.experiment_id, run.outcome, epochs, self._made_with[run.made_with], *times)

    def curve(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates and raw losses of every step of a range test, both (steps,) float64."""
        (run,) = (run for run in self._runs if run.run_id == run_id)
        assert run.ramp is not None
        assert run.losses is not None
        rates, losses = self._ramps[run.ramp], run.losses
        return np.array(rates, np.float64)[: len(losses)], np.array(losses, np.float32).astype(np.float64)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def write(path: Path, collection: RunCollection, ui: str | None) -> None:
    """Write the runs behind a report, which are all that were read so far. `ui` is the address of MLflow's UI."""
    made_with: list[dict[str, str]] = []
    ramps: list[list[float]] = []
    runs = []
    for result in collection.results_read():
        tags = {key: value for key, value in sorted(result.tags.items())
                if key in KEPT_TAGS or key.startswith("environment.")}  # fmt: skip
        run = {
            "name": result.trial.label,
            "specification": result.trial.config_hash,
            "parameters": result.trial.parameters(),
            "run_id": result.run_id,
            "experiment_id": result.experiment_id,
            "outcome": result.outcome,
            "started_at": result.started_at.isoformat(),
            "ended_at": result.ended_at.isoformat(),
            "made_with": _place(tags, made_with),
            "epochs": {name: [finite(value) for value in values] for name, values in result.epochs.items()},
        }
        if result.trial.is_range_test and (curve := collection.curve(result.trial)) is not None:
            run["ramp"] = _place(curve.learning_rates.tolist(), ramps)
            # The losses are float32: their shortest texts are half as long as those of the same numbers in float64.
            run["losses"] = [float(str(loss)) for loss in curve.losses.astype(np.float32)]
        runs.append(run)
    config = collection.config.model_dump(mode="json")
    named = collection.paper.named
    study = {} if named == DEFAULT else {"study": named}
    content = {"format": FORMAT, "wishes": config, **study, "smoothing": collection.smoothing, "ui": ui,
               "made_with": made_with, "ramps": ramps, "runs": runs}  # fmt: skip
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: float | None) -> float | str | None:
    """Return the number as JSON can have it."""
    return value if value is None or np.isfinite(value) else str(float(value))


def _place(item: ItemT, known: list[ItemT]) -> int:
    """Return where the item is in the list, to which it is added if it is new."""
    if item not in known:
        known.append(item)
    return known.index(item)
