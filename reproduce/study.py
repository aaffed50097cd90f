"""What is to be run: the paper and a user's wishes, expanded into trials. Knows neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from reproduce import extremes
from reproduce.errors import UserError, shown
from reproduce.paper import Model, Paper, Protocol
from reproduce.trial import (
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
    Seed,
    StepDecay,
    Trial,
    can_be_held,
    format_rate,
)

# What `main` can be asked for; the other wishes are of its parts.
OF_MAIN = ("dataset", "optimizer", "epochs", "batch_size", "seeds", "train_size", "engine", "protocol",
           "range_test_epochs")  # fmt: skip
MAX_TRIALS = 10_000  # days of work, and as many runs in one list of MLflow's
SHOWN_STEPS = 5  # of a list of milestones, in a message


class Wishes(Frozen):
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
    schedulers: Annotated[tuple[Literal[SCHEDULERS], ...], Field(min_length=1)] = SCHEDULERS
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = None
    rates_by_seed: dict[Seed, tuple[Rate, ...]] | None = None
    schedule_parameters: dict[str, Any] = Field(default_factory=dict)
    lr_start: Rate | None = None
    lr_end: Rate | None = None
    range_test_epochs: Epochs | None = None
    validation_size: Count | None = None
    validation_interval: Count | None = None
    stop_factor: Rate | None = None


def trials(paper: Paper, wishes: Wishes) -> list[Trial]:
    """The trials of a sweep: schedules × rates × seeds, in the paper's order. UserError where there can be none such.

    It derives, and so refuses nothing that was fit to be typed elsewhere: what a user asks to have trained goes through
    `asked` and `check_rates` besides.
    """
    common = _common(paper, wishes)
    seeds = _once("seeds", wishes.seeds or paper.protocol.seeds)
    result = []
    for scheduler in wishes.schedulers:
        schedule = _schedule(paper, wishes, scheduler)
        rates = wishes.learning_rates or paper.sweep(scheduler).learning_rates
        of_seed = wishes.rates_by_seed or dict.fromkeys(seeds, _once("learning_rates", rates))
        if without := set(seeds) - of_seed.keys():
            raise UserError(f"--seeds: there are no rates for seed {min(without)}")
        for position in range(max(map(len, of_seed.values()))):
            for seed in (seed for seed in seeds if position < len(of_seed[seed])):
                rate = of_seed[seed][position]
                if not can_be_held(rate):
                    raise UserError(_proposed_beyond(seed, rate))
                result.append(_valid(Trial, **common, schedule=schedule, learning_rate=rate, seed=seed))
    return result


def asked(paper: Paper, wishes: Wishes) -> list[Trial]:
    """The trials of a sweep that a user asks to have trained. UserError for too many, and what has no effect on any."""
    refuse_unused(paper, wishes)
    refuse_too_many(paper, wishes)
    return trials(paper, wishes)


def refuse_too_many(paper: Paper, wishes: Wishes, of_all: Callable[[list[int]], int] = sum) -> None:
    """UserError for more trials than one command trains; `of_all` is max where a command may have had one schedule."""
    seeds = len(wishes.seeds or paper.protocol.seeds)
    counts = [seeds * len(wishes.learning_rates or paper.sweep(name).learning_rates) for name in wishes.schedulers]
    if wishes.rates_by_seed:
        counts = [sum(map(len, wishes.rates_by_seed.values()))] * len(wishes.schedulers)
    if of_all(counts) > MAX_TRIALS:
        raise UserError(
            f"--seeds and --learning-rates make {max(counts)} trials of every schedule, in all more than {MAX_TRIALS}: "
            "give fewer of either"
        )


def refuse_unused(paper: Paper, wishes: Wishes) -> None:
    """UserError for a schedule's parameter of which none of the wanted schedules knows."""
    known = {key for scheduler in wishes.schedulers for key in paper.schedules[wishes.protocol][scheduler]}
    for key in wishes.schedule_parameters:
        if key not in known:
            raise UserError(f"{_option(key)} has no effect on scheduler {', '.join(wishes.schedulers)}: leave it out")


