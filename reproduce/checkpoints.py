"""A trial's state after each epoch, written through Colossal-AI's Booster, whole or not at all, and checked when read.

A checkpoint is a folder `epoch-0007` with the weights (safetensors), the optimizer's and the schedule's state, the
records of all epochs so far, and the SHA-256 of each of these files. It is made beside its place and renamed into it.
The last two are kept: one that is damaged is passed over for the one before.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

KEPT = 2
RAGGED = ("step_losses", "step_learning_rates", "validation")  # of another length in each epoch
WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY = "weights.safetensors", "optimizer.pt", "schedule.pt", "history.npz"
HASHES = "sha256.json"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one trial. Accuracies are fractions in [0, 1]; they are NaN where nothing was evaluated.

    `step_losses` (steps,) float32 and `step_learning_rates` (steps,) float64 are the curve of this epoch; it
    ends with the first loss that is not finite. `train_loss` is the mean over all the epoch's batches, `learning_rate`
    that of its last step, `finished_at` the seconds since 1970. A trial does not go on after an epoch that `diverged`.
    `validation` (times, 3) float64 is a range test's on held-out images: step of the trial from 0, loss, accuracy.
    """

    epoch: int  # from 1
    train_loss: float
    test_accuracy: float  # over all test images
    test_accuracy_batch_mean: float  # the paper's: mean over test batches, though the last holds 16 images
    learning_rate: float
    wall_seconds: float
    finished_at: float
    step_losses: np.ndarray
    step_learning_rates: np.ndarray
    diverged: bool
    validation: np.ndarray


class Checkpoints:
    """The checkpoints of one trial in `directory`. Used by one process at a time."""

    def __init__(self, directory: Path, booster) -> None:
        self.directory = directory
        self.booster = booster
        directory.mkdir(parents=True, exist_ok=True)
        for left_over in directory.glob(".epoch-*"):  # half-written when something was killed
            shutil.rmtree(left_over)

    def save(self, history: list[EpochRecord], model, optimizer, scheduler) -> None:
        """Write the state after the last epoch of `history`."""
        target = self.directory / f"epoch-{len(history):04d}"
        folder = Path(tempfile.mkdtemp(dir=self.directory, prefix=".epoch-"))
        try:
            self.booster.save_model(model, str(folder / WEIGHTS), use_safetensors=True)
            self.booster.save_optimizer(optimizer, str(folder / OPTIMIZER))
            self.booster.save_lr_scheduler(scheduler, str(folder / SCHEDULE))
            _save_history(folder / HISTORY, history)
            hashes = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY)}
            (folder / HASHES).write_text(json.dumps(hashes))
            if target.exists():
                shutil.rmtree(target)  # damaged, or it would have been restored
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in saved_epochs(self.directory)[:-KEPT]:
            shutil.rmtree(self.directory / f"epoch-{old:04d}")

    def restore(self, model, optimizer, scheduler) -> list[EpochRecord]:
        """Put the newest whole checkpoint's state into the three and return its history; [] if there is none."""
        for epoch in reversed(saved_epochs(self.directory)):
            folder = self.directory / f"epoch-{epoch:04d}"
            if _is_whole(folder):
                self.booster.load_model(model, str(folder / WEIGHTS))
                self.booster.load_optimizer(optimizer, str(folder / OPTIMIZER))
                self.booster.load_lr_scheduler(scheduler, str(folder / SCHEDULE))
                return load_history(folder / HISTORY)
        return []


def saved_epochs(directory: Path) -> list[int]:
    """The epochs of which there is a checkpoint, whole or damaged, in rising order."""
    return sorted(int(path.name.removeprefix("epoch-")) for path in directory.glob("epoch-*"))


def last_weights(directory: Path) -> Path:
    """The newest checkpoint's weights."""
    return directory / f"epoch-{saved_epochs(directory)[-1]:04d}" / WEIGHTS


def _is_whole(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / HASHES).read_text())
        return hashes.keys() == {WEIGHTS, OPTIMIZER, SCHEDULE, HISTORY} and all(
            _sha256(folder / name) == sha256 for name, sha256 in hashes.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
