"""PyTorch and Colossal-AI made ready in this process, to compute the same bits each time."""

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from reproduce.training.launcher import is_launched


def launch(local_rank: int = 0) -> torch.device:
    """Start Colossal-AI in this process, once, and return the device that it computes on.

    It joins the ranks that a launcher started; without a launcher it is the only rank, on the device `local_rank`.
    """
    # Colossal-AI seeds all random generators.
    with quiet(), kept_generators():
        from colossalai.accelerator import get_accelerator

        if not torch.distributed.is_initialized():
            _join_process_group(local_rank)
        device: torch.device = get_accelerator().get_current_device()
        return device


def _join_process_group(local_rank: int) -> None:
    import colossalai
    from colossalai.accelerator import get_accelerator

    if is_launched():
        colossalai.launch_from_torch(verbose=False)
        return
    # As `colossalai.launch` does for one rank, but over a store in this process: that over TCP, which it would start,
    # asks a name server for the name of 127.0.0.1, and gloo would ask for this machine's.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    accelerator, store = get_accelerator(), torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group(accelerator.communication_backend, store=store, rank=0, world_size=1)
    if accelerator.support_set_device:
        accelerator.set_device(local_rank)
    torch._dynamo.config.optimize_ddp = False


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give every random generator back as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed(*numbers: int) -> None:
    """Seed all random generators by several numbers, all of which count."""
    value = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Have PyTorch compute the same bits each time on that device, and give its settings back."""
    threads, was_deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    try:
        # The order of sums, and so their bits, depends on the number of threads.
        if device.type == "cpu":
            torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = True
        with warnings.catch_warnings():
            # With one channel in, two layouts are the same bytes; DDP compares the strides only, and warns.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = was_deterministic


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what Colossal-AI and its imports say about kernels and storage that nothing here uses."""
    # The warnings are recorded, as other filters that are set in the block would undo a filter.
    with warnings.catch_warnings(record=True):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
