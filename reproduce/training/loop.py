"""Train one trial through Colossal-AI's Booster and yield a record an epoch. Knows nothing of MLflow.

A trial is a function of its configuration: its seed sets the initial weights and the order of the data, one thread
computes on a CPU, and every epoch is saved, so that a trial that was stopped resumes to the same bits. Where a launcher
started several ranks, each calls `train` with the same trial, and they train it together.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score

from reproduce.data import datasets
from reproduce.errors import UserError
from reproduce.study.own_code import NO_CODE, OwnCode
from reproduce.study.schedules import Ramp
from reproduce.study.trial import TEST_BATCH_SIZE, Trial
from reproduce.training import engines, losses, lr_schedulers, optimizers, prepared, torch_setup
from reproduce.training.checkpoints import Checkpoints, ModelFiles, TrainingState
from reproduce.training.data_parallel import ProcessGroup
from reproduce.training.epoch_record import EpochRecord

# Of the average that a divergence stop looks at: fastai's and Lightning's.
STOP_SMOOTHING = 0.98

Labelled = tuple[torch.Tensor, torch.Tensor]


class Booster(ModelFiles, Protocol):
    """Colossal-AI's Booster, which has no types of its own."""

    def backward(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Compute the gradients, and their mean over the ranks."""

    def no_sync(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Return a context in which gradients stay those of this rank."""


def train(
    trial: Trial,
    data: datasets.Dataset,
    directory: Path,
    local_rank: int = 0,
    kernel: Path | None = None,
    code: OwnCode = NO_CODE,
) -> Iterator[EpochRecord]:
    """Yield the record of every epoch, those restored from `directory` first, each after its state is saved there.

    Ends after `trial.epochs` epochs, or with the first that diverged. Random generators, and torch's number of threads,
    are the caller's again at the end, whatever ends it.

    Args:
        trial: What to train. A batch must hold an image for each rank.
        data: The data set that the trial names.
        directory: The trial's checkpoints; only rank 0 uses it.
        local_rank: The device to compute on, where no launcher started this process.
        kernel: The fused engine's compiled kernel, as `engines.resolve` returns it.
        code: The study's own Python, which the trial names parts of.
    """
    device = torch_setup.launch(local_rank)
    group = ProcessGroup.current()
    with torch_setup.deterministic(device):
        run = _Run.start(trial, data, device, group, kernel, code)
        checkpoints = Checkpoints(directory, run.booster) if group.is_main_process else None
        with torch_setup.quiet():
            history = group.broadcast_state(checkpoints.restore(run.state) if checkpoints else [], *run.state)
        yield from history

        for record in history:
            run.divergence.update(record.step_losses.tolist())
        while len(history) < trial.epochs and not (history and history[-1].diverged):
            history.append(run.train_epoch(len(history) + 1))
            if checkpoints:
                checkpoints.save(history, run.state)
            yield history[-1]


@dataclass(frozen=True)
class _Run:
    """A trial in training: its state, and the images and labels on the device.

    `held_out` are the training images that a range test validates on.
    """

    trial: Trial
    group: ProcessGroup
    booster: Booster
    state: TrainingState
    criterion: torch.nn.Module
    train: Labelled
    held_out: Labelled
    test: Labelled
    divergence: "DivergenceMonitor"

    @classmethod
    def start(
        cls,
        trial: Trial,
        data: datasets.Dataset,
        device: torch.device,
        group: ProcessGroup,
        kernel: Path | None,
        code: OwnCode,
    ) -> "_Run":
        if (size := len(data.train.labels)) < trial.train_size:
            raise UserError(f"--train-size {trial.train_size} is more than the {size} images there are")
        train = data.train.part(0, trial.images_per_epoch)
        with torch_setup.kept_generators():
            if trial.network is not None:
                # It may draw its weights from any of them.
                torch_setup.seed(trial.seed)
            torch.manual_seed(trial.seed)
            model = (
                engines.build_network(trial.engine, kernel, trial.optimizer in optimizers.BY_LAYER)
                if trial.network is None
                else prepared.build(trial.network, trial.preparation, code, train.images)
            )
        parameters = model.parameters()
        optimizer = optimizers.build(trial.optimizer, parameters, trial.learning_rate, trial.optimizer_arguments)
        scheduler = lr_schedulers.build(trial.schedule, optimizer, trial.total_steps, trial.steps_per_epoch, code)
        with torch_setup.quiet():
            from colossalai.booster import Booster as ColossalBooster
            from colossalai.booster.plugin import TorchDDPPlugin

            booster = ColossalBooster(plugin=TorchDDPPlugin())
        criterion = losses.build(trial.loss, code)
        model, optimizer, criterion, _, scheduler = booster.boost(model, optimizer, criterion, lr_scheduler=scheduler)
        stop_factor = trial.schedule.stop_factor if isinstance(trial.schedule, Ramp) else None
        return cls(
            trial, group, booster, TrainingState(model, optimizer, scheduler), criterion,
            train=_to_device(device, train),
            held_out=_to_device(device, data.train.part(trial.images_per_epoch, trial.train_size)),
            test=_to_device(device, data.test),
            divergence=DivergenceMonitor(stop_factor),
        )  # fmt: skip

    def train_epoch(self, epoch: int) -> EpochRecord:
        """Train on every batch of the epoch, which counts from 1, or up to the step at which the trial is stopped."""
        if self.trial.network is None and isinstance(self.trial.loss, str):
            return self._train_epoch(epoch)
        # A study's own code may draw random numbers, for dropout say: the same ones after a resumption.
        with torch_setup.kept_generators():
            torch_setup.seed(self.trial.seed, epoch, self.group.rank)
            return self._train_epoch(epoch)

    def _train_epoch(self, epoch: int) -> EpochRecord:
        trial, model = self.trial, self.state.model
        started = time.perf_counter()
        losses: list[torch.Tensor] = []
        rates: list[float] = []
        validation: list[tuple[float, float, float]] = []
        exploded = False
        model.train()
        for batch in datasets.batches(trial.images_per_epoch, trial.batch_size, trial.seed, epoch):
            rates.append(self.state.optimizer.param_groups[0]["lr"])
            # The losses are read once an epoch. Reading each would wait for the GPU.
            losses.append(self._train_batch(batch))
            step = (epoch - 1) * trial.steps_per_epoch + len(losses) - 1
            if self._is_validated(step):
                validation.append((step, *validate(model, self.criterion, *self.held_out)))
            if self.divergence.factor is not None and (exploded := self.divergence.update([losses[-1].item()])):
                break
        step_losses = torch.stack(losses).cpu().numpy()
        kept = _until_not_finite(step_losses)
        accuracy = (np.nan, np.nan) if trial.is_range_test else evaluate(model, *self.test)
        return EpochRecord(
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

    def _train_batch(self, batch: NDArray[np.int64]) -> torch.Tensor:
        """Take one step, and return the mean loss over the batch of all ranks."""
        images, labels = self.train
        model, optimizer, scheduler = self.state
        local = self.group.local_batch(batch)
        indices = torch.from_numpy(local).to(images.device)
        # Not by `zero_grad`, whose record for a profiler takes a twentieth of a step.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        # One rank has nothing to average: the gradients would be copied into buckets, for other threads to return.
        with self.booster.no_sync(model, optimizer) if self.group.world_size == 1 else nullcontext():
            loss = self._loss(images.index_select(0, indices), labels.index_select(0, indices))
            loss = self.group.scale_loss(loss, len(local), len(batch))
            self.booster.backward(loss, optimizer)
        optimizer.step()
        scheduler.step()
        return self.group.all_reduce_mean(loss.detach())

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        model = self.state.model
        # The fused engine computes cross entropy with the network, and the gradients at once.
        is_fused = self.trial.engine == "fused" and self.trial.loss == "cross_entropy"
        loss: torch.Tensor = model(images, labels) if is_fused else self.criterion(model(images), labels)
        return loss

    def _is_validated(self, step: int) -> bool:
        ramp = self.trial.schedule
        return isinstance(ramp, Ramp) and ramp.validation_size > 0 and step % ramp.validation_interval == 0


@torch.no_grad()
def evaluate(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the accuracy over all images (n, 1, 32, 32), and the mean over batches of each batch's, both in [0, 1].

    The second is the paper's.
    """
    model.eval()
    predicted = torch.cat([model(batch).argmax(dim=1) for batch in torch.split(images, TEST_BATCH_SIZE)])
    correct = torch.split(predicted == labels, TEST_BATCH_SIZE)
    by_batch = [batch.double().mean().item() for batch in correct]
    return float(accuracy_score(labels.cpu(), predicted.cpu())), float(np.mean(by_batch))


@torch.no_grad()
def validate(
    model: torch.nn.Module, criterion: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float]:
    """Return the loss by that criterion and the accuracy over all images; the model is left in training mode."""
    model.eval()
    logits = torch.cat([model(batch) for batch in torch.split(images, TEST_BATCH_SIZE)])
    model.train()
    return criterion(logits, labels).item(), float(accuracy_score(labels.cpu(), logits.argmax(dim=1).cpu()))


class DivergenceMonitor:
    """A comparison of the debiased average of a trial's losses with `factor` times the least so far; None: no bound."""

    def __init__(self, factor: float | None) -> None:
        self.factor = factor
        self.steps, self.average, self.least = 0, 0.0, math.inf

    def update(self, losses: Iterable[float]) -> bool:
        """Take in the next losses; return whether the average exceeds the bound, or is not finite."""
        smoothed = 0.0
        for loss in losses:
            self.steps += 1
            self.average = STOP_SMOOTHING * self.average + (1 - STOP_SMOOTHING) * loss
            smoothed = self.average / (1 - STOP_SMOOTHING**self.steps)
            self.least = min(self.least, smoothed)
        # NaN is neither more nor less than any number.
        return self.factor is not None and not smoothed <= self.factor * self.least


def _to_device(device: torch.device, split: datasets.Split) -> Labelled:
    """Return the whole split as images and int64 labels: on a CPU the mapped memory itself, on a GPU a copy."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)


def _until_not_finite(losses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the losses up to the first that is not finite, with it."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return losses[: bad[0] + 1] if bad.size else losses
