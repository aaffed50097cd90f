"""What is to be run: the paper and a user's config, expanded into trials. Knows neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from reproduce.errors import UserError, shown
from reproduce.study import rate_limits
from reproduce.study.schema import Model, Paper, Protocol
from reproduce.study.trial import (
    MAX_RATE,
    MIN_RATE,
    SCHEDULERS,
    SIZES,
    Count,
    Dataset,
    Engine,
    Epochs,
    Frozen,
    MultiStepDecay,
    OneCycle,
    Optimizer,
    Ramp,
    Rate,
    Scheduler,
    Seed,
    StepDecay,
    Trial,
    can_be_held,
    format_rate,
)

# What `main` can be asked for; the other config are of its parts.
OF_MAIN = ("dataset", "optimizer", "epochs", "batch_size", "seeds", "train_size", "engine", "protocol",
           "range_test_epochs")  # fmt: skip
Number = TypeVar("Number", int, float)
MAX_TRIALS = 10_000  # days of work, and as many runs in one list of MLflow's
SHOWN_STEPS = 5  # of a list of milestones, in a message


class StudyConfig(Frozen):
    """What a user asks for; None is the paper's. Schedule parameters are set only for the schedules that have them.

    `rates_by_seed` are rates of each seed's own, as its range test proposes them, in place of `learning_rates`.
    The engine, which computes the same within rounding, is the machine's to say and no departure from the paper.
    """

    dataset: Dataset | None = None
    optimizer: Optimizer | None = None
    epochs: Epochs | None = None
    batch_size: Count | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    train_size: Count | None = None
    engine: Engine = "torch"
    protocol: Protocol = "as-drawn"
    schedulers: Annotated[tuple[Scheduler, ...], Field(min_length=1)] = SCHEDULERS
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = None
    rates_by_seed: dict[Seed, tuple[Rate, ...]] | None = None
    schedule_parameters: dict[str, Any] = Field(default_factory=dict)
    lr_start: Rate | None = None
    lr_end: Rate | None = None
    range_test_epochs: Epochs | None = None
    validation_size: Count | None = None
    validation_interval: Count | None = None
    stop_factor: Rate | None = None


def trials(paper: Paper, config: StudyConfig) -> list[Trial]:
    """The trials of a sweep: schedules × rates × seeds, in the paper's order. UserError where there can be none such.

    It derives, and so refuses nothing that was fit to be typed elsewhere: what a user asks to have trained goes through
    `asked` and `check_rates` besides.
    """
    common = _common(paper, config)
    seeds = _once("seeds", config.seeds or paper.protocol.seeds)
    result = []
    for scheduler in config.schedulers:
        schedule = _schedule(paper, config, scheduler)
        rates = config.learning_rates or paper.sweep(scheduler).learning_rates
        of_seed = config.rates_by_seed or dict.fromkeys(seeds, _once("learning_rates", rates))
        if without := set(seeds) - of_seed.keys():
            raise UserError(f"--seeds: there are no rates for seed {min(without)}")
        for position in range(max(map(len, of_seed.values()))):
            for seed in (seed for seed in seeds if position < len(of_seed[seed])):
                rate = of_seed[seed][position]
                if not can_be_held(rate):
                    raise UserError(_proposed_beyond(seed, rate))
                result.append(_valid(Trial, **common, schedule=schedule, learning_rate=rate, seed=seed))
    return result


def asked(paper: Paper, config: StudyConfig) -> list[Trial]:
    """The trials of a sweep that a user asks to have trained. UserError for too many, and what has no effect on any."""
    refuse_unused(paper, config)
    refuse_too_many(paper, config)
    return trials(paper, config)


def refuse_too_many(paper: Paper, config: StudyConfig, of_all: Callable[[list[int]], int] = sum) -> None:
    """UserError for more trials than one command trains; `of_all` is max where a command may have had one schedule."""
    seeds = len(config.seeds or paper.protocol.seeds)
    counts = [seeds * len(config.learning_rates or paper.sweep(name).learning_rates) for name in config.schedulers]
    if config.rates_by_seed:
        counts = [sum(map(len, config.rates_by_seed.values()))] * len(config.schedulers)
    if of_all(counts) > MAX_TRIALS:
        raise UserError(
            f"--seeds and --learning-rates make {max(counts)} trials of every schedule, in all more than {MAX_TRIALS}: "
            "give fewer of either"
        )


def refuse_unused(paper: Paper, config: StudyConfig) -> None:
    """UserError for a schedule's parameter of which none of the wanted schedules knows."""
    known = {key for scheduler in config.schedulers for key in paper.schedules[config.protocol][scheduler]}
    for key in config.schedule_parameters:
        if key not in known:
            raise UserError(f"{_option(key)} has no effect on scheduler {', '.join(config.schedulers)}: leave it out")


