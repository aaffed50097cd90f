"""Rates that training cannot hold, and what planned trials do without effect: reported before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from reproduce.errors import UserError
from reproduce.study import rate_limits
from reproduce.study.config import StudyConfig, option_name
from reproduce.study.fields import MAX_RATE, MIN_RATE, format_rate
from reproduce.study.schedules import MultiStepDecay, OneCycle, Ramp, Schedule, StepDecay
from reproduce.study.trial import Trial

# A message shows this many of a list of milestones.
SHOWN_STEPS = 5


def check_rates(config: StudyConfig, planned: Iterable[Trial]) -> None:
    """Raise UserError where a trial would come to a rate that training cannot hold. It names the cause and the step.

    Where the paper's own decay comes to one, in a run much longer than the paper's, `list_without_effect` says so
    instead.
    """
    for trial, (step, rate) in _trials_beyond(planned):
        if not _is_decay_of_the_paper(config, trial, rate):
            raise UserError(_describe_beyond(config, trial, step, rate))


def list_without_effect(config: StudyConfig, planned: Iterable[Trial]) -> list[str]:
    """List what has no effect in the planned trials, one phrase each: what comes after their end, and vanishing rates.

    What the paper's own schedules would do after the end of a shorter run was not requested, and is left out.
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
    lines = [f"{what} comes after the last step, {last}, and has no effect" for what, last in found.items()]
    for trial, (step, rate) in _trials_beyond(planned):
        if _is_decay_of_the_paper(config, trial, rate):
            lines.append(
                f"scheduler {trial.schedule.name} at {format_rate(trial.learning_rate)}: the paper's decay brings the "
                f"rate below {MIN_RATE:g} at step {step} of {trial.total_steps}, and no weight changes after that"
            )
    return lines


def _trials_beyond(planned: Iterable[Trial]) -> Iterator[tuple[Trial, tuple[int, Decimal]]]:
    """Yield each trial that comes to a rate which training cannot hold, one of several seeds, with step and rate."""
    different: dict[tuple[Schedule, float, int], Trial] = {}
    for trial in planned:
        different.setdefault((trial.schedule, trial.learning_rate, trial.total_steps), trial)
    for trial in different.values():
        if found := rate_limits.first_beyond(trial):
            yield trial, found


def _is_decay_of_the_paper(config: StudyConfig, trial: Trial, rate: Decimal) -> bool:
    """Return whether only the paper's own decay, in a long run, lowers the rate that far."""
    falls = not isinstance(trial.schedule, OneCycle) and rate < trial.learning_rate
    return falls and not config.schedule_parameters.keys() & type(trial.schedule).model_fields.keys()


def _describe_beyond(config: StudyConfig, trial: Trial, step: int, rate: Decimal) -> str:
    schedule, above = trial.schedule, rate > trial.learning_rate
    whose = "PyTorch's" if isinstance(schedule, OneCycle) else "the paper's"

    def made_by(key: str) -> str:
        value = getattr(schedule, key)
        if isinstance(value, tuple):
            text = ",".join(map(str, value[:SHOWN_STEPS])) + ",…" * (len(value) > SHOWN_STEPS)
        else:
            text = format_rate(value) if isinstance(value, float) else str(value)
        own = key in config.schedule_parameters
        return f"{option_name(key)} {text}" if own else f"{whose} {option_name(key)} {text}"

    match schedule:
        case OneCycle():
            keys = ("div_factor", "final_div_factor")[: 1 if step == 0 else 2]
            change, other = ("raise", "lower") if above else ("lower", "raise")
            remedy = f"{change} {' or '.join(map(option_name, keys))}, or {other} the rate"
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
