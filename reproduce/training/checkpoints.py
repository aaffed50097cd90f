"""A trial's state after each epoch, written whole or not at all, and checked when read.

A checkpoint is a folder `epoch-0007` with the weights, which Colossal-AI's Booster writes and reads, the state of the
optimizer and of the schedule, the records of all epochs so far, and the SHA-256 of each of these files beside the
trial's name. It is made beside its place and renamed into it. The last two are kept: one that is damaged, or another
trial's, is passed over for the one before.

Hashes tell damage, but whoever can write here can write hashes too. So nothing is a pickle, from which code could run:
Colossal-AI would read the optimizer and the schedule with `torch.load`, and in the torch that it allows even
`weights_only` can be got round (CVE-2025-32434, CVE-2026-24747). They are safetensors and JSON instead.
"""

import copy
import errno
import hashlib
import json
import re
import shutil
import stat
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from reproduce.paths import is_real_folder, make_unique_folder, remove
from reproduce.training.epoch_record import EpochRecord

KEPT = 2
RAGGED = ("step_losses", "step_learning_rates", "validation")  # of another length in each epoch
WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY = (
    "weights.safetensors", "optimizer.safetensors", "schedule.json", "history.npz",
)  # fmt: skip
HASHES = "sha256.json"
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
ADVANCING = ("last_epoch", "_step_count", "_last_lr")  # all of a scheduler that is not of the trial's configuration


class Checkpoints:
    """The checkpoints of one trial in `directory`, whose name is the trial's. Used by one process at a time."""

    def __init__(self, directory: Path, booster) -> None:
        self.directory = directory
        self.booster = booster
        directory.mkdir(parents=True, exist_ok=True)
        for left_over in directory.glob(".epoch-*"):  # half-written when something was killed
            remove(left_over)

    def save(self, history: list[EpochRecord], model, optimizer, scheduler) -> None:
        """Write the state after the last epoch of `history`."""
        target = _folder(self.directory, len(history))
        folder = make_unique_folder(self.directory, ".epoch-")
        try:
            self.booster.save_model(model, str(folder / WEIGHTS), use_safetensors=True)
            _save_optimizer(folder / OPTIMIZER, optimizer)
            _save_scheduler(folder / SCHEDULE, scheduler)
            _save_history(folder / HISTORY, history)
            (folder / HASHES).write_text(json.dumps(self._identity(folder)), encoding="utf-8")
            for path in folder.iterdir():  # safetensors keeps its files to their owner, whatever the umask
                path.chmod(stat.S_IMODE((folder / HASHES).stat().st_mode))
            remove(target)  # damaged, or it would have been restored
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in saved_epochs(self.directory)[:-KEPT]:
            remove(_folder(self.directory, old))

    def restore(self, model, optimizer, scheduler) -> list[EpochRecord]:
        """Put the newest whole checkpoint's state into the three and return its history; [] if there is none.

        What was passed over is removed, as nothing can come of it.
        """
        parts = (model, optimizer, scheduler)
        untouched = copy.deepcopy([part.state_dict() for part in parts])
        for epoch in reversed(saved_epochs(self.directory)):
            folder = _folder(self.directory, epoch)
            try:
                return self._read(folder, epoch, *parts)
            except Exception as error:  # bytes with hashes to match can make a reader raise anything
                if _is_of_the_machine(error):
                    raise
                for part, state in zip(parts, untouched, strict=True):
                    part.load_state_dict(copy.deepcopy(state))
                remove(folder)
        return []

    def _read(self, folder: Path, epoch: int, model, optimizer, scheduler) -> list[EpochRecord]:
        if json.loads((folder / HASHES).read_text(encoding="utf-8")) != self._identity(folder):
            raise ValueError(f"{folder} is damaged, or another trial's")
        history = load_history(folder / HISTORY)
        if [record.epoch for record in history] != list(range(1, epoch + 1)):
            raise ValueError(f"{folder} holds another epoch")
        self.booster.load_model(model, str(folder / WEIGHTS))
        _load_optimizer(folder / OPTIMIZER, optimizer)
        _load_scheduler(folder / SCHEDULE, scheduler)
        return history

    def _identity(self, folder: Path) -> dict[str, Any]:
        """Whose checkpoint it is, and of what bytes."""
        hashes = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY)}
        return {"trial": self.directory.name, "sha256": hashes}


