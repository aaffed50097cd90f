"""The measures of claims, taken of the runs that there are: one number a seed, and which runs it needs."""

import math

from reproduce.analysis import claims
from reproduce.results.run_collection import RunCollection
from reproduce.study.claim import PROPOSED, Measure, Model, OptimizerRangeTest
from reproduce.study.own_code import describe
from reproduce.study.schedules import ExponentialDecay, StepDecay
from reproduce.study.trial import Trial


class UsedRuns:
    """The runs that a claim rests on, and those that it needs and the store does not have."""

    def __init__(self, collection: RunCollection) -> None:
        self.collection = collection
        self.runs: dict[str, str] = {}
        self.missing: dict[str, None] = {}
        self.failed = ""
        self.needed: set[Trial] = set()

    def has(self, trial: Trial) -> bool:
        """Return whether there is a run of that trial, which then counts as used, else as missing."""
        self.needed.add(trial)
        result = self.collection.result(trial)
        if result is None:
            self.missing[trial.label] = None
            return False
        self.runs[trial.label] = result.run_id
        return True


def take(measure: Measure, seed: int, used: UsedRuns) -> float | None:
    """Return the measure's value for that seed; None where a run is missing, NaN where the runs have no such value."""
    value = _term(measure, measure.of, seed, used)
    if measure.minus is None:
        return value
    subtracted = _term(measure, measure.minus, seed, used)
    return None if value is None or subtracted is None else value - subtracted


def _term(measure: Measure, term: Model | OptimizerRangeTest, seed: int, used: UsedRuns) -> float | None:
    kind = measure.kind
    if isinstance(term, Model):
        return _model_term(measure, term, seed, used)
    if measure.is_of_grid:
        return _grid_term(kind, term, seed, used)
    test = used.collection.range_test(term.optimizer, seed)
    curve = used.collection.curve(test) if used.has(test) else None
    return None if curve is None else claims.measure_curve(kind, curve, used.collection.smoothing)


def _model_term(measure: Measure, model: Model, seed: int, used: UsedRuns) -> float | None:
    collection = used.collection
    if model.learning_rate == PROPOSED and not used.has(collection.range_test(model.optimizer, seed)):
        return None
    trial = collection.trial_for(model, seed)
    if trial is None:
        return math.nan
    result = collection.result(trial) if used.has(trial) else None
    if result is None:
        return None
    if not measure.is_own:
        return claims.measure_epochs(measure.kind, result.epochs, _decay_epoch(trial))
    try:
        function = collection.paper.code.load(measure.kind)
        recorded = {name: list(values) for name, values in result.epochs.items()}
        return float(function(recorded, **dict(measure.arguments)))
    # What a study's own code raises can be anything.
    except Exception as error:
        used.failed = describe(error)
        return math.nan


def _grid_term(kind: str, term: OptimizerRangeTest, seed: int, used: UsedRuns) -> float | None:
    collection = used.collection
    test, grid = collection.range_test(term.optimizer, seed), collection.grid(term.optimizer, seed)
    are_there = [used.has(trial) for trial in (test, *grid)]
    at_proposal = Model(scheduler="none", learning_rate=PROPOSED, optimizer=term.optimizer)
    trial = collection.trial_for(at_proposal, seed) if are_there[0] else None
    if not all(are_there) or (trial and not used.has(trial)):
        return None
    if trial is None:
        return math.nan
    accuracies = {other.learning_rate: collection.accuracies(other) or [] for other in grid}
    return claims.measure_grid(kind, accuracies, trial.learning_rate, collection.accuracies(trial) or [])


def _decay_epoch(trial: Trial) -> int | None:
    """Return the epoch, from 1, in which the rate has first fallen by a whole decay; None without such decays."""
    if not isinstance(trial.schedule, StepDecay | ExponentialDecay):
        return None
    return math.ceil(trial.schedule.decay_steps / trial.steps_per_epoch)
