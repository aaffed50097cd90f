"""Train one trial through Colossal-AI's Booster and yield a record an epoch. Knows nothing of MLflow.

A trial is a function of its configuration: its seed sets the initial weights and the order of the data, one thread
computes on a CPU, and every epoch is saved, so that a trial that was stopped goes on to the same bits. Where a launcher
started several ranks, each calls `train` with the same trial, and they train it together.
"""

import logging
import math
import random
import socket
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from sklearn.metrics import accuracy_score

from reproduce.data import datasets
from reproduce.study.trial import TEST_BATCH_SIZE, Ramp, Trial
from reproduce.training import data_parallel, engines, lr_schedulers, optimizers
from reproduce.training.checkpoints import Checkpoints
from reproduce.training.data_parallel import Ranks
from reproduce.training.epoch_record import EpochRecord

LAUNCH_ATTEMPTS = 5
STOP_SMOOTHING = 0.98  # of the average that a divergence stop looks at: fastai's and Lightning's


def launch(local_rank: int = 0) -> torch.device:
    """Start Colossal-AI in this process, once, and return the device it computes on.

    As one of the ranks of whatever launcher started the process, else as the only one, on the device `local_rank`.
    """
    with quiet(), _generators_kept():  # Colossal-AI seeds all of them
        import colossalai
        from colossalai.accelerator import get_accelerator

        if not torch.distributed.is_initialized():
            if data_parallel.launched():
                colossalai.launch_from_torch(verbose=False)
            else:
                _launch_alone(colossalai, local_rank)
    return get_accelerator().get_current_device()


def _launch_alone(colossalai: ModuleType, local_rank: int) -> None:
    for attempt in range(1, LAUNCH_ATTEMPTS + 1):
        try:
            return colossalai.launch(0, 1, "127.0.0.1", _free_port(), local_rank=local_rank, verbose=False)
        except torch.distributed.DistNetworkError:  # another process took the port in between
            if attempt == LAUNCH_ATTEMPTS:
                raise


def train(
    trial: Trial, data: datasets.Dataset, directory: Path, local_rank: int = 0, kernel: Path | None = None
) -> Iterator[EpochRecord]:
    """Yield the record of every epoch, those restored from `directory` first, each after its state is saved there.

    Ends after `trial.epochs` epochs, or with the first that diverged. Random generators, and torch's number of threads,
    are the caller's again at the end, whatever ends it. `kernel` is the fused engine's, as `engines.resolve` gives it.
    Only rank 0 uses `directory`; a batch must hold an image for each rank.
    """
    device, among = launch(local_rank), Ranks.of_group()
    with _torch_set_for(device):
        with _generators_kept():
            torch.manual_seed(trial.seed)
            model = engines.network(trial.engine, kernel)
        optimizer = optimizers.build(trial.optimizer, model.parameters(), trial.learning_rate)
        scheduler = lr_schedulers.build(trial.schedule, optimizer, trial.total_steps)
        with quiet():
            from colossalai.booster import Booster
            from colossalai.booster.plugin import TorchDDPPlugin

            booster = Booster(plugin=TorchDDPPlugin())
        criterion = torch.nn.CrossEntropyLoss()
        model, optimizer, criterion, _, scheduler = booster.boost(model, optimizer, criterion, lr_scheduler=scheduler)

        state = (model, optimizer, scheduler)
        checkpoints = Checkpoints(directory, booster) if among.leads else None
        with quiet():
            history = among.as_leader_has(checkpoints.restore(*state) if checkpoints else [], *state)
        yield from history

        images, labels = _on(device, data.train.part(0, trial.images_per_epoch))
        held_out = _on(device, data.train.part(trial.images_per_epoch, trial.train_size))
        test = _on(device, data.test)
        ramp = trial.schedule if isinstance(trial.schedule, Ramp) else None
        divergence = DivergenceMonitor(ramp.stop_factor if ramp else None)
        for record in history:
            divergence.update(record.step_losses.tolist())
        while len(history) < trial.epochs and not (history and history[-1].diverged):
            started = time.perf_counter()
            epoch = len(history) + 1
            losses, rates, validation, exploded = [], [], [], False
            model.train()
            for batch in datasets.batches(trial.images_per_epoch, trial.batch_size, trial.seed, epoch):
                part = among.part(batch)
                indices = torch.from_numpy(part).to(device)
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.zero_grad()
                loss = criterion(model(images.index_select(0, indices)), labels.index_select(0, indices))
                loss = among.weighed(loss, len(part), len(batch))
                booster.backward(loss, optimizer)
                optimizer.step()
                scheduler.step()
                loss = among.mean(loss.detach())
                losses.append(loss)  # read once an epoch: reading it here would wait for the GPU
                step = (epoch - 1) * trial.steps_per_epoch + len(losses) - 1
                if ramp and ramp.validation_size and step % ramp.validation_interval == 0:
                    validation.append((step, *validate(model, *held_out)))
                if divergence.factor is not None and (exploded := divergence.update([loss.item()])):
                    break
            step_losses = torch.stack(losses).cpu().numpy()
            kept = _until_not_finite(step_losses)
            accuracy = (np.nan, np.nan) if trial.is_range_test else evaluate(model, *test)
            history.append(
                EpochRecord(
                    epoch=epoch,
                    train_loss=float(step_losses.mean(dtype=np.float64)),
                    test_accuracy=accuracy[0],
                    test_accuracy_batch_mean=accuracy[1],
                    learning_rate=rates[-1],
                    wall_seconds=time.perf_counter() - started,
                    finished_at=time.time(),
                    step_losses=kept,
                    step_learning_rates=np.array(rates[: len(kept)]),
                    diverged=exploded or not np.isfinite(step_losses).all(),
                    validation=np.array(validation, dtype=np.float64).reshape(-1, 3),
                )
            )
            if checkpoints:
                checkpoints.save(history, *state)
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


