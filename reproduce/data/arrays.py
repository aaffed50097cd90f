"""Data sets that are arrays: scikit-learn's digits, and what a function of a study returns, held to a SHA-256.

They are kept as .npy files, so that all processes share the mapped pages.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from reproduce.errors import UserError
from reproduce.files import write_atomically
from reproduce.study.fields import SIZES
from reproduce.study.own_code import OwnCode, OwnCodeError, run_own

Arrays = tuple[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64]]
# For another process to make the arrays.
LOCK_SECONDS = 1800
NAMES = ("train-images", "train-labels", "test-images", "test-labels")
DIGITS_SHA256 = "b72c7422a30c775086d00148d8f837a2ac5fd591f04afd8c6c711ce66930ffe7"
EXPECTED = "expected (train_images, train_labels), (test_images, test_labels)"


def sha256(arrays: Arrays) -> str:
    """Return the SHA-256 of the arrays: their types, shapes and values, in the order of NAMES."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load_digits() -> Arrays:
    """Return scikit-learn's digits (n, 1, 8, 8) uint8, 0 to 16: the first 1,437 to train on, the last 360 to test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = found.images.astype(np.uint8)[:, np.newaxis]
    labels = found.target.astype(np.int64)
    size = SIZES["digits"]
    return images[:size], labels[:size], images[size:], labels[size:]


def load_own(code: OwnCode, reference: str) -> Arrays:
    """Return what a study's function returns, checked. UserError where it fails or returns anything else.

    Images (n, height, width) get a channel. Images of bytes stay, others become float32; labels are int64, from 0.
    """
    try:
        with run_own():
            returned = code.load(reference)()
    except OwnCodeError as error:
        raise UserError(f"{reference} failed: {error}") from error
    try:
        (train_images, train_labels), (test_images, test_labels) = returned
        train, test = _split(train_images, train_labels), _split(test_images, test_labels)
        if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype != test[0].dtype:
            raise ValueError(f"images {train[0].shape[1:]} to train on and {test[0].shape[1:]} to test")
    except (TypeError, ValueError) as error:
        raise UserError(f"{reference}: {EXPECTED}, as arrays: {error}") from error
    return (*train, *test)


def _split(images: object, labels: object) -> tuple[NDArray[Any], NDArray[np.int64]]:
    found, classes = np.asarray(images), np.asarray(labels)
    if found.ndim < 2 or not len(found) or found.dtype.kind not in "uifb":
        raise ValueError(f"images are {found.dtype} {found.shape}, expected numbers (n, …)")
    if classes.shape != found.shape[:1] or classes.dtype.kind not in "ui":
        raise ValueError(f"labels are {classes.dtype} {classes.shape}, expected whole numbers ({len(found)},)")
    if classes.min() < 0:
        raise ValueError(f"labels begin at {classes.min()}, expected 0")
    if found.ndim == 3:
        found = found[:, np.newaxis]
    if found.dtype != np.uint8:
        found = found.astype(np.float32)
        if not np.isfinite(found).all():
            raise ValueError("images have values that are not finite")
    return np.ascontiguousarray(found), classes.astype(np.int64)


def prepare(name: str, expected: str | None, home: Path, code: OwnCode, say: Callable[[str], None] = print) -> None:
    """Put the arrays of a data set into the cache under `home`, unless they are there and whole.

    Args:
        name: `digits`, or the function of a study.
        expected: The SHA-256 that the study states of its own arrays.
        home: The directory of data and checkpoints.
        code: The study's own Python.
        say: Gets each line of progress.

    Raises:
        UserError: The function fails, or its arrays have another hash.
    """
    stated = expected or DIGITS_SHA256
    folder = directory(stated, home)
    # With other code the function may return other data, which is not what is kept.
    made_by = code.sha256(name) if expected else ""
    note = folder / "made-by"
    if are_kept(stated, home) and (not expected or _read(note) == made_by):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        with lock.acquire(timeout=LOCK_SECONDS):
            _make(name, stated, home, code, made_by, bool(expected), say)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error


def _make(
    name: str, stated: str, home: Path, code: OwnCode, made_by: str, is_own: bool, say: Callable[[str], None]
) -> None:
    """Make the arrays, unless another process has just done so, and write them and what made them."""
    folder = directory(stated, home)
    note = folder / "made-by"
    if are_kept(stated, home) and (not is_own or _read(note) == made_by):
        return
    is_damaged = folder.exists() and not are_kept(stated, home)
    say(f"{folder} is damaged; making it again" if is_damaged else f"making the arrays of {name}, once")
    arrays = load_own(code, name) if is_own else load_digits()
    if (actual := sha256(arrays)) != stated:
        raise UserError(
            f"{name} returns other data than the study states: SHA-256 {actual}, expected {stated}; "
            "correct data_sha256 in study.yaml if the data is meant to have changed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in zip(NAMES, arrays, strict=True):
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_atomically(folder / f"{part}.npy", content.getvalue())
    write_atomically(note, made_by.encode())


def _read(note: Path) -> str | None:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def are_kept(stated: str, home: Path) -> bool:
    """Return whether the arrays of that hash are in the cache, and whole."""
    try:
        return sha256(open_arrays(stated, home)) == stated
    except (OSError, ValueError):
        return False


def directory(stated: str, home: Path) -> Path:
    """Return where arrays of that hash are kept."""
    return home / "data" / f"arrays-{stated[:16]}"


def open_arrays(stated: str, home: Path) -> Arrays:
    """Return the arrays of that hash from the cache, mapped. OSError or ValueError where they cannot be read."""
    # Copy-on-write, as torch warns about read-only arrays. Nothing writes.
    paths = [directory(stated, home) / f"{part}.npy" for part in NAMES]
    a, b, c, d = (np.load(path, mmap_mode="c", allow_pickle=False) for path in paths)
    return a, b, c, d
