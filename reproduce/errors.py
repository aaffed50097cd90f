"""The errors that end a command in one line instead of a traceback, and how what was got is shown in it."""

SHOWN = 100  # characters of what was wrong


def shown(value: object) -> str:
    """The value as Python writes it, in part where that is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class UserError(Exception):
    """What was wrong, what was expected and what to do; the command line exits with 2."""


class TrialsFailedError(Exception):
    """Some trials failed, and were named as they did; the command line exits with 1."""


class TrackingError(Exception):
    """Something measured could not be recorded; its checkpoints hold it. The command line exits with 1."""


class StoreAwayError(TrackingError):
    """The tracking store did not answer for as long as it was waited for."""


class ClusterLostError(Exception):
    """The cluster that trials ran on is gone; what is done is recorded. The command line exits with 1."""
