"""What is to be run: the paper and a user's wishes, expanded into trials. Knows neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from reproduce.errors import UserError, shown
from reproduce.paper import Model, Paper, Protocol
from reproduce.trial import (
    SCHEDULERS,
    SIZES,
    Count,
    Dataset,
    Engine,
    Epochs,
    Frozen,
    MultiStepDecay,
    Optimizer,
    Ramp,
    Rate,
    Seed,
    StepDecay,
    Trial,
    format_rate,
)

# What `main` can be asked for; the other wishes are of its parts.
OF_MAIN = ("dataset", "optimizer", "epochs", "batch_size", "seeds", "train_size", "engine", "protocol",
           "range_test_epochs")  # fmt: skip
MAX_TRIALS = 10_000  # days of work, and as many runs in one list of MLflow's


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
    """The trials of a sweep: schedules × rates × seeds, in the paper's order. UserError where a wish cannot be met."""
    common = _common(paper, wishes)
    seeds = _once("seeds", wishes.seeds or paper.protocol.seeds)
    result = []
    for scheduler in wishes.schedulers:
        schedule = _schedule(paper, wishes, scheduler)
        rates = wishes.learning_rates or paper.sweep(scheduler).learning_rates
        of_seed = wishes.rates_by_seed or dict.fromkeys(seeds, _once("learning_rates", rates))
        if without := set(seeds) - of_seed.keys():
            raise UserError(f"--seeds: there are no rates for seed {min(without)}")
        asked = sum(map(len, of_seed.values()))
        if len(result) + asked > MAX_TRIALS:
            raise UserError(
                f"--seeds and --learning-rates make {asked} trials of every schedule, in all more than {MAX_TRIALS}: "
                "give fewer of either"
            )
        for position in range(max(map(len, of_seed.values()))):
            for seed in (seed for seed in seeds if position < len(of_seed[seed])):
                rate = of_seed[seed][position]
                result.append(_valid(Trial, **common, schedule=schedule, learning_rate=rate, seed=seed))
    _refuse_unused(wishes, result)
    return result


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


def grid(paper: Paper, wishes: Wishes) -> list[Trial]:
    """Every rate of the grid, or of the wishes where they name some, without a schedule, one trial a seed."""
    rates = wishes.learning_rates or paper.grid.learning_rates
    return trials(paper, wishes.model_copy(update={"schedulers": ("none",), "learning_rates": rates}))


def beside_grid(paper: Paper, wishes: Wishes, proposed: Mapping[int, Iterable[float]]) -> list[Trial]:
    """The trials at proposed rates, by seed, that are not in the grid already."""
    rates = set(wishes.learning_rates or paper.grid.learning_rates)
    own = {seed: tuple(sorted(set(of_seed) - rates)) for seed, of_seed in proposed.items()}
    if not any(own.values()):
        return []
    seeds = tuple(own)
    return trials(paper, wishes.model_copy(update={"schedulers": ("none",), "seeds": seeds, "rates_by_seed": own}))


def idle(wishes: Wishes, planned: Iterable[Trial]) -> list[str]:
    """What is asked for and comes after the end of the planned trials, one phrase each.

    What the paper's own schedules would do after the end of a shorter run is not asked for, and not told.
    """
    found = {}
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
    return [f"{what} comes after the last step, {last}, and has no effect" for what, last in found.items()]


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
    if wishes.learning_rates or wishes.rates_by_seed:
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
    if wishes.schedulers != SCHEDULERS:
        found["scheduler"] = wishes.schedulers
    if wishes.rates_by_seed:
        found["learning_rates"] = "proposed"
    return [
        f"{_option(key)} {','.join(map(str, value)) if isinstance(value, (tuple, list)) else value}"
        for key, value in (found | own).items()
    ]


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


def _refuse_unused(wishes: Wishes, result: list[Trial]) -> None:
    for key in wishes.schedule_parameters:
        if not any(key in type(trial.schedule).model_fields for trial in result):
            raise UserError(f"{_option(key)} has no effect on scheduler {', '.join(wishes.schedulers)}: leave it out")


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
