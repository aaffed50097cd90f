"""What options mean to a command that reads: those of the runs that the store has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from reproduce.execution.run_options import RunOptions
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.departures import may_be_of_grid
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial

if TYPE_CHECKING:
    from reproduce.tracking.store import TrackingStore


def find_recorded_config(store: TrackingStore, paper: Paper, config: StudyConfig, options: RunOptions) -> StudyConfig:
    """Return the configuration as the store has runs of it, where the same options differ from command to command.

    Where no engine was named, it is the one of which there are more runs. `range_test` takes --epochs for its own:
    where a range test of that length was run, it is the one that is meant. `grid` takes --learning-rates for its own:
    where a grid was run, and no model with a schedule, the grid is meant.

    Args:
        store: the store whose finished runs are looked through.
        paper: the paper, for what the configuration leaves open.
        config: what was typed.
        options: what was typed besides, the engine among it.
    """
    config, finished = planning.trainable_config(paper, config), store.reader.finished_runs().keys()

    def count(trials: Iterable[Trial]) -> int:
        return sum(trial.config_hash in finished for trial in trials)

    def count_all(config: StudyConfig) -> int:
        tests = sum(count(planning.range_tests(paper, other)) for other in _range_test_lengths(config))
        return tests + count(planning.trials(paper, config)) + count(planning.grid_trials(paper, config))

    if options.engine == "auto":
        config = max((config.model_copy(update={"engine": engine}) for engine in ("fused", "torch")), key=count_all)
    config = max(_range_test_lengths(config), key=lambda other: count(planning.range_tests(paper, other)))
    if may_be_of_grid(paper, config) and count(planning.range_tests(paper, config)):
        with_schedule = tuple(name for name in config.schedulers or paper.schedulers if name != "none")
        models = planning.trials(paper, config.model_copy(update={"schedulers": with_schedule}))
        if not count(models) and count(planning.grid_trials(paper, config)):
            return planning.grid_config(paper, config)
    return config


def _range_test_lengths(config: StudyConfig) -> list[StudyConfig]:
    """List the configuration, and where --epochs may be the range test's, the one in which it is."""
    as_long = config.model_copy(update={"range_test_epochs": config.epochs})
    return [config, as_long] if config.epochs and not config.range_test_epochs else [config]