@torch.no_grad()
def validate(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean cross entropy and accuracy over all images; the model is left in training mode."""
    model.eval()
    logits = torch.cat([model(batch) for batch in images.split(TEST_BATCH_SIZE)])
    model.train()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return loss.item(), float(accuracy_score(labels.cpu(), logits.argmax(dim=1).cpu()))


class DivergenceMonitor:
    """Tells when the debiased average of a trial's losses exceeds `factor` times its least so far; None: never."""

    def __init__(self, factor: float | None) -> None:
        self.factor = factor
        self.steps, self.average, self.least = 0, 0.0, math.inf

    def update(self, losses: Iterable[float]) -> bool:
        """Take in the next losses; True for a loss that is not finite too."""
        for loss in losses:
            self.steps += 1
            self.average = STOP_SMOOTHING * self.average + (1 - STOP_SMOOTHING) * loss
            smoothed = self.average / (1 - STOP_SMOOTHING**self.steps)
            self.least = min(self.least, smoothed)
        return self.factor is not None and not smoothed <= self.factor * self.least  # NaN compares with nothing


def _on(device: torch.device, split: datasets.Split) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole split as uint8 images and int64 labels: on a CPU the mapped memory itself, on a GPU a copy."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)


def _until_not_finite(losses: np.ndarray) -> np.ndarray:
    """The losses up to the first that is not finite, with it."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return losses[: bad[0] + 1] if bad.size else losses


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Give every random generator back as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _torch_set_for(device: torch.device) -> Iterator[None]:
    """Torch set to give the same bits each time on that device, and as it was afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)  # the sum's order, and so the bits, would depend on the number
        torch.backends.cudnn.deterministic = True
        with warnings.catch_warnings():
            # With one channel in, two layouts are the same bytes; DDP compares the strides only, and warns.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = deterministic


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Colossal-AI and its imports say about kernels and storage that nothing here uses."""
    with warnings.catch_warnings(record=True):  # recorded, as a filter would be undone by filters set in between
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
