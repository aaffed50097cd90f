"""A study tried out before it is trained: its data, one batch through its network, and every step of its schedules."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reproduce.data import arrays, datasets, study_data
from reproduce.errors import UserError
from reproduce.study import planning
from reproduce.study.claim import Model
from reproduce.study.config import StudyConfig
from reproduce.study.loading import Fault
from reproduce.study.own_code import OwnCodeError, run_own
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial
from reproduce.training import engines, losses, lr_schedulers, optimizers, prepared, torch_setup

# Pixels of an image whose data set need not be there to try a network out.
USUAL_SIDE = 28
CLASSES = 10
# What a model records by epoch.
METRICS = ("train_loss", "test_accuracy", "test_accuracy_batch_mean", "learning_rate")


def find_faults(paper: Paper, home: Path | None = None) -> Iterator[Fault]:
    """Yield what goes wrong with a study's own parts, and where its file names them. Nothing is kept.

    `home` is where its arrays may be kept; None makes them.
    """
    try:
        found = _data(paper, home)
    except UserError as error:
        yield ("protocol", "dataset"), str(error)
        return
    if isinstance(found, str):
        yield ("protocol", "data_sha256"), found
        return
    images, labels, size = found
    if paper.protocol.train_size > size:
        yield ("protocol", "train_size"), f"there are {size} images"
        return
    with torch_setup.kept_generators():
        for trial in _unlike(paper):
            if faults := list(_one_step(paper, trial, images, labels)):
                yield from faults
                break
        yield from _schedules(paper)
    yield from _measures(paper)


def _data(paper: Paper, home: Path | None) -> tuple[NDArray[Any], NDArray[np.int64], int] | str:
    """Return images, labels and how many there are to train on, or what is wrong with the data's hash.

    UserError where a study's own function fails.
    """
    protocol = paper.protocol
    trial = planning.trials(paper, StudyConfig())[0]
    if protocol.dataset in datasets.SHA256:
        side, count = study_data.image_size(trial) or USUAL_SIDE, protocol.batch_size
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (count, 1, side, side), dtype=np.uint8)
        return images, np.arange(count) % CLASSES, protocol.train_size
    stated = study_data.sha256(protocol.dataset, protocol.data_sha256)
    if home is not None and arrays.are_kept(stated, home):
        made = arrays.open_arrays(stated, home)
    elif ":" not in protocol.dataset:
        made = arrays.load_digits()
    else:
        made = arrays.load_own(paper.code, protocol.dataset)
        if protocol.data_sha256 is None:
            return f"is missing; that of {protocol.dataset} is {arrays.sha256(made)}"
        if (actual := arrays.sha256(made)) != protocol.data_sha256:
            return f"{protocol.dataset} returns data of SHA-256 {actual}: state that, if this is the data that is meant"
    return study_data.resize(made[0], study_data.image_size(trial)), made[1], len(made[0])


def _unlike(paper: Paper) -> list[Trial]:
    """Return a trial of each of the optimizer's arguments that the study's variants have."""
    usual = planning.trials(paper, StudyConfig())[0]
    arguments = dict.fromkeys((usual.optimizer_arguments, *map(paper.optimizer_arguments, paper.schedules)))
    return [usual.model_copy(update={"optimizer_arguments": each}) for each in arguments]


def _one_step(paper: Paper, trial: Trial, images: NDArray[Any], labels: NDArray[np.int64]) -> Iterator[Fault]:
    """Yield why the first batch cannot be trained on."""
    where: tuple[str, ...] = ("protocol", "network")
    batch = slice(0, trial.batch_size)
    inputs, classes = torch.from_numpy(images[batch].copy()), torch.from_numpy(labels[batch].copy())
    try:
        torch.manual_seed(0)
        with run_own():
            network = (
                engines.build_network("torch", None, False)
                if trial.network is None
                else prepared.build(trial.network, trial.preparation, paper.code, images)
            )
            logits = network(inputs)
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        needed = int(labels.max()) + 1
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
            yield where, f"takes {tuple(inputs.shape)} to {shape}, expected ({len(inputs)}, classes)"
            return
        if logits.shape[1] < needed:
            yield where, f"gives {logits.shape[1]} classes, and the labels have {needed}"
            return
        where = ("protocol", "loss")
        with run_own():
            losses.build(trial.loss, paper.code)(logits, classes).backward()
        where = ("protocol", "optimizer_arguments")
        if trial.optimizer not in optimizers.NEEDS_CUDA:
            parameters = network.parameters()
            with run_own():
                optimizers.build(trial.optimizer, parameters, trial.learning_rate, trial.optimizer_arguments).step()
    except UserError as error:
        yield ("protocol", "preparation"), str(error)
    except OwnCodeError as error:
        yield where, str(error)


def _schedules(paper: Paper) -> Iterator[Fault]:
    """Yield why a study's own schedule does not give a rate for every step, of the first of its trials that fails."""
    for variant, stated in paper.schedules.items():
        for sweep in paper.sweeps:
            if "code" in stated.get(sweep.scheduler, {}):
                config = StudyConfig(protocol=variant, seeds=paper.protocol.seeds[:1], schedulers=(sweep.scheduler,))
                try:
                    for trial in planning.trials(paper, config):
                        steps = trial.total_steps, trial.steps_per_epoch
                        with run_own():
                            lr_schedulers.compute_rates(trial.schedule, trial.learning_rate, *steps, paper.code)
                except (UserError, OwnCodeError) as error:
                    yield ("schedules", variant, sweep.scheduler), str(error)


def _measures(paper: Paper) -> Iterator[Fault]:
    """Yield why a study's own measure gives no number of what a model could have recorded."""
    for number, claim in enumerate(paper.claims):
        measure = claim.measure
        if not (measure.is_own and isinstance(measure.of, Model)):
            continue
        share = np.linspace(0.1, 0.9, paper.epochs(measure.of.scheduler)).tolist()
        recorded = dict.fromkeys(METRICS, share) | {"train_loss": share[::-1]}
        try:
            with run_own():
                float(paper.code.load(measure.kind)(recorded, **dict(measure.arguments)))
        except OwnCodeError as error:
            yield ("claims", number, "measure", "kind"), str(error)
