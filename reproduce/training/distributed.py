"""One command over several ranks: the main process runs it and broadcasts each trial, which all ranks then train.

The main process alone reads and writes the store and the checkpoints. A trial that fails ends all ranks, as the others
are in the middle of it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from reproduce.errors import UserError
from reproduce.study.own_code import OwnCode
from reproduce.study.trial import Trial
from reproduce.training.launcher import with_rank, world_size

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# The main process may wait for other commands, or for the store, and the other ranks with it.
NO_TIMEOUT = timedelta(days=365)


def is_peer_lost(error: RuntimeError) -> bool:
    """Return whether PyTorch only says that another rank has ended, which says itself why."""
    return bool(re.search("Connection (closed|reset) by peer", str(error)))


def check_batches(trials: list[Trial]) -> None:
    """Raise UserError where a batch has fewer images than there are ranks."""
    ranks = world_size() or 1
    for trial in trials:
        smallest = trial.images_per_epoch % trial.batch_size or trial.batch_size
        if smallest < ranks:
            last = ", the last of each epoch," if smallest < trial.batch_size else ""
            raise UserError(
                f"{trial.label}: a batch of {smallest}{last} cannot be split over {ranks} ranks: start fewer, or "
                "choose another --batch-size or --train-size"
            )


def own_python(code: OwnCode) -> dict[str, str]:
    """Return what of a study's own Python has to be the same on all ranks, as the start of each file's hash."""
    return {file: code.sha256(f"{file}:")[:12] for file, _ in code.files}


@contextmanager
def main_process(numerics_environment: dict[str, str], code: OwnCode) -> Iterator[None]:
    """Have the other ranks, if any, train each trial that is broadcast in this block.

    UserError where one of them would compute other numbers. After an error in the block the launcher ends the others.
    """
    if not world_size():
        yield
        return
    _broadcast(numerics_environment | own_python(code))
    if complaints := _gather_complaints():
        raise UserError(complaints[0])
    yield
    _broadcast(None)


def broadcast_trial(trial: Trial) -> None:
    """Have the other ranks, if any, begin to train that trial."""
    if world_size():
        _broadcast(trial.model_dump_json())


def broadcast_next_epoch() -> None:
    """Have the other ranks, if any, begin the next epoch: between two, the main process may take any time."""
    if world_size():
        _broadcast(None)


def train_broadcast_trials(
    home: Path, kernel: Path | None, code: OwnCode, numerics_environment: Callable[[], dict[str, str]]
) -> None:
    """Train each trial that the main process broadcasts; none where one of the ranks would compute other numbers."""
    from reproduce.data import study_data
    from reproduce.training import loop

    expected, actual = _broadcast(dict[str, str]()), numerics_environment() | own_python(code)
    differing = [
        f"{name} {actual.get(name, 'missing')} instead of {expected[name]}"
        for name in expected
        if actual.get(name) != expected[name]
    ]
    complaint = f"this differs from rank 0: {', '.join(differing)}: every rank needs the same"
    if _gather_complaints(with_rank(complaint) if differing else None):
        return
    while text := _broadcast(""):
        trial = Trial.model_validate_json(text)
        data = study_data.open_for(trial, home)
        for _ in loop.train(trial, data, home, kernel=kernel, code=code):
            _broadcast(None)


@cache
def _group() -> "torch.distributed.ProcessGroup":
    """Return the group over which the main process talks to the others; it waits until all ranks have joined."""
    import torch

    from reproduce.training import torch_setup

    torch_setup.launch()
    group: torch.distributed.ProcessGroup = torch.distributed.new_group(backend="gloo", timeout=NO_TIMEOUT)
    return group


def _broadcast(value: T) -> T:
    """Return on every rank the value of the main process."""
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values, group=_group())
    return values[0]


def _gather_complaints(complaint: str | None = None) -> list[str]:
    """Return on every rank the complaints of all ranks."""
    import torch

    complaints: list[str | None] = [None] * torch.distributed.get_world_size(_group())
    torch.distributed.all_gather_object(complaints, complaint, group=_group())
    return [found for found in complaints if found]