def saved_epochs(directory: Path) -> list[int]:
    """The epochs of which there is a checkpoint, whole or damaged, in rising order."""
    names = (path.name for path in directory.glob("epoch-*") if is_real_folder(path))
    epochs = {int(name.removeprefix("epoch-")) for name in names if re.fullmatch("epoch-[0-9]{4,}", name)}
    return sorted(epoch for epoch in epochs if is_real_folder(_folder(directory, epoch)))


def last_weights(directory: Path) -> Path:
    """The newest checkpoint's weights."""
    return _folder(directory, saved_epochs(directory)[-1]) / WEIGHTS


def _folder(directory: Path, epoch: int) -> Path:
    return directory / f"epoch-{epoch:04d}"


def _is_of_the_machine(error: Exception) -> bool:
    """Whether it tells of want of memory, say, and of nothing wrong with a checkpoint."""
    if isinstance(error, OSError):
        return error.errno not in ABSENT
    # PyTorch's allocator for CPUs raises no class of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _save_optimizer(path: Path, optimizer) -> None:
    """Its tensors as they are, its numbers and settings as JSON in the file's header."""
    saved = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, float | None] = {}
    for index, state in saved["state"].items():
        for name, value in state.items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{index}.{name}"] = value
    save_file(tensors, path, {"numbers": json.dumps(numbers), "settings": json.dumps(saved["param_groups"])})


def _load_optimizer(path: Path, optimizer) -> None:
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it cannot be iterated over
    state: dict[int, dict[str, Any]] = {}
    for key, value in (json.loads(header["numbers"]) | tensors).items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, of_parameter in state.items():
        for name, value in of_parameter.items():
            shape = () if name == "step" else parameters[index].shape
            # PyTorch does not look: its kernels would read and write beyond a tensor that is too small.
            if isinstance(value, torch.Tensor) and value.shape != shape:
                raise ValueError(f"{path}: {name} {index} has the shape {tuple(value.shape)}, expected {tuple(shape)}")
    settings = [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in group.items()}
        for group in json.loads(header["settings"])
    ]
    optimizer.load_state_dict({"state": state, "param_groups": settings})


def _save_scheduler(path: Path, scheduler) -> None:
    state = scheduler.state_dict()
    path.write_text(json.dumps({name: state[name] for name in ADVANCING}), encoding="utf-8")


def _load_scheduler(path: Path, scheduler) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    scheduler.load_state_dict(scheduler.state_dict() | {name: saved[name] for name in ADVANCING})


def _save_history(path: Path, history: list[EpochRecord]) -> None:
    arrays = {field.name: [getattr(record, field.name) for record in history] for field in fields(EpochRecord)}
    for name in RAGGED:
        arrays[f"{name}_lengths"] = [len(part) for part in arrays[name]]
        arrays[name] = np.concatenate(arrays[name])
    np.savez(path, **arrays)


def load_history(path: Path) -> list[EpochRecord]:
    """The records that `Checkpoints.save` wrote."""
    with np.load(path, allow_pickle=False) as saved:
        arrays = dict(saved)
    for name in RAGGED:
        arrays[name] = np.split(arrays[name], np.cumsum(arrays.pop(f"{name}_lengths"))[:-1])
    rows = zip(*(arrays[field.name] for field in fields(EpochRecord)), strict=True)
    return [EpochRecord(*(value.item() if value.ndim == 0 else value for value in row)) for row in rows]


def _sha256(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited at for ever
        raise ValueError(f"{path} is no file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