def recordable(paper: Paper, config: StudyConfig) -> StudyConfig:
    """The config without OneCycle where all schedules are wanted and the trials are too short for it to rise.

    It can then not have been run, but what can be as short is reported on like any other: a range test, a grid, the
    other schedules one by one.
    """
    others = tuple(name for name in config.schedulers if name != "onecycle")
    if "onecycle" not in config.schedulers or not others or "pct_start" in config.schedule_parameters:
        return config
    trials(paper, config.model_copy(update={"schedulers": others}))  # what is wrong with all of them is told
    try:
        trials(paper, config.model_copy(update={"schedulers": ("onecycle",)}))
    except UserError:
        return config.model_copy(update={"schedulers": others})
    return config


def chosen(paper: Paper, typed: StudyConfig, recorded: StudyConfig) -> list[Trial]:
    """The trials that typed options choose, as they are recorded: models alone where they speak of models.

    Else those of the range test and the grid too, whose options are the same.
    """
    models = trials(paper, recorded)
    is_of_grid = recorded.schedulers == ("none",) != typed.schedulers
    said_of_models = typed.learning_rates or typed.rates_by_seed or typed.schedule_parameters
    if len(typed.schedulers) == 1 or (said_of_models and not is_of_grid):
        return models
    return models + range_tests(paper, recorded) + grid(paper, recorded)


def refuse_what_never_ran(paper: Paper, config: StudyConfig) -> None:
    """UserError for options that no command trains with, before what they choose is looked for."""
    refuse_unused(paper, config)
    refuse_too_many(paper, config, of_all=max)
    trials(paper, recordable(paper, config)), range_tests(paper, config)


def check_rates(config: StudyConfig, planned: Iterable[Trial]) -> None:
    """UserError where a trial would come to a rate that training cannot hold, naming what makes it and at which step.

    Where the paper's own decay comes to one, in a run much longer than the paper's, `idle` tells it instead.
    """
    for trial, (step, rate) in _beyond(planned):
        if not _is_the_papers_decay(config, trial, rate):
            raise UserError(_told_beyond(config, trial, step, rate))


def range_tests(paper: Paper, config: StudyConfig) -> list[Trial]:
    """One range test a seed. UserError where a wish cannot be met."""
    common = _common(paper, config) | {"epochs": config.range_test_epochs or paper.range_test.epochs}
    ramp = {"name": "ramp", "lr_end": config.lr_end or paper.range_test.lr_end}
    for key in ("validation_size", "validation_interval", "stop_factor"):  # the paper had none of them
        if (value := getattr(config, key)) is not None:
            ramp[key] = value
    if config.validation_interval and not config.validation_size:
        raise UserError("--validation-interval has no effect without --validation-size: give both, or neither")
    rate = config.lr_start or paper.range_test.lr_start
    seeds = _once("seeds", config.seeds or paper.protocol.seeds)
    return [_valid(Trial, **common, schedule=ramp, learning_rate=rate, seed=seed) for seed in seeds]


def of_grid(paper: Paper, config: StudyConfig) -> StudyConfig:
    """Every rate of the grid, or of the config where they name some, without a schedule."""
    rates = config.learning_rates or paper.grid.learning_rates
    return config.model_copy(update={"schedulers": ("none",), "learning_rates": rates})


def may_be_of_grid(paper: Paper, config: StudyConfig) -> bool:
    """Whether these config can be a grid's, and are not of the paper's own study, which has 15 models beside it."""
    said_of_schedules = len(config.schedulers) == 1 or config.schedule_parameters or config.rates_by_seed
    return not said_of_schedules and config.protocol == "as-drawn" and bool(departures(paper, config))


def grid(paper: Paper, config: StudyConfig) -> list[Trial]:
    """The trials of the grid, one a rate and a seed."""
    return trials(paper, of_grid(paper, config))


def beside_grid(paper: Paper, config: StudyConfig, proposed: Mapping[int, Iterable[float]]) -> list[Trial]:
    """The trials at proposed rates, by seed, that are not in the grid already and that weights can be trained at."""
    rates = set(config.learning_rates or paper.grid.learning_rates)
    own = {seed: tuple(sorted(filter(can_be_held, set(of_seed) - rates))) for seed, of_seed in proposed.items()}
    if not any(own.values()):
        return []
    seeds = tuple(own)
    return trials(paper, config.model_copy(update={"schedulers": ("none",), "seeds": seeds, "rates_by_seed": own}))