def recordable(paper: Paper, wishes: Wishes) -> Wishes:
    """The wishes without OneCycle where all schedules are wanted and the trials are too short for it to rise.

    It can then not have been run, but what can be as short is reported on like any other: a range test, a grid, the
    other schedules one by one.
    """
    others = tuple(name for name in wishes.schedulers if name != "onecycle")
    if "onecycle" not in wishes.schedulers or not others or "pct_start" in wishes.schedule_parameters:
        return wishes
    trials(paper, wishes.model_copy(update={"schedulers": others}))  # what is wrong with all of them is told
    try:
        trials(paper, wishes.model_copy(update={"schedulers": ("onecycle",)}))
    except UserError:
        return wishes.model_copy(update={"schedulers": others})
    return wishes


def chosen(paper: Paper, typed: Wishes, recorded: Wishes) -> list[Trial]:
    """The trials that typed options choose, as they are recorded: models alone where they speak of models.

    Else those of the range test and the grid too, whose options are the same.
    """
    models = trials(paper, recorded)
    is_of_grid = recorded.schedulers == ("none",) != typed.schedulers
    said_of_models = typed.learning_rates or typed.rates_by_seed or typed.schedule_parameters
    if len(typed.schedulers) == 1 or (said_of_models and not is_of_grid):
        return models
    return models + range_tests(paper, recorded) + grid(paper, recorded)


def refuse_what_never_ran(paper: Paper, wishes: Wishes) -> None:
    """UserError for options that no command trains with, before what they choose is looked for."""
    refuse_unused(paper, wishes)
    refuse_too_many(paper, wishes, of_all=max)
    trials(paper, recordable(paper, wishes)), range_tests(paper, wishes)


def check_rates(wishes: Wishes, planned: Iterable[Trial]) -> None:
    """UserError where a trial would come to a rate that training cannot hold, naming what makes it and at which step.

    Where the paper's own decay comes to one, in a run much longer than the paper's, `idle` tells it instead.
    """
    for trial, (step, rate) in _beyond(planned):
        if not _is_the_papers_decay(wishes, trial, rate):
            raise UserError(_told_beyond(wishes, trial, step, rate))


def range_tests(paper: Paper, wishes: Wishes) -> list[Trial]:
    """One range test a seed. UserError where a wish cannot be met."""
    common = _common(paper, wishes) | {"epochs": wishes.range_test_epochs or paper.range_test.epochs}
    ramp = {"name": "ramp", "lr_end": wishes.lr_end or paper.range_test.lr_end}
    for key in ("validation_size", "validation_interval", "stop_factor"):  # the paper had none of them
        if (value := getattr(wishes, key)) is not None:
            ramp[key] = value
    if wishes.validation_interval and not wishes.validation_size:
        raise UserError("--validation-interval has no effect without --validation-size: give both, or neither")
    rate = wishes.lr_start or paper.range_test.lr_start
    seeds = _once("seeds", wishes.seeds or paper.protocol.seeds)
    return [_valid(Trial, **common, schedule=ramp, learning_rate=rate, seed=seed) for seed in seeds]


def of_grid(paper: Paper, wishes: Wishes) -> Wishes:
    """Every rate of the grid, or of the wishes where they name some, without a schedule."""
    rates = wishes.learning_rates or paper.grid.learning_rates
    return wishes.model_copy(update={"schedulers": ("none",), "learning_rates": rates})


def may_be_of_grid(paper: Paper, wishes: Wishes) -> bool:
    """Whether these wishes can be a grid's, and are not of the paper's own study, which has 15 models beside it."""
    said_of_schedules = len(wishes.schedulers) == 1 or wishes.schedule_parameters or wishes.rates_by_seed
    return not said_of_schedules and wishes.protocol == "as-drawn" and bool(departures(paper, wishes))


def grid(paper: Paper, wishes: Wishes) -> list[Trial]:
    """The trials of the grid, one a rate and a seed."""
    return trials(paper, of_grid(paper, wishes))


def beside_grid(paper: Paper, wishes: Wishes, proposed: Mapping[int, Iterable[float]]) -> list[Trial]:
    """The trials at proposed rates, by seed, that are not in the grid already and that weights can be trained at."""
    rates = set(wishes.learning_rates or paper.grid.learning_rates)
    own = {seed: tuple(sorted(filter(can_be_held, set(of_seed) - rates))) for seed, of_seed in proposed.items()}
    if not any(own.values()):
        return []
    seeds = tuple(own)
    return trials(paper, wishes.model_copy(update={"schedulers": ("none",), "seeds": seeds, "rates_by_seed": own}))


