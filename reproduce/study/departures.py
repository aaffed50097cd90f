"""How a configuration departs from the paper's, and whether `main` trains it."""

from __future__ import annotations

from reproduce.errors import UserError
from reproduce.study.config import StudyConfig, are_own_epochs, describe_lengths, join_words
from reproduce.study.planning import common_fields, range_tests, requested_trials
from reproduce.study.rate_checks import check_rates
from reproduce.study.schema import Paper

# What is told of the fields that all trials have in common. Data's hash and optimizer's arguments go with these.
NAMES = {
    "dataset": "dataset",
    "train_size": "training images",
    "optimizer": "optimizer",
    "batch_size": "images a batch",
}
# The fields that `main` has options for. Only the commands for its parts have the others.
MAIN_FIELDS = ("dataset", "optimizer", "epochs", "batch_size", "seeds", "train_size", "engine", "protocol",
           "range_test_epochs")  # fmt: skip


def list_departures(paper: Paper, config: StudyConfig) -> list[str]:
    """Return how a study departs from the paper's, one phrase each; nothing for the paper's own, as drawn."""
    requested, stated = common_fields(paper, config), common_fields(paper, StudyConfig())
    found = [
        f"{requested[key]} {name} instead of {stated[key]}"
        for key, name in NAMES.items()
        if requested[key] != stated[key]
    ]
    if not are_own_epochs(paper, config):
        lengths = join_words(paper.lengths(config.schedulers))
        found.append(f"{describe_lengths([requested['epochs']])} instead of {lengths}")
    if config.learning_rates == paper.grid.learning_rates:
        found.append("the rates of the grid")
    elif config.learning_rates or config.rates_by_seed:
        found.append("learning rates of your own")
    if config.schedule_parameters:
        found.append("schedule parameters of your own")
    if config.protocol not in (None, paper.protocols[0]):
        usual = paper.protocols[0].replace("-", " ")
        found.append(f"schedules {config.protocol.replace('-', ' ')} instead of {usual}")
    ramp, default_ramp = range_tests(paper, config)[0], range_tests(paper, StudyConfig())[0]
    if (ramp.schedule, ramp.learning_rate, ramp.epochs) != (
        default_ramp.schedule,
        default_ramp.learning_rate,
        default_ramp.epochs,
    ):
        found.append("a range test of your own")
    return found


def may_be_of_grid(paper: Paper, config: StudyConfig) -> bool:
    """Return whether this may be the configuration of a grid alone.

    That of the paper's own study is not: it has 15 models beside the grid.
    """
    is_of_schedules = config.only_scheduler or config.schedule_parameters or config.rates_by_seed
    return not is_of_schedules and not config.protocol and bool(list_departures(paper, config))


def main_trains(paper: Paper, config: StudyConfig, smoothing: float) -> bool:
    """Return whether `main` has options for exactly this configuration and smoothing, and trains it."""
    if not fits_main(config) or smoothing != paper.range_test.smoothing:
        return False
    try:
        check_rates(config, requested_trials(paper, config) + range_tests(paper, config))
    except UserError:
        return False
    return True


def fits_main(config: StudyConfig) -> bool:
    """Return whether `main` has an option for everything in the configuration that is not the paper's."""
    return config == StudyConfig(**{key: getattr(config, key) for key in MAIN_FIELDS})