def idle(config: StudyConfig, planned: Iterable[Trial]) -> list[str]:
    """What the planned trials do to no effect, one phrase each: what comes after their end, and rates that are nothing.

    What the paper's own schedules would do after the end of a shorter run is not asked for, and not told.
    """
    planned, found = list(planned), {}
    for trial in planned:
        schedule, last = trial.schedule, trial.total_steps - 1
        if isinstance(schedule, MultiStepDecay) and "milestones" in config.schedule_parameters:
            late = [step for step in schedule.milestones if step > last]
            if late:
                found[f"--milestones {','.join(map(str, late))}"] = last
        own_decay = "decay_steps" in config.schedule_parameters
        if isinstance(schedule, StepDecay) and own_decay and schedule.decay_steps > last:
            found[f"--decay-steps {schedule.decay_steps}"] = last
        if isinstance(schedule, Ramp) and config.validation_interval and config.validation_interval > last:
            found[f"--validation-interval {config.validation_interval}"] = last
    told = [f"{what} comes after the last step, {last}, and has no effect" for what, last in found.items()]
    for trial, (step, rate) in _beyond(planned):
        if _is_the_papers_decay(config, trial, rate):
            told.append(
                f"scheduler {trial.schedule.name} at {format_rate(trial.learning_rate)}: the paper's decay brings the "
                f"rate below {MIN_RATE:g} at step {step} of {trial.total_steps}, and no weight moves from there on"
            )
    return told


def of_model(paper: Paper, config: StudyConfig, model: Model, rate: float) -> Trial:
    """The trial of that model at that rate and the wishes' first seed; beside it only their engine counts."""
    own = StudyConfig(
        seeds=config.seeds,
        engine=config.engine,
        optimizer=model.optimizer,
        protocol=model.protocol,
        schedulers=(model.scheduler,),
        learning_rates=(rate,),
    )
    return trials(paper, own)[0]


def as_printed(rate: float) -> float:
    """The rate in three significant digits: what a proposal is printed as is what is trained at."""
    return float(f"{rate:.2e}")


def departures(paper: Paper, config: StudyConfig) -> list[str]:
    """In what a study is not the paper's, one phrase each; empty when it is the paper's own protocol as drawn."""
    wanted, stated = _common(paper, config), _common(paper, StudyConfig())
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


def as_options(paper: Paper, config: StudyConfig) -> list[str]:
    """What a user types for this configuration, as `--epochs 1`, without the engine and without what is the paper's."""
    given = config.model_dump(exclude_defaults=True, exclude={"engine", "schedulers", "rates_by_seed"})
    own = given.pop("schedule_parameters", {})
    found = {key: value for key, value in given.items() if value != getattr(paper.protocol, key, None)}
    if len(config.schedulers) == 1:
        found["scheduler"] = config.schedulers
    if config.rates_by_seed:
        found["learning_rates"] = "proposed"
    if config.seeds and "seeds" in found:
        found["seeds"] = as_spans(config.seeds)
    return [
        f"{_option(key)} {','.join(map(str, value)) if isinstance(value, (tuple, list)) else value}"
        for key, value in (found | own).items()
    ]


def as_spans(seeds: Iterable[int]) -> str:
    """Seeds as they are typed, three or more in a row as a span: 0-4,7,9."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 2 else ",".join(map(str, span)) for span in spans)


def command(name: str, paper: Paper, config: StudyConfig, smoothing: float) -> str:
    """What a user types to have `report`, `verify` or `main` take exactly these config."""
    options = as_options(paper, config) + ["--engine torch"] * (config.engine == "torch")  # fused is what auto takes
    own_smoothing = [f"--smoothing {smoothing}"] if smoothing != paper.range_test.smoothing else []
    return " ".join(["reproduce", name, *options, *own_smoothing])


def is_trained_by_main(paper: Paper, config: StudyConfig, smoothing: float) -> bool:
    """Whether `main` can be asked for exactly these config, and takes them."""
    if not is_of_main(config) or smoothing != paper.range_test.smoothing:
        return False
    try:
        check_rates(config, asked(paper, config) + range_tests(paper, config))
    except UserError:
        return False
    return True


def is_of_main(config: StudyConfig) -> bool:
    """Whether `main` can be asked for all of them."""
    return config == StudyConfig(**{key: getattr(config, key) for key in OF_MAIN})


def _common(paper: Paper, config: StudyConfig) -> dict[str, Any]:
    stated = paper.protocol
    dataset = config.dataset or stated.dataset
    size = stated.train_size if dataset == stated.dataset else SIZES[dataset]
    return {
        "dataset": dataset,
        "train_size": config.train_size or size,
        "optimizer": config.optimizer or stated.optimizer,
        "epochs": config.epochs or stated.epochs,
        "batch_size": config.batch_size or stated.batch_size,
        "engine": config.engine,
    }


def _schedule(paper: Paper, config: StudyConfig, scheduler: Scheduler) -> dict[str, Any]:
    defaults = paper.schedules[config.protocol][scheduler]
    own = {key: value for key, value in config.schedule_parameters.items() if key in defaults}
    return {"name": scheduler, **defaults, **own}


def _beyond(planned: Iterable[Trial]) -> Iterator[tuple[Trial, tuple[int, Decimal]]]:
    """The trials that come to a rate which training cannot hold, the first of several seeds; the step and the rate."""
    different: dict[Any, Trial] = {}
    for trial in planned:
        different.setdefault((trial.schedule, trial.learning_rate, trial.total_steps), trial)
    for trial in different.values():
        if found := rate_limits.first_beyond(trial):
            yield trial, found


def _is_the_papers_decay(config: StudyConfig, trial: Trial, rate: Decimal) -> bool:
    """Whether nothing but the paper's own decay, going on for long, brings the rate down."""
    falls = not isinstance(trial.schedule, OneCycle) and rate < trial.learning_rate
    return falls and not config.schedule_parameters.keys() & type(trial.schedule).model_fields.keys()


