"""The ranks that train a trial together, each on its part of every batch: data parallel, as one process would.

`torchrun` or `colossalai run` starts them; a process that neither started is the only rank. Every rank steps the same
network by the same gradients, so that the trajectory is that of one process but for the order in which floats are
summed. Rank 0 alone reads and writes checkpoints.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as a launcher sets them for each


def launched() -> bool:
    """Whether a launcher started this process as one of its ranks, if only of one."""
    return all(os.environ.get(name) for name in ENVIRONMENT)


@dataclass(frozen=True)
class Ranks:
    """This process among the `size` of torch's process group; `rank` counts from 0."""

    rank: int
    size: int

    @classmethod
    def of_group(cls) -> "Ranks":
        """Those of the group that Colossal-AI has made."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the rank that reads and writes."""
        return self.rank == 0

    def part(self, batch: np.ndarray) -> np.ndarray:
        """This rank's part of a batch's indices, in their order. No part is more than one longer than another."""
        return np.array_split(batch, self.size)[self.rank]

    def weighed(self, loss: torch.Tensor, part: int, batch: int) -> torch.Tensor:
        """The mean loss over `part` images here, so weighed that the mean over the ranks is that over the `batch`.

        The plugin takes the plain mean of the ranks' gradients, though their parts may differ by an image.
        """
        return loss if self.size == 1 else loss * (self.size * part / batch)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a value over the ranks, the same bits on each."""
        if self.size == 1:
            return value
        torch.distributed.all_reduce(value := value.clone())
        return value / self.size

    def as_leader_has(self, history: list[Any], *parts: Any) -> list[Any]:
        """Bring rank 0's history, and the states of network, optimizer and schedule, to every rank; the history.

        Only rank 0 reads checkpoints, so that the other ranks need not see its disk.
        """
        if self.size == 1:
            return history
        sent = [(history, [part.state_dict() for part in parts]) if self.leads else None]
        torch.distributed.broadcast_object_list(sent)  # pickled, between processes of one command and never on a disk
        history, states = sent[0]
        if not self.leads:
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)
        return history