def idle(wishes: Wishes, planned: Iterable[Trial]) -> list[str]:
    """What the planned trials do to no effect, one phrase each: what comes after their end, and rates that are nothing.

    What the paper's own schedules would do after the end of a shorter run is not asked for, and not told.
    """
    planned, found = list(planned), {}
    for trial in planned:
        schedule, last = trial.schedule, trial.total_steps - 1
        if isinstance(schedule, MultiStepDecay) and "milestones" in wishes.schedule_parameters:
            late = [step for step in schedule.milestones if step > last]
            if late:
                found[f"--milestones {','.join(map(str, late))}"] = last
        own_decay = isinstance(schedule, StepDecay) and "decay_steps" in wishes.schedule_parameters
        if own_decay and schedule.decay_steps > last:
            found[f"--decay-steps {schedule.decay_steps}"] = last
        if isinstance(schedule, Ramp) and wishes.validation_interval and wishes.validation_interval > last:
            found[f"--validation-interval {wishes.validation_interval}"] = last
    told = [f"{what} comes after the last step, {last}, and has no effect" for what, last in found.items()]
    for trial, (step, rate) in _beyond(planned):
        if _is_the_papers_decay(wishes, trial, rate):
            told.append(
                f"scheduler {trial.schedule.name} at {format_rate(trial.learning_rate)}: the paper's decay brings the "
                f"rate below {MIN_RATE:g} at step {step} of {trial.total_steps}, and no weight moves from there on"
            )
    return told


def of_model(paper: Paper, wishes: Wishes, model: Model, rate: float) -> Trial:
    """The trial of that model at that rate and the wishes' first seed; beside it only their engine counts."""
    own = Wishes(
        seeds=wishes.seeds,
        engine=wishes.engine,
        optimizer=model.optimizer,
        protocol=model.protocol,
        schedulers=(model.scheduler,),
        learning_rates=(rate,),
    )
    return trials(paper, own)[0]


def as_printed(rate: float) -> float:
    """The rate in three significant digits: what a proposal is printed as is what is trained at."""
    return float(f"{rate:.2e}")


def departures(paper: Paper, wishes: Wishes) -> list[str]:
    """In what a study is not the paper's, one phrase each; empty when it is the paper's own protocol as drawn."""
    wanted, stated = _common(paper, wishes), _common(paper, Wishes())
    names = {"train_size": "training images", "batch_size": "images a batch"}
    if wanted["epochs"] == 1:
        names["epochs"] = "epoch"
    found = [
        f"{wanted[key]} {names.get(key, key)} instead of {stated[key]}"
        for key in stated
        if key != "engine" and wanted[key] != stated[key]
    ]
    if wishes.learning_rates == paper.grid.learning_rates:
        found.append("the rates of the grid")
    elif wishes.learning_rates or wishes.rates_by_seed:
        found.append("learning rates of your own")
    if wishes.schedule_parameters:
        found.append("schedule parameters of your own")
    if wishes.protocol != "as-drawn":
        found.append(f"schedules {wishes.protocol.replace('-', ' ')} instead of as drawn")
    ramp, default_ramp = range_tests(paper, wishes)[0], range_tests(paper, Wishes())[0]
    if (ramp.schedule, ramp.learning_rate, ramp.epochs) != (
        default_ramp.schedule,
        default_ramp.learning_rate,
        default_ramp.epochs,
    ):
        found.append("a range test of your own")
    return found


def as_options(paper: Paper, wishes: Wishes) -> list[str]:
    """What a user types for these wishes, as `--epochs 1`, without the engine and without what is the paper's."""
    given = wishes.model_dump(exclude_defaults=True, exclude={"engine", "schedulers", "rates_by_seed"})
    own = given.pop("schedule_parameters", {})
    found = {key: value for key, value in given.items() if value != getattr(paper.protocol, key, None)}
    if len(wishes.schedulers) == 1:
        found["scheduler"] = wishes.schedulers
    if wishes.rates_by_seed:
        found["learning_rates"] = "proposed"
    if "seeds" in found:
        found["seeds"] = as_spans(wishes.seeds)
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


