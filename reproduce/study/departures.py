"""In what a configuration is not the paper's, and which command would train it."""

from __future__ import annotations

from reproduce.errors import UserError
from reproduce.study.config import StudyConfig
from reproduce.study.planning import common_fields, range_tests, requested_trials
from reproduce.study.rate_checks import check_rates
from reproduce.study.schema import Paper

# What `main` can be asked for; the other options are those of its parts.
MAIN_FIELDS = ("dataset", "optimizer", "epochs", "batch_size", "seeds", "train_size", "engine", "protocol",
           "range_test_epochs")  # fmt: skip


def list_departures(paper: Paper, config: StudyConfig) -> list[str]:
    """In what a study is not the paper's, one phrase each; empty when it is the paper's own protocol as drawn."""
    wanted, stated = common_fields(paper, config), common_fields(paper, StudyConfig())
    names = {"train_size": "training images", "batch_size": "images a batch"}
    if wanted["epochs"] == 1:
        names["epochs"] = "epoch"
    found = [
        f"{wanted[key]} {names.get(key, key)} instead of {stated[key]}"
        for key in stated
        if key != "engine" and wanted[key] != stated[key]
    ]
    if config.learning_rates == paper.grid.learning_rates:
        found.append("the rates of the grid")
    elif config.learning_rates or config.rates_by_seed:
        found.append("learning rates of your own")
    if config.schedule_parameters:
        found.append("schedule parameters of your own")
    if config.protocol != "as-drawn":
        found.append(f"schedules {config.protocol.replace('-', ' ')} instead of as drawn")
    ramp, default_ramp = range_tests(paper, config)[0], range_tests(paper, StudyConfig())[0]
    if (ramp.schedule, ramp.learning_rate, ramp.epochs) != (
        default_ramp.schedule,
        default_ramp.learning_rate,
        default_ramp.epochs,
    ):
        found.append("a range test of your own")
    return found


def may_be_of_grid(paper: Paper, config: StudyConfig) -> bool:
    """Whether these config can be a grid's, and are not of the paper's own study, which has 15 models beside it."""
    said_of_schedules = len(config.schedulers) == 1 or config.schedule_parameters or config.rates_by_seed
    return not said_of_schedules and config.protocol == "as-drawn" and bool(list_departures(paper, config))


def main_trains(paper: Paper, config: StudyConfig, smoothing: float) -> bool:
    """Whether `main` can be asked for exactly these config, and takes them."""
    if not fits_main(config) or smoothing != paper.range_test.smoothing:
        return False
    try:
        check_rates(config, requested_trials(paper, config) + range_tests(paper, config))
    except UserError:
        return False
    return True


def fits_main(config: StudyConfig) -> bool:
    """Whether `main` can be asked for all of them."""
    return config == StudyConfig(**{key: getattr(config, key) for key in MAIN_FIELDS})
