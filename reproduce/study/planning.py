"""Expand the paper and a user's configuration into trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from reproduce.errors import UserError, shown
from reproduce.study.claim import Model
from reproduce.study.config import StudyConfig, option_name
from reproduce.study.fields import MAX_RATE, MIN_RATE, SIZES, Engine, can_be_held, format_rate
from reproduce.study.schedules import Scheduler
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial

Number = TypeVar("Number", int, float)
# More trials would take days, and one list in MLflow's UI would show as many runs.
MAX_TRIALS = 10_000


def trials(paper: Paper, config: StudyConfig) -> list[Trial]:
    """Return the trials of a sweep: schedules × rates × seeds, in the paper's order. UserError where there can be none.

    Only what no trial can be is refused here. What a user requests is also checked by `requested_trials` and
    `check_rates`.
    """
    common = common_fields(paper, config)
    seeds = _without_doubles("seeds", config.seeds or paper.protocol.seeds)
    result = []
    for scheduler in config.schedulers or paper.schedulers:
        defaults = schedule_parameters(paper, config, scheduler)
        own = {key: value for key, value in config.schedule_parameters.items() if key in defaults}
        schedule = paper.schedule(scheduler, {**defaults, **own})
        epochs = config.epochs or paper.epochs(scheduler)
        rates = config.learning_rates or stated_rates(paper, scheduler)
        rates_by_seed = config.rates_by_seed or dict.fromkeys(seeds, _without_doubles("learning_rates", rates))
        if without := set(seeds) - rates_by_seed.keys():
            raise UserError(f"--seeds: there are no rates for seed {min(without)}")
        for position in range(max(map(len, rates_by_seed.values()))):
            for seed in (seed for seed in seeds if position < len(rates_by_seed[seed])):
                rate = rates_by_seed[seed][position]
                if not can_be_held(rate):
                    raise UserError(_describe_proposed_beyond(seed, rate))
                own_fields = {"epochs": epochs, "schedule": schedule, "learning_rate": rate, "seed": seed}
                result.append(_make_trial(**common | own_fields))
    return result


def schedule_parameters(paper: Paper, config: StudyConfig, scheduler: Scheduler) -> Mapping[str, object]:
    """Return a schedule's own parameters, as the study has them. UserError where it says nothing of that schedule."""
    stated = paper.schedules[config.protocol or paper.protocols[0]]
    if scheduler not in stated and scheduler != "none":
        raise UserError(f"--scheduler {scheduler}: the study has no such schedule, expected one of {', '.join(stated)}")
    return stated.get(scheduler, {})


def stated_rates(paper: Paper, scheduler: Scheduler) -> tuple[float, ...]:
    """Return the rates that the study trains a schedule at. UserError where there are none."""
    if (sweep := paper.sweep(scheduler)) is None:
        raise UserError(f"the study has no rates for scheduler {scheduler}: give --learning-rates")
    return sweep.learning_rates


def trial_of(paper: Paper, model: Model, seed: int, engine: Engine) -> Trial:
    """Return the paper's own trial of a model.

    Args:
        paper: The study.
        model: Which model. Its rate must be a number, not a proposed one.
        seed: The trial's.
        engine: The trial's.
    """
    config = StudyConfig(
        optimizer=model.optimizer,
        seeds=(seed,),
        engine=engine,
        protocol=model.protocol,
        schedulers=(model.scheduler,),
        learning_rates=(float(model.learning_rate),),
    )
    return trials(paper, config)[0]


def requested_trials(paper: Paper, config: StudyConfig) -> list[Trial]:
    """Return the trials of a sweep that a user requests. UserError for too many, or a parameter without effect."""
    refuse_unused(paper, config)
    refuse_too_many(paper, config)
    return trials(paper, config)


