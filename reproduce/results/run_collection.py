"""What the store has of one study: range tests and what they propose, models, grids. Each run is read at most once."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np

from reproduce.analysis import lr_range_test, regret, suggestion_rules
from reproduce.analysis.lr_range_test import PAPERS_RULE, Curve, Proposal, Suggestion
from reproduce.study import planning
from reproduce.study.claim import PROPOSED, Model
from reproduce.study.config import StudyConfig
from reproduce.study.fields import Optimizer, can_be_held
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial
from reproduce.tracking.reader import DIVERGED, Result

RunT = TypeVar("RunT")


class RunSource(Protocol[RunT]):
    """A source of runs: a tracking store, or the archive of a report. `source` is its name for users."""

    source: str

    def finished_runs(self) -> Mapping[str, RunT]:
        """Return the newest finished run of each configuration, by its hash."""

    def result(self, trial: Trial, run: RunT, /) -> Result | None:
        """Return what that run recorded of the trial; None where some of it is gone."""

    def curve(self, run_id: str, /) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates and raw losses of every step of a range test, both (steps,) float64."""


class RunCollection:
    """The runs of a study of one configuration: its data, length and engine, with any optimizer and seed.

    Curves are smoothed by `smoothing` where something is read off them.
    """

    def __init__(self, source: RunSource[RunT], paper: Paper, config: StudyConfig, smoothing: float) -> None:
        self.paper, self.config, self.smoothing, self.source = paper, config, smoothing, source.source
        self._runs: RunSource[Any] = source
        self._finished = source.finished_runs()
        self._results: dict[Trial, Result | None] = {}
        self.curve = cache(self._curve)
        self.suggested = cache(self._suggested)

    def result(self, trial: Trial) -> Result | None:
        """Return the newest finished run of exactly that configuration."""
        if trial not in self._results:
            run = self._finished.get(trial.config_hash)
            self._results[trial] = None if run is None else self._runs.result(trial, run)
        return self._results[trial]

    def results_read(self) -> list[Result]:
        """Return all runs that were read so far, in the order of their beginning, whatever the order of reading."""
        found = [result for result in self._results.values() if result is not None]
        return sorted(found, key=lambda result: (result.started_at, result.run_id))

    def has(self, trial: Trial) -> bool:
        """Return whether there is such a run."""
        return trial.config_hash in self._finished

    def config_for(self, optimizer: Optimizer | None, seed: int) -> StudyConfig:
        """Return the configuration with that optimizer and that seed alone."""
        return self.config.model_copy(update={"optimizer": optimizer, "seeds": (seed,), "rates_by_seed": None})

    def range_test(self, optimizer: Optimizer | None, seed: int) -> Trial:
        """Return the range test with that optimizer and seed."""
        return planning.range_tests(self.paper, self.config_for(optimizer, seed))[0]

    def grid(self, optimizer: Optimizer | None, seed: int) -> list[Trial]:
        """Return the trials of the grid with that optimizer and seed."""
        return planning.grid_trials(self.paper, self.config_for(optimizer, seed))

    def trial_for(self, model: Model, seed: int) -> Trial | None:
        """Return the trial of a claim's model; None where it is at a proposed rate and nothing trains at one."""
        if model.learning_rate != PROPOSED:
            return planning.trial_of(self.paper, model, seed, self.config.engine)
        proposal = self.proposal(self.range_test(model.optimizer, seed))
        return self.trial_at(model.optimizer, seed, proposal) if isinstance(proposal, Proposal) else None

    def trial_at(self, optimizer: Optimizer | None, seed: int, proposal: Proposal, factor: float = 1) -> Trial | None:
        """Return the trial without a schedule at a proposed rate, or so many times it; None where none can train.

        Args:
            optimizer: The trial's.
            seed: The trial's.
            proposal: What the range test proposes.
            factor: How many times the proposed rate.
        """
        rate = planning.round_rate(proposal.learning_rate * factor)
        if not can_be_held(rate):
            return None
        own = {"schedulers": ("none",), "learning_rates": (rate,)}
        return planning.trials(self.paper, self.config_for(optimizer, seed).model_copy(update=own))[0]

    def proposal(self, test: Trial) -> Suggestion | None:
        """Return what a range test proposes by the paper's rule; None where it was not run."""
        return self.suggested(test).get(PAPERS_RULE.name)

    def accuracies(self, trial: Trial) -> list[float] | None:
        """Return the test accuracy by epoch, as the paper counts it; None where there is no run."""
        result = self.result(trial)
        return None if result is None else result.epochs[regret.METRIC]

    def _curve(self, test: Trial) -> Curve | None:
        """Return what a range test recorded, up to the first loss that is not finite; None where it was not run."""
        result = self.result(test)
        if result is None:
            return None
        return lr_range_test.until_not_finite(*self._runs.curve(result.run_id), result.outcome == DIVERGED)

    def _suggested(self, test: Trial) -> Mapping[str, Suggestion]:
        """Return what each rule reads off a range test's curve; nothing where it was not run."""
        curve = self.curve(test)
        return {} if curve is None else suggestion_rules.read_all(curve, self.smoothing)
