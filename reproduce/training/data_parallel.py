"""The ranks that train a trial together, each on its part of every batch, to the numbers of a single process.

A process that no launcher started is the only rank. Every rank steps the same network by the same gradients, so that
only the order in which floats are summed differs.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reproduce.training.epoch_record import EpochRecord


class Stateful(Protocol):
    """A network, an optimizer or a schedule."""

    def state_dict(self) -> dict[str, object]:
        """Return all that it needs to resume."""

    def load_state_dict(self, state_dict: dict[str, object], /) -> object:
        """Take such a state over."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among the `world_size` of torch's process group; `rank` counts from 0."""

    rank: int
    world_size: int

    @classmethod
    def current(cls) -> "ProcessGroup":
        """Return the group that Colossal-AI has made."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_main_process(self) -> bool:
        """Whether this is the rank that reads and writes checkpoints."""
        return self.rank == 0

    def local_batch(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's part of a batch's indices (n,), in their order; the parts' sizes differ by at most one."""
        return np.array_split(batch, self.world_size)[self.rank]

    def scale_loss(self, loss: torch.Tensor, local_size: int, batch_size: int) -> torch.Tensor:
        """Scale the mean loss over this rank's images so that the mean over the ranks is that over the batch.

        The plugin takes the plain mean of the ranks' gradients, though their parts may differ by an image.
        """
        return loss if self.world_size == 1 else loss * (self.world_size * local_size / batch_size)

    def all_reduce_mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a value over the ranks, the same bits on each."""
        if self.world_size == 1:
            return value
        torch.distributed.all_reduce(value := value.clone())
        return value / self.world_size

    def broadcast_state(self, history: list[EpochRecord], *parts: Stateful) -> list[EpochRecord]:
        """Load rank 0's states into the parts of every rank, and return its history.

        Only rank 0 reads checkpoints, so that the other ranks need not see its disk.
        """
        if self.world_size == 1:
            return history
        sent = [(history, [part.state_dict() for part in parts])]
        # It is pickled between the processes of one command, and never on a disk.
        torch.distributed.broadcast_object_list(sent)
        history, states = sent[0]
        if not self.is_main_process:
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)
        return history
