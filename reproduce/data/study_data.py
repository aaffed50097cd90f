"""The data that trials are trained on, whatever it comes from: the four files of a known data set, or arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reproduce.data import arrays, datasets, verified_cache
from reproduce.errors import UserError
from reproduce.study.own_code import OwnCode
from reproduce.study.trial import Trial


def sha256(name: str, own: str | None = None) -> str:
    """Return the hash of a data set: a study's `own`, else the known one."""
    return datasets.files_sha256(name) if name in datasets.SHA256 else own or arrays.DIGITS_SHA256


def prepare(
    name: str, own: str | None, home: Path, data_dir: Path | None, code: OwnCode, say: Callable[[str], None]
) -> None:
    """Put a data set into the cache under `home`. UserError where no source has it, or it has another hash.

    Args:
        name: The data set, or a study's own function.
        own: The hash of a study's own data.
        home: The directory of data and checkpoints.
        data_dir: Where files are looked for first.
        code: The study's own Python.
        say: Gets each line of progress.
    """
    if name in datasets.SHA256:
        verified_cache.prepare(name, home, data_dir, say)
    else:
        arrays.prepare(name, own, home, code, say)


def open_for(trial: Trial, home: Path) -> datasets.Dataset:
    """Open the data of a trial, which was prepared, as its network takes it."""
    size = image_size(trial)
    if trial.dataset in datasets.SHA256:
        return datasets.open_files(trial.dataset, home, size)
    train, train_labels, test, test_labels = arrays.open_arrays(sha256(trial.dataset, trial.data_sha256), home)
    splits = ((train, train_labels), (test, test_labels))
    return datasets.Dataset(trial.dataset, *(datasets.Split(resize(images, size), labels) for images, labels in splits))


def image_size(trial: Trial) -> int | None:
    """Return the side of the square that a trial's images are resized to; None keeps theirs."""
    if trial.network is None:
        return datasets.SIDE
    return trial.preparation.size if trial.preparation else None


def resize(images: NDArray[Any], size: int | None) -> NDArray[Any]:
    """Return images (n, 1, h, w) of bytes resized as files' are; UserError for others. None keeps their size."""
    if size is None:
        return images
    if images.ndim != 4 or images.shape[1] != 1 or images.dtype != np.uint8:
        raise UserError(
            f"preparation: size is for images of bytes with one channel, and these are {images.dtype} "
            f"{images.shape[1:]}: leave it out, and resize them in the function that returns them"
        )
    return datasets.resize(images[:, 0], size)
