"""What the store has of one study: range tests and what they propose, models, grids. Each run is read at most once."""

from collections.abc import Mapping
from functools import cache

from reproduce.analysis import lr_range_test, regret, suggestion_rules
from reproduce.analysis.lr_range_test import PAPERS_RULE, Curve, Proposal, Reading
from reproduce.results.archive import Archive
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.schema import Paper
from reproduce.study.trial import Optimizer, Trial, can_be_held
from reproduce.tracking.reader import DIVERGED, Result, RunReader


class RunCollection:
    """The runs of a study of the wishes' kind: their data, length and engine, with any optimizer and seed.

    They are read from a tracking store, or from what a report recorded of one.
    Curves are smoothed by `smoothing` where something is read off them.
    """

    def __init__(self, store: RunReader | Archive, paper: Paper, config: StudyConfig, smoothing: float) -> None:
        self.store, self.paper, self.config, self.smoothing = store, paper, config, smoothing
        self._finished = store.finished_runs()
        self._results: dict[Trial, Result | None] = {}
        self.curve = cache(self._curve)
        self.suggested = cache(self._suggested)

    def result(self, trial: Trial) -> Result | None:
        """The newest finished run of exactly that configuration."""
        if trial not in self._results:
            run = self._finished.get(trial.config_hash)
            self._results[trial] = None if run is None else self.store.result(trial, run)
        return self._results[trial]

    def used(self) -> list[Result]:
        """All runs that were read so far."""
        return [result for result in self._results.values() if result is not None]

    def has(self, trial: Trial) -> bool:
        """Whether there is such a run."""
        return trial.config_hash in self._finished

    def like(self, optimizer: Optimizer, seed: int) -> StudyConfig:
        """The config with that optimizer and that seed alone."""
        return self.config.model_copy(update={"optimizer": optimizer, "seeds": (seed,), "rates_by_seed": None})

    def test(self, optimizer: Optimizer, seed: int) -> Trial:
        """The range test."""
        return planning.range_tests(self.paper, self.like(optimizer, seed))[0]

    def _curve(self, test: Trial) -> Curve | None:
        """What a range test recorded, up to the first loss that is not finite."""
        result = self.result(test)
        return result and lr_range_test.until_not_finite(*self.store.curve(result.run_id), result.outcome == DIVERGED)

    def _suggested(self, test: Trial) -> Mapping[str, Reading]:
        """What each rule reads off a range test's curve; nothing without a curve."""
        curve = self.curve(test)
        if curve is None:
            return {}
        return suggestion_rules.read_all(curve, self.smoothing)

    def proposal(self, test: Trial) -> Reading | None:
        """What a range test proposes by the paper's rule; None where it was not run."""
        return self.suggested(test).get(PAPERS_RULE.name)

    def grid(self, optimizer: Optimizer, seed: int) -> list[Trial]:
        """The trials of the grid."""
        return planning.grid_trials(self.paper, self.like(optimizer, seed))

    def at_rate(self, optimizer: Optimizer, seed: int, proposal: Proposal, factor: float = 1) -> Trial | None:
        """The trial at a proposed rate, or so many times it, without a schedule; None where nothing trains at that."""
        rate = planning.round_rate(proposal.learning_rate * factor)
        if not can_be_held(rate):
            return None
        config = self.like(optimizer, seed).model_copy(update={"schedulers": ("none",), "learning_rates": (rate,)})
        return planning.trials(self.paper, config)[0]

    def accuracies(self, trial: Trial) -> list[float] | None:
        """Test accuracy by epoch, as the paper counts it; None where there is no run."""
        result = self.result(trial)
        return result and result.epochs[regret.METRIC]
