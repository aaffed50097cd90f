"""The one exception for what a user can put right."""


class UserError(Exception):
    """What was wrong, what was expected and what to do, in one line; the command line exits with 2."""
