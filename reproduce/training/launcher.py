"""What a launcher of several ranks tells each of them: its number, and how many there are. Needs no PyTorch.

`torchrun` or `colossalai run` starts the same command line once a rank. Rank 0 is the main process: it alone records,
and speaks to the user.
"""

import os
import platform

from reproduce.errors import UserError, shown

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
VARIABLES = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")


def is_launched() -> bool:
    """Return whether a launcher started this process as one of its ranks, even if as the only one."""
    return all(os.environ.get(name) for name in VARIABLES)


def world_size() -> int | None:
    """Return how many ranks a launcher started; None where none did. UserError where a variable is no number."""
    if not is_launched():
        return None
    for name in NUMBERS:
        if not os.environ[name].isdecimal():
            raise UserError(
                f"{name} is {shown(os.environ[name])}, expected a whole number, as torchrun sets it: start this with "
                "torchrun, or unset it"
            )
    return int(os.environ["WORLD_SIZE"])


def is_main_process() -> bool:
    """Return whether this process is rank 0, or the only one."""
    rank = os.environ.get("RANK", "")
    return not (is_launched() and rank.isdecimal() and int(rank) > 0)


def with_rank(message: str) -> str:
    """Return the message with the rank and the machine that it is about."""
    return f"rank {os.environ.get('RANK')}, on {platform.node()}: {message}"


def error_message(message: str) -> str | None:
    """Return what this rank prints of the error that it ends with; None where another rank prints it.

    Rank 0 speaks for its machine. Another machine may lack what that one has, so its first rank speaks too.
    """
    if is_main_process() or message.startswith(with_rank("")):
        return message
    return with_rank(message) if os.environ["LOCAL_RANK"] == "0" else None
