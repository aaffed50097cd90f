"""The errors that end a command in one line instead of a traceback, and how a wrong value is shown in it."""

# Characters of a wrong value.
SHOWN = 100


def shown(value: object) -> str:
    """Return the value as Python writes it, cut where that is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class UserError(Exception):
    """What was wrong, what was expected and what to do; the command line exits with 2."""


class TrialsFailedError(Exception):
    """Some trials failed. Each was named when it did; the command line exits with 1."""


class TrackingError(Exception):
    """Something measured could not be recorded. The checkpoints have it; the command line exits with 1."""


class StoreAwayError(TrackingError):
    """The tracking store did not answer within the retry timeout."""


class ClusterLostError(Exception):
    """The cluster that trials ran on is gone. What is done is recorded; the command line exits with 1."""
