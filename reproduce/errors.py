"""The errors that end a command in one line, not a traceback, and how a line shows a wrong value and a near one."""

import difflib
from collections.abc import Iterable

# Characters of a wrong value.
SHOWN = 100
# How alike a word and a suggestion are at least, from 0 to 1: `cosine` is none of `none`'s, with 0.6.
NEAR = 0.65


def shown(value: object) -> str:
    """Return the value as Python writes it, cut where that is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def nearest_word(text: str, known: Iterable[str]) -> str | None:
    """Return the known word that is nearest to a text; None if none is near."""
    near = difflib.get_close_matches(text[:100], list(known), n=1, cutoff=NEAR)
    return near[0] if near else None


def nearest(text: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the nearest known word; empty if no word is near."""
    near = nearest_word(text, known)
    return f", did you mean {near}?" if near else ""


class UserError(Exception):
    """A user's error: what was wrong, what was expected and what to do; the command line exits with 2."""


class TrialsFailedError(Exception):
    """The failure of some trials, each named when it failed; the command line exits with 1."""


class TrackingError(Exception):
    """A failure to record what was measured. The checkpoints have it; the command line exits with 1."""


class StoreAwayError(TrackingError):
    """The tracking store's silence for longer than the retry timeout."""


class ClusterLostError(Exception):
    """The loss of the cluster that trials ran on. What is done is recorded; the command line exits with 1."""
