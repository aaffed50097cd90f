"""A trial's state after each epoch, written whole or not at all, and checked when read.

A checkpoint is a folder `epoch-0007` with the weights, which Colossal-AI's Booster writes and reads, the state of the
optimizer and of the schedule, the records of all epochs so far, and a list of the trial's name and the SHA-256 of each
of these files. It is written under another name and then renamed. The last two are kept: one that is damaged, or
another trial's, is passed over for the one before.

The hashes show damage, but anybody who can write here can write hashes too. So nothing is a pickle, which can run code:
Colossal-AI would read the optimizer and the schedule with `torch.load`, and in the torch that it allows even
`weights_only` can be circumvented (CVE-2025-32434, CVE-2026-24747). They are safetensors and JSON instead.
"""

import copy
import errno
import json
import re
import shutil
import stat
import uuid
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from reproduce.files import file_sha256
from reproduce.paths import is_real_folder, remove
from reproduce.training.data_parallel import Stateful
from reproduce.training.epoch_record import EpochRecord

KEPT = 2
# Their length differs from epoch to epoch.
RAGGED = ("step_losses", "step_learning_rates", "validation")
WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY = (
    "weights.safetensors", "optimizer.safetensors", "schedule.json", "history.npz",
)  # fmt: skip
HASHES = "sha256.json"
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
# The rest of a scheduler's state follows from the trial's configuration.
SCHEDULER_STATE = ("last_epoch", "_step_count", "_last_lr")


class TrainingState(NamedTuple):
    """All that a trial resumes from, as Colossal-AI wraps it."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler


class ModelFiles(Protocol):
    """The part of Colossal-AI's Booster that writes and reads weights."""

    def save_model(self, model: torch.nn.Module, checkpoint: str, *, use_safetensors: bool) -> None:
        """Write the weights to that file."""

    def load_model(self, model: torch.nn.Module, checkpoint: str) -> object:
        """Read the weights from that file."""


class Checkpoints:
    """The checkpoints of one trial in `directory`, whose name is the trial's. Used by one process at a time."""

    def __init__(self, directory: Path, booster: ModelFiles) -> None:
        self.directory = directory
        self.booster = booster
        directory.mkdir(parents=True, exist_ok=True)
        # A process that was killed leaves its half-written checkpoint.
        for unfinished in directory.glob(".epoch-*"):
            remove(unfinished)

    def save(self, history: list[EpochRecord], state: TrainingState) -> None:
        """Write the state after the last epoch of `history`, which has the records from the first epoch on."""
        target = _folder(self.directory, len(history))
        # Not of `tempfile`, whose folders are private, whatever the umask.
        folder = self.directory / f".epoch-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            self.booster.save_model(state.model, str(folder / WEIGHTS), use_safetensors=True)
            _save_optimizer(folder / OPTIMIZER, state.optimizer)
            _save_scheduler(folder / SCHEDULE, state.scheduler)
            _save_history(folder / HISTORY, history)
            (folder / HASHES).write_text(json.dumps(self._identity(folder)), encoding="utf-8")
            # safetensors lets only the owner read its files, whatever the umask.
            for path in folder.iterdir():
                path.chmod(stat.S_IMODE((folder / HASHES).stat().st_mode))
            # One that is there is damaged, or it would have been restored.
            remove(target)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in saved_epochs(self.directory)[:-KEPT]:
            remove(_folder(self.directory, old))

    def restore(self, state: TrainingState) -> list[EpochRecord]:
        """Load the newest whole checkpoint into the state's parts and return its history; [] where there is none.

        Damaged checkpoints are removed. An error of the machine, such as too little memory, is raised.
        """
        parts: tuple[Stateful, ...] = state
        untouched = copy.deepcopy([part.state_dict() for part in parts])
        for epoch in reversed(saved_epochs(self.directory)):
            folder = _folder(self.directory, epoch)
            try:
                return self._read(folder, epoch, state)
            # Bytes with hashes to match can make a reader raise anything.
            except Exception as error:
                if _is_of_the_machine(error):
                    raise
                for part, fresh in zip(parts, untouched, strict=True):
                    part.load_state_dict(copy.deepcopy(fresh))
                remove(folder)
        return []

    def _read(self, folder: Path, epoch: int, state: TrainingState) -> list[EpochRecord]:
        if json.loads((folder / HASHES).read_text(encoding="utf-8")) != self._identity(folder):
            raise ValueError(f"{folder} is damaged, or another trial's")
        history = load_history(folder / HISTORY)
        if [record.epoch for record in history] != list(range(1, epoch + 1)):
            raise ValueError(f"{folder} holds another epoch")
        self.booster.load_model(state.model, str(folder / WEIGHTS))
        _load_optimizer(folder / OPTIMIZER, state.optimizer)
        _load_scheduler(folder / SCHEDULE, state.scheduler)
        return history

    def _identity(self, folder: Path) -> dict[str, object]:
        """Return the trial's name and the files' hashes."""
        hashes = {name: file_sha256(folder / name) for name in (WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY)}
        if None in hashes.values():
            raise ValueError(f"{folder} does not have all of its files")
        return {"trial": self.directory.name, "sha256": hashes}


