"""One command over several ranks: rank 0 runs it as ever, and the others train each trial that it names, with it.

Every rank is the same command line, started by `torchrun` or `colossalai run`. Rank 0 alone reads and writes the
store and the checkpoints. A trial that fails ends all ranks, as the others are in the middle of it.
"""

import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from reproduce.errors import UserError, shown
from reproduce.study.trial import Trial

# What a launcher sets for each rank. data_parallel.py has it too, but imports PyTorch, which a rank that is told to
# stop must not.
LAUNCHED_BY = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FOR_EVER = timedelta(days=365)  # a rank may wait for as long as rank 0 waits for others, or for the store


def size() -> int | None:
    """How many ranks a launcher started, this one among them; None where none did. UserError for what is no number."""
    if not launched():
        return None
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        if not os.environ[name].isdecimal():
            raise UserError(
                f"{name} is {shown(os.environ[name])}, expected a whole number, as torchrun sets it: start this with "
                "torchrun, or unset it"
            )
    return int(os.environ["WORLD_SIZE"])


def follows() -> bool:
    """Whether this is a rank that trains what rank 0 says, and says nothing itself."""
    rank = os.environ.get("RANK", "")
    return rank.isdecimal() and int(rank) > 0 and launched()


def launched() -> bool:
    """Whether a launcher started this process as one of its ranks."""
    return all(os.environ.get(name) for name in LAUNCHED_BY)


def own(message: str) -> str:
    """A message that is this rank's alone."""
    return f"rank {os.environ.get('RANK')}, on {platform.node()}: {message}"


def last_words(message: str) -> str | None:
    """What this rank says of the error that it ends with, None where another says it.

    Rank 0 speaks for its machine; on another, which may lack what that has, the first rank there does.
    """
    if not follows() or message.startswith(own("")):
        return message
    return own(message) if os.environ["LOCAL_RANK"] == "0" else None


def is_parting(error: RuntimeError) -> bool:
    """Whether PyTorch only tells that another rank has ended, which says itself why."""
    return bool(re.search("Connection (closed|reset) by peer", str(error)))


def check(trials: list[Trial]) -> None:
    """UserError where a batch has fewer images than there are ranks."""
    for trial in trials if size() else ():
        least = trial.images_per_epoch % trial.batch_size or trial.batch_size
        if least < size():
            last = ", the last of each epoch," if least < trial.batch_size else ""
            raise UserError(
                f"{trial.label}: a batch of {least}{last} cannot be shared by {size()} ranks: start fewer, or "
                "choose another --batch-size or --train-size"
            )


@contextmanager
def leading(numerics_environment: dict[str, str]) -> Iterator[None]:
    """Have the other ranks, if any, train what is announced in this block. Where it ends in an error, so must they.

    UserError where one of them would compute otherwise.
    """
    if not size():
        yield
        return
    _broadcast(numerics_environment)
    if complaints := _complaints():
        raise UserError(complaints[0])
    yield
    _broadcast(None)


def announce(trial: Trial) -> None:
    """Have the other ranks, if any, begin to train that trial."""
    if size():
        _broadcast(trial.model_dump_json())


def go_on() -> None:
    """Have the other ranks, if any, begin the next epoch: what rank 0 does between two may take as long as it likes."""
    if size():
        _broadcast()


def follow(home: Path, kernel: Path | None, numerics_environment: Callable[[], dict[str, str]]) -> None:
    """Train what rank 0 announces, until it has nothing more; nothing where a rank would compute otherwise."""
    from reproduce.data import datasets
    from reproduce.training import loop

    theirs, ours = _broadcast(), numerics_environment()
    apart = [f"{name} {ours[name]} instead of {theirs[name]}" for name in theirs if ours[name] != theirs[name]]
    if _complaints(own(f"this differs from rank 0: {', '.join(apart)}: every rank needs the same") if apart else None):
        return
    while announced := _broadcast():
        trial = Trial.model_validate_json(announced)
        for _ in loop.train(trial, datasets.open_dataset(trial.dataset, home), home, kernel=kernel):
            _broadcast()  # to wait where rank 0 may be away for longer than in the middle of an epoch


@cache
def _group() -> Any:
    """The group over which rank 0 talks to the others: all have met once it is there."""
    import torch

    from reproduce.training import loop

    loop.launch()
    return torch.distributed.new_group(backend="gloo", timeout=FOR_EVER)


def _broadcast(what: object = None) -> Any:
    """On every rank, what rank 0 gives."""
    group, given = _group(), [what]
    import torch

    torch.distributed.broadcast_object_list(given, group=group)
    return given[0]


def _complaints(ours: str | None = None) -> list[str]:
    """On every rank, what all of them complain of."""
    group = _group()
    import torch

    found: list[str | None] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(found, ours, group=group)
    return [complaint for complaint in found if complaint]
