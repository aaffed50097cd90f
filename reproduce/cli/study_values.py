"""What a study says where an option is left out, for the option's help."""

from __future__ import annotations

import os

import click

from reproduce.cli.option_types import PAPER
from reproduce.errors import UserError
from reproduce.study.config import seed_spans
from reproduce.study.fields import format_rate
from reproduce.study.loading import load_paper
from reproduce.study.location import DEFAULT, VARIABLE
from reproduce.study.schema import Paper

SCHEDULE_PARAMETERS = ("decay_steps", "milestones", "gamma", "pct_start", "div_factor", "final_div_factor")
KEPT = "reproduce.study_values"


class StudyOption(click.Option):
    """An option whose default is the study's own value; its help says which that is."""

    def get_help_extra(self, ctx: click.Context):  # type: ignore[no-untyped-def]
        """Return what stands in brackets behind the help."""
        extra = super().get_help_extra(ctx)
        is_of_range_test = self.name == "epochs" and ctx.info_name == "range_test"
        if value := _values(ctx).get("range_test_epochs" if is_of_range_test else str(self.name)):
            extra["default"] = f"{PAPER}: {value}"
        return extra


def _values(ctx: click.Context) -> dict[str, str]:
    """Return the values of the study that is chosen, before the command or by the variable, once for a page of help."""
    if KEPT not in ctx.meta:
        named = ctx.find_root().obj or os.environ.get(VARIABLE) or DEFAULT
        try:
            ctx.meta[KEPT] = values(load_paper(str(named)))
        # A command on it says what is wrong; its help need not.
        except UserError:
            ctx.meta[KEPT] = {}
    found: dict[str, str] = ctx.meta[KEPT]
    return found


def values(paper: Paper) -> dict[str, str]:
    """Return what the study has for each option, by the option's name."""
    protocol, ramp = paper.protocol, paper.range_test
    return {
        "dataset": protocol.dataset,
        "optimizer": protocol.optimizer,
        "batch_size": str(protocol.batch_size),
        "seeds": seed_spans(protocol.seeds),
        "train_size": str(protocol.train_size),
        "epochs": ",".join(map(str, paper.lengths())),
        "range_test_epochs": str(ramp.epochs),
        "protocol": paper.protocols[0],
        "learning_rates": "; ".join(
            f"{sweep.scheduler} {','.join(map(format_rate, sweep.learning_rates))}" for sweep in paper.sweeps
        ),
        "lr_start": format_rate(ramp.lr_start),
        "lr_end": format_rate(ramp.lr_end),
        "smoothing": str(ramp.smoothing),
        **{name: _of_schedules(paper, name) for name in SCHEDULE_PARAMETERS},
    }


def _of_schedules(paper: Paper, name: str) -> str:
    """Return a parameter of the schedules that have it: once where it is one, else by variant and schedule."""
    stated = {
        variant: {scheduler: _text(own[name]) for scheduler, own in schedules.items()
                  if name in own and "code" not in own}
        for variant, schedules in paper.schedules.items()
    }  # fmt: skip
    different = {text for own in stated.values() for text in own.values()}
    if len(different) < 2:
        return "".join(different)
    by_variant = {
        variant: ", ".join(f"{scheduler} {text}" for scheduler, text in own.items()) for variant, own in stated.items()
    }
    if len(set(by_variant.values())) == 1:
        return next(iter(by_variant.values()))
    return "; ".join(f"{variant} {texts}" for variant, texts in by_variant.items())


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