def command(name: str, paper: Paper, wishes: Wishes, smoothing: float) -> str:
    """What a user types to have `report`, `verify` or `main` take exactly these wishes."""
    options = as_options(paper, wishes) + ["--engine torch"] * (wishes.engine == "torch")  # fused is what auto takes
    own_smoothing = [f"--smoothing {smoothing}"] if smoothing != paper.range_test.smoothing else []
    return " ".join(["reproduce", name, *options, *own_smoothing])


def is_trained_by_main(paper: Paper, wishes: Wishes, smoothing: float) -> bool:
    """Whether `main` can be asked for exactly these wishes, and takes them."""
    if not is_of_main(wishes) or smoothing != paper.range_test.smoothing:
        return False
    try:
        check_rates(wishes, asked(paper, wishes) + range_tests(paper, wishes))
    except UserError:
        return False
    return True


def is_of_main(wishes: Wishes) -> bool:
    """Whether `main` can be asked for all of them."""
    return wishes == Wishes(**{key: getattr(wishes, key) for key in OF_MAIN})


def _common(paper: Paper, wishes: Wishes) -> dict[str, Any]:
    stated = paper.protocol
    dataset = wishes.dataset or stated.dataset
    size = stated.train_size if dataset == stated.dataset else SIZES[dataset]
    return {
        "dataset": dataset,
        "train_size": wishes.train_size or size,
        "optimizer": wishes.optimizer or stated.optimizer,
        "epochs": wishes.epochs or stated.epochs,
        "batch_size": wishes.batch_size or stated.batch_size,
        "engine": wishes.engine,
    }


def _schedule(paper: Paper, wishes: Wishes, scheduler: str) -> dict[str, Any]:
    defaults = paper.schedules[wishes.protocol][scheduler]
    own = {key: value for key, value in wishes.schedule_parameters.items() if key in defaults}
    return {"name": scheduler, **defaults, **own}


def _beyond(planned: Iterable[Trial]) -> Iterator[tuple[Trial, tuple[int, Decimal]]]:
    """The trials that come to a rate which training cannot hold, the first of several seeds; the step and the rate."""
    different: dict[Any, Trial] = {}
    for trial in planned:
        different.setdefault((trial.schedule, trial.learning_rate, trial.total_steps), trial)
    for trial in different.values():
        if found := extremes.first_beyond(trial):
            yield trial, found


def _is_the_papers_decay(wishes: Wishes, trial: Trial, rate: Decimal) -> bool:
    """Whether nothing but the paper's own decay, going on for long, brings the rate down."""
    falls = not isinstance(trial.schedule, OneCycle) and rate < trial.learning_rate
    return falls and not wishes.schedule_parameters.keys() & type(trial.schedule).model_fields.keys()


def _told_beyond(wishes: Wishes, trial: Trial, step: int, rate: Decimal) -> str:
    schedule, above = trial.schedule, rate > trial.learning_rate
    whose = "PyTorch's" if isinstance(schedule, OneCycle) else "the paper's"

    def made_by(key: str) -> str:
        value = getattr(schedule, key)
        if isinstance(value, tuple):
            text = ",".join(map(str, value[:SHOWN_STEPS])) + ",…" * (len(value) > SHOWN_STEPS)
        else:
            text = format_rate(value) if isinstance(value, float) else str(value)
        own = key in wishes.schedule_parameters
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
        f"{extremes.as_text(rate)} at step {step} of {trial.total_steps}, {bound} that float32 weights can be trained "
        f"at: {remedy}"
    )


def _proposed_beyond(seed: int, rate: float) -> str:
    where = f"above the {MAX_RATE:g}" if rate > MAX_RATE else f"below the {MIN_RATE:g}"
    ramp = "--lr-end lower" if rate > MAX_RATE else "--lr-start higher"
    return (
        f"--learning-rates proposed makes the rate {rate:.3g} of what the range test of seed {seed} proposes, {where} "
        f"that float32 weights can be trained at: name rates instead, or have a range test with its {ramp}"
    )


def _once(name: str, values: tuple) -> tuple:
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