def saved_epochs(directory: Path) -> list[int]:
    """Return the epochs that have a checkpoint, whole or damaged, in rising order."""
    names = (path.name for path in directory.glob("epoch-*") if is_real_folder(path))
    epochs = {int(name.removeprefix("epoch-")) for name in names if re.fullmatch("epoch-[0-9]{4,}", name)}
    return sorted(epoch for epoch in epochs if is_real_folder(_folder(directory, epoch)))


def last_weights(directory: Path) -> Path:
    """Return the newest checkpoint's file of weights."""
    return _folder(directory, saved_epochs(directory)[-1]) / WEIGHTS


def _folder(directory: Path, epoch: int) -> Path:
    return directory / f"epoch-{epoch:04d}"


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether an error says that memory is short, say, and nothing about the checkpoint."""
    if isinstance(error, OSError):
        return error.errno not in ABSENT
    # PyTorch's allocator for CPUs has no error class of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _save_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Write the tensors as they are, and numbers and settings as JSON in the file's header."""
    saved = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, float | None] = {}
    for index, state in saved["state"].items():
        for name, value in state.items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{index}.{name}"] = value
    save_file(tensors, path, {"numbers": json.dumps(numbers), "settings": json.dumps(saved["param_groups"])})


def _load_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state: dict[int, dict[str, torch.Tensor | float | None]] = {}
    for key, value in (json.loads(header["numbers"]) | tensors).items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        for name, value in values.items():
            shape = () if name == "step" else parameters[index].shape
            # PyTorch does not check: its kernels would read and write beyond a tensor that is too small.
            if isinstance(value, torch.Tensor) and value.shape != shape:
                raise ValueError(f"{path}: {name} {index} has the shape {tuple(value.shape)}, expected {tuple(shape)}")
    settings = [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in group.items()}
        for group in json.loads(header["settings"])
    ]
    optimizer.load_state_dict({"state": state, "param_groups": settings})


def _save_scheduler(path: Path, scheduler: Stateful) -> None:
    state = scheduler.state_dict()
    path.write_text(json.dumps({name: state[name] for name in SCHEDULER_STATE}), encoding="utf-8")


def _load_scheduler(path: Path, scheduler: Stateful) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    scheduler.load_state_dict(scheduler.state_dict() | {name: saved[name] for name in SCHEDULER_STATE})


def _save_history(path: Path, history: list[EpochRecord]) -> None:
    columns = {field.name: [getattr(record, field.name) for record in history] for field in fields(EpochRecord)}
    lengths = {f"{name}_lengths": np.array([len(part) for part in columns[name]]) for name in RAGGED}
    arrays = {name: np.concatenate(column) if name in RAGGED else np.array(column) for name, column in columns.items()}
    np.savez(path, allow_pickle=False, **arrays, **lengths)


def load_history(path: Path) -> list[EpochRecord]:
    """Return the records that `Checkpoints.save` wrote."""
    with np.load(path, allow_pickle=False) as saved:
        arrays = dict(saved)
    for name in RAGGED:
        arrays[name] = np.split(arrays[name], np.cumsum(arrays.pop(f"{name}_lengths"))[:-1])
    rows = zip(*(arrays[field.name] for field in fields(EpochRecord)), strict=True)
    return [EpochRecord(*(value.item() if value.ndim == 0 else value for value in row)) for row in rows]
