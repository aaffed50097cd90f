"""The range test of a study, as `study.yaml` has it: its ramp, what is reported of it, and the figures that show it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reproduce.study.claim import Text
from reproduce.study.fields import Count, Epochs, Frozen, Rate

Share = Annotated[float, Field(ge=0, le=1)]


class ReportedProposal(Frozen):
    """The rate the paper proposes and the step it reads it at."""

    proposed_learning_rate: Rate
    step: Count


class CurveFigure(Frozen):
    """A figure of the range test: its number in the paper, the words for ours, and the part of the ramp it shows.

    The number is None where the paper has no such figure.
    """

    number: Text | None = None
    title: Text
    alt: Text
    caption: Text
    shows: tuple[Share, Share]


class CurveFigures(Frozen):
    """The figures of the range test: the whole ramp, and its descent."""

    whole: CurveFigure
    zoomed: CurveFigure | None = None

    def by_key(self) -> dict[str, CurveFigure]:
        """Return those that there are, by `whole` and `zoomed`."""
        return {"whole": self.whole} | ({"zoomed": self.zoomed} if self.zoomed else {})


WHOLE_RAMP = CurveFigure(
    title="the range test",
    alt="Loss against step and rate, linear up to 2.5 and logarithmic above, with the proposed rates marked.",
    caption="The whole ramp. The loss axis is linear up to 2.5 and logarithmic above.",
    shows=(0, 1),
)


class RangeTest(Frozen):
    """The paper's ramp. `smoothing` is the weight of the past in the average that smooths the loss, in [0, 1).

    A study that says nothing of one has the first study's, which only the commands for range test and grid train.
    """

    figures: CurveFigures = CurveFigures(whole=WHOLE_RAMP)
    lr_start: Rate = 1e-6
    lr_end: Rate = 1.0
    epochs: Epochs = 5
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.98
    reported: ReportedProposal | None = None
