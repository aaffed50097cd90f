"""The errors that end a command in one line instead of a traceback, and how a wrong value is shown in it."""

# Characters of a wrong value.
SHOWN = 100


def shown(value: object) -> str:
    """Return the value as Python writes it, cut where that is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


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
