"""Train one trial through Colossal-AI's Booster and yield a record an epoch. Knows nothing of MLflow.

A trial is a function of its specification: its seed sets the initial weights and the order of the data, one thread
computes on a CPU, and every epoch is saved, so that a trial that was stopped goes on to the same bits.
"""

import logging
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score

from reproduce import engines, mnist, optimizers, schedules
from reproduce.checkpoints import Checkpoints, EpochRecord
from reproduce.trial import TEST_BATCH_SIZE, Trial

LAUNCH_ATTEMPTS = 5


def launch(local_rank: int = 0) -> torch.device:
    """Start Colossal-AI in this process, once, as a world of one, and return the device it computes on."""
    with _quiet():
        import colossalai
        from colossalai.accelerator import get_accelerator

        if not torch.distributed.is_initialized():
            for attempt in range(1, LAUNCH_ATTEMPTS + 1):
                try:
                    colossalai.launch(0, 1, "127.0.0.1", _free_port(), local_rank=local_rank, verbose=False)
                    break
                except torch.distributed.DistNetworkError:  # another process took the port in between
                    if attempt == LAUNCH_ATTEMPTS:
                        raise
    return get_accelerator().get_current_device()


def train(
    trial: Trial, data: mnist.Dataset, directory: Path, local_rank: int = 0, kernel: Path | None = None
) -> Iterator[EpochRecord]:
    """Yield the record of every epoch, those restored from `directory` first, each after its state is saved there.

    Ends after `trial.epochs` epochs, or with the first in which a loss is not finite. Sets torch's seed and, on a CPU,
    its number of threads. `kernel` is the fused engine's, as `engines.resolve` gives it.
    """
    device = launch(local_rank)
    if device.type == "cpu":
        torch.set_num_threads(1)  # the sum's order, and so the bits, would depend on the number
    else:
        torch.backends.cudnn.deterministic = True
    # With one channel in, two layouts are the same bytes; DDP compares the strides only, and warns.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")

    torch.manual_seed(trial.seed)
    model = engines.network(trial.engine, kernel)
    optimizer = optimizers.build(trial.optimizer, model.parameters(), trial.learning_rate)
    scheduler = schedules.build(trial.schedule, optimizer, trial.total_steps)
    with _quiet():
        from colossalai.booster import Booster
        from colossalai.booster.plugin import TorchDDPPlugin

        booster = Booster(plugin=TorchDDPPlugin())
    criterion = torch.nn.CrossEntropyLoss()
    model, optimizer, criterion, _, scheduler = booster.boost(model, optimizer, criterion, lr_scheduler=scheduler)

    checkpoints = Checkpoints(directory, booster)
    with _quiet():
        history = checkpoints.restore(model, optimizer, scheduler)
    yield from history

    images, labels = _on(device, data.train.first(trial.train_size))
    test_images, test_labels = _on(device, data.test)
    while len(history) < trial.epochs and not (history and history[-1].diverged):
        started = time.perf_counter()
        epoch = len(history) + 1
        losses, rates = [], []
        model.train()
        for batch in mnist.batches(trial.train_size, trial.batch_size, trial.seed, epoch):
            indices = torch.from_numpy(batch).to(device)
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = criterion(model(images.index_select(0, indices)), labels.index_select(0, indices))
            booster.backward(loss, optimizer)
            optimizer.step()
            scheduler.step()
            losses.append(loss.detach())  # read once an epoch: reading it here would wait for the GPU
        step_losses = torch.stack(losses).cpu().numpy()
        accuracy = (np.nan, np.nan) if trial.is_range_test else evaluate(model, test_images, test_labels)
        history.append(
            EpochRecord(
                epoch=epoch,
                train_loss=float(step_losses.mean(dtype=np.float64)),
                test_accuracy=accuracy[0],
                test_accuracy_batch_mean=accuracy[1],
                learning_rate=rates[-1],
                wall_seconds=time.perf_counter() - started,
                finished_at=time.time(),
                step_losses=_until_not_finite(step_losses),
                step_learning_rates=np.array(rates[: len(_until_not_finite(step_losses))]),
            )
        )
        checkpoints.save(history, model, optimizer, scheduler)
        yield history[-1]


@torch.no_grad()
def evaluate(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy over all images, and the paper's: the mean over batches of each batch's accuracy. Both in [0, 1]."""
    model.eval()
    predicted = torch.cat([model(batch).argmax(dim=1) for batch in images.split(TEST_BATCH_SIZE)]).cpu()
    expected = labels.cpu()
    by_batch = [
        accuracy_score(truth, guess)
        for truth, guess in zip(expected.split(TEST_BATCH_SIZE), predicted.split(TEST_BATCH_SIZE), strict=True)
    ]
    return float(accuracy_score(expected, predicted)), float(np.mean(by_batch))


def _on(device: torch.device, split: mnist.Split) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole split as uint8 images and int64 labels: on a CPU the mapped memory itself, on a GPU a copy."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)


def _until_not_finite(losses: np.ndarray) -> np.ndarray:
    """The losses up to the first that is not finite, with it."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return losses[: bad[0] + 1] if bad.size else losses


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Colossal-AI and its imports say about kernels and storage that nothing here uses."""
    with warnings.catch_warnings(record=True):  # recorded, as a filter would be undone by filters set in between
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
