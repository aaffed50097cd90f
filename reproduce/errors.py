"""The errors that end a command in one line instead of a traceback."""


class UserError(Exception):
    """What was wrong, what was expected and what to do; the command line exits with 2."""


class TrialsFailedError(Exception):
    """Some trials failed, and were named as they did; the command line exits with 1."""


class TrackingError(Exception):
    """Something measured could not be recorded; its checkpoints hold it. The command line exits with 1."""


class StoreAwayError(TrackingError):
    """The tracking store did not answer for as long as it was waited for."""