def refuse_too_many(paper: Paper, config: StudyConfig, combine: Callable[[list[int]], int] = sum) -> None:
    """Raise UserError for more trials than one command trains.

    `combine` makes one number of the trials' numbers by schedule: sum for a command that trains all schedules, max
    where each schedule may have had a command of its own.
    """
    seeds = len(config.seeds or paper.protocol.seeds)
    schedulers = config.schedulers or paper.schedulers
    if config.rates_by_seed:
        counts = [sum(map(len, config.rates_by_seed.values()))] * len(schedulers)
    else:
        counts = [seeds * len(config.learning_rates or stated_rates(paper, name)) for name in schedulers]
    if combine(counts) > MAX_TRIALS:
        raise UserError(
            f"--seeds and --learning-rates make {max(counts)} trials of every schedule, in all more than {MAX_TRIALS}: "
            "give fewer seeds or rates"
        )


def refuse_unused(paper: Paper, config: StudyConfig) -> None:
    """Raise UserError for a schedule's parameter that none of the requested schedules has."""
    schedulers = config.schedulers or paper.schedulers
    known = {key for scheduler in schedulers for key in schedule_parameters(paper, config, scheduler)}
    for key in config.schedule_parameters:
        if key not in known:
            raise UserError(f"{option_name(key)} has no effect on scheduler {', '.join(schedulers)}: leave it out")


def trainable_config(paper: Paper, config: StudyConfig) -> StudyConfig:
    """Return the configuration, without OneCycle where the trials of several schedules are too short for it to rise.

    OneCycle cannot have been run then, but the range test, the grid and the other schedules can.
    """
    schedulers = config.schedulers or paper.schedulers
    others = tuple(name for name in schedulers if name != "onecycle")
    if "onecycle" not in schedulers or not others or "pct_start" in config.schedule_parameters:
        return config
    # This raises a UserError if something is wrong with the other schedules too.
    trials(paper, config.model_copy(update={"schedulers": others}))
    try:
        trials(paper, config.model_copy(update={"schedulers": ("onecycle",)}))
    except UserError:
        return config.model_copy(update={"schedulers": others})
    return config


def chosen_trials(paper: Paper, typed: StudyConfig, recorded: StudyConfig) -> list[Trial]:
    """Return the recorded trials that typed options choose.

    These are models alone where the options are about models only, else also the range tests and the grid.
    """
    models = trials(paper, recorded)
    is_of_grid = recorded.schedulers == ("none",) != typed.schedulers
    is_of_models = typed.learning_rates or typed.rates_by_seed or typed.schedule_parameters
    if typed.only_scheduler or (is_of_models and not is_of_grid):
        return models
    return models + range_tests(paper, recorded) + grid_trials(paper, recorded)


def refuse_what_never_ran(paper: Paper, config: StudyConfig) -> None:
    """Raise UserError for options that no command trains with, before what they choose is looked for."""
    refuse_unused(paper, config)
    refuse_too_many(paper, config, combine=max)
    trials(paper, trainable_config(paper, config)), range_tests(paper, config)


def range_tests(paper: Paper, config: StudyConfig) -> list[Trial]:
    """Return the range tests, one a seed. UserError where the configuration allows none."""
    common = common_fields(paper, config) | {"epochs": config.range_test_epochs or paper.range_test.epochs}
    ramp = {"name": "ramp", "lr_end": config.lr_end or paper.range_test.lr_end}
    # The paper has none of these.
    for key in ("validation_size", "validation_interval", "stop_factor"):
        if (value := getattr(config, key)) is not None:
            ramp[key] = value
    if config.validation_interval and not config.validation_size:
        raise UserError("--validation-interval has no effect without --validation-size: give both, or neither")
    rate = config.lr_start or paper.range_test.lr_start
    seeds = _without_doubles("seeds", config.seeds or paper.protocol.seeds)
    return [_make_trial(**common, schedule=ramp, learning_rate=rate, seed=seed) for seed in seeds]