def _told_beyond(config: StudyConfig, trial: Trial, step: int, rate: Decimal) -> str:
    schedule, above = trial.schedule, rate > trial.learning_rate
    whose = "PyTorch's" if isinstance(schedule, OneCycle) else "the paper's"

    def made_by(key: str) -> str:
        value = getattr(schedule, key)
        if isinstance(value, tuple):
            text = ",".join(map(str, value[:SHOWN_STEPS])) + ",…" * (len(value) > SHOWN_STEPS)
        else:
            text = format_rate(value) if isinstance(value, float) else str(value)
        own = key in config.schedule_parameters
        return f"{_option(key)} {text}" if own else f"{whose} {_option(key)} {text}"

    match schedule:
        case OneCycle():
            keys = ("div_factor", "final_div_factor")[: 1 if step == 0 else 2]
            change, other = ("raise", "lower") if above else ("lower", "raise")
            remedy = f"{change} {' or '.join(map(_option, keys))}, or {other} the rate"
        case MultiStepDecay():
            keys = ("gamma", "milestones")
            remedy = f"{'lower' if above else 'raise'} --gamma, or give fewer --milestones"
        case _:
            keys = ("gamma", "decay_steps")
            remedy = "lower --gamma, or raise --decay-steps" if above else "raise --gamma or --decay-steps"
    makers = " with ".join(map(made_by, keys))
    bound = f"above the {MAX_RATE:g}" if above else f"below the {MIN_RATE:g}"
    return (
        f"scheduler {schedule.name} at {format_rate(trial.learning_rate)}: {makers} makes the rate "
        f"{rate_limits.as_text(rate)} at step {step} of {trial.total_steps}, {bound} that float32 weights can be "
        f"trained at: {remedy}"
    )


def _proposed_beyond(seed: int, rate: float) -> str:
    where = f"above the {MAX_RATE:g}" if rate > MAX_RATE else f"below the {MIN_RATE:g}"
    ramp = "--lr-end lower" if rate > MAX_RATE else "--lr-start higher"
    return (
        f"--learning-rates proposed makes the rate {rate:.3g} of what the range test of seed {seed} proposes, {where} "
        f"that float32 weights can be trained at: name rates instead, or have a range test with its {ramp}"
    )


def _once(name: str, values: tuple[Number, ...]) -> tuple[Number, ...]:
    doubles = [value for value in values if values.count(value) > 1]
    if doubles:
        double = doubles[0] if isinstance(doubles[0], int) else format_rate(doubles[0])
        raise UserError(f"{_option(name)}: {double} is given twice; give each value once")
    return values


def _valid(kind: type[Trial], **fields: Any) -> Trial:
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        field = next((part for part in reversed(first["loc"]) if isinstance(part, str)), None)
        if field is None:  # it is of several, and names them
            raise UserError(message) from error
        raise UserError(f"{_option(field)}: got {shown(first['input'])}, {message[:1].lower()}{message[1:]}") from error


def _option(field: str) -> str:
    """What a user types for it."""
    return "--" + field.replace("_", "-")


def by_scheduler(items: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Trials grouped by schedule, both in the order given."""
    groups: dict[str, list[Trial]] = {}
    for trial in items:
        groups.setdefault(trial.schedule.name, []).append(trial)
    return groups