def own_range_tests(paper: Paper, config: StudyConfig) -> list[Trial]:
    """Return the range tests that are part of the study: none where it says nothing of one."""
    return range_tests(paper, config) if paper.has_range_test else []


def grid_config(paper: Paper, config: StudyConfig) -> StudyConfig:
    """Return the configuration without a schedule, at its own rates or, where it has none, at the grid's."""
    rates = config.learning_rates or paper.grid.learning_rates
    return config.model_copy(update={"schedulers": ("none",), "learning_rates": rates})


def grid_trials(paper: Paper, config: StudyConfig) -> list[Trial]:
    """Return the trials of the grid, one a rate and a seed."""
    return trials(paper, grid_config(paper, config))


def trials_beside_grid(paper: Paper, config: StudyConfig, proposed: Mapping[int, Iterable[float]]) -> list[Trial]:
    """Return the trials at the proposed rates of each seed, without those in the grid and those beyond the bounds."""
    rates = set(config.learning_rates or paper.grid.learning_rates)
    own = {seed: tuple(sorted(filter(can_be_held, set(values) - rates))) for seed, values in proposed.items()}
    if not any(own.values()):
        return []
    seeds = tuple(own)
    return trials(paper, config.model_copy(update={"schedulers": ("none",), "seeds": seeds, "rates_by_seed": own}))


def round_rate(rate: float) -> float:
    """Return the rate in three significant digits, so that a proposal is trained at the rate that is printed."""
    return float(f"{rate:.2e}")


def common_fields(paper: Paper, config: StudyConfig) -> dict[str, Any]:
    """Return what all trials of a study have in common, by the names of `Trial`'s fields."""
    stated = paper.protocol
    dataset, optimizer = config.dataset or stated.dataset, config.optimizer or stated.optimizer
    variant = config.protocol or paper.protocols[0]
    if dataset not in (stated.dataset, *SIZES):
        known = dict.fromkeys((stated.dataset, *SIZES))
        raise UserError(f"--dataset {dataset} is not of this study; expected one of {', '.join(known)}")
    size = stated.train_size if dataset == stated.dataset else SIZES[dataset]
    return {
        "dataset": dataset,
        "data_sha256": stated.data_sha256 if dataset == stated.dataset else None,
        "preparation": stated.preparation,
        "network": paper.network,
        "loss": paper.loss,
        "optimizer_arguments": paper.optimizer_arguments(variant) if optimizer == stated.optimizer else (),
        "train_size": config.train_size or size,
        "optimizer": optimizer,
        "epochs": config.epochs or stated.epochs,
        "batch_size": config.batch_size or stated.batch_size,
        "engine": config.engine,
    }


def _describe_proposed_beyond(seed: int, rate: float) -> str:
    where = f"above the {MAX_RATE:g}" if rate > MAX_RATE else f"below the {MIN_RATE:g}"
    ramp = "--lr-end lower" if rate > MAX_RATE else "--lr-start higher"
    return (
        f"--learning-rates proposed makes the rate {rate:.3g} of what the range test of seed {seed} proposes, {where} "
        f"that float32 weights can be trained at: name rates instead, or have a range test with its {ramp}"
    )


def _without_doubles(name: str, values: tuple[Number, ...]) -> tuple[Number, ...]:
    doubles = [value for value in values if values.count(value) > 1]
    if doubles:
        double = doubles[0] if isinstance(doubles[0], int) else format_rate(doubles[0])
        raise UserError(f"{option_name(name)}: {double} is given twice; give each value once")
    return values


def _make_trial(**fields: Any) -> Trial:
    try:
        return Trial(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        field = next((part for part in reversed(first["loc"]) if isinstance(part, str)), None)
        # The error is about several fields, and names them.
        if field is None:
            raise UserError(message) from error
        raise UserError(
            f"{option_name(field)}: got {shown(first['input'])}, {message[:1].lower()}{message[1:]}"
        ) from error
