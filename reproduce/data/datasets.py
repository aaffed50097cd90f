"""Images as arrays: the files' hashes, the resize, and batches in an order fixed by (seed, epoch).

This module decides the numbers. `verified_cache.py` fetches the files and keeps them, `arrays.py` keeps what has none.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reproduce.errors import UserError

# Pixels. LeNet-5 takes 32×32, and the images are 28×28.
SIDE = 32
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
RESIZED = {TRAIN_IMAGES: f"train-{SIDE}x{SIDE}.npy", TEST_IMAGES: f"t10k-{SIDE}x{SIDE}.npy"}

SHA256 = {
    "mnist": {
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


@dataclass(frozen=True)
class Split:
    """Images (n, 1, 32, 32) uint8, memory-mapped, or others (n, …) of a study, and labels (n,) int64."""

    images: NDArray[Any]
    labels: NDArray[np.int64]

    def part(self, start: int, stop: int) -> "Split":
        """Return the images from `start` up to and without `stop`."""
        return Split(self.images[start:stop], self.labels[start:stop])


@dataclass(frozen=True)
class Dataset:
    """A training and a test split."""

    name: str
    train: Split
    test: Split


def files_sha256(name: str) -> str:
    """Return one SHA-256 over those of the four files, in their fixed order."""
    return hashlib.sha256("".join(SHA256[name].values()).encode()).hexdigest()


def open_files(name: str, home: Path, size: int | None = SIDE) -> Dataset:
    """Open the files that `verified_cache.prepare` has checked. All processes share the mapped pages.

    `size` is the side of the square that images are resized to; None keeps theirs.
    """
    return Dataset(name, *(_open_split(home / "data" / name, *files, size) for files in (FILES[:2], FILES[2:])))


def _open_split(cache: Path, images: str, labels: str, size: int | None) -> Split:
    classes = read_idx((cache / labels).read_bytes(), labels).astype(np.int64)
    if size == SIDE:
        # Copy-on-write, as torch warns about read-only arrays. Nothing writes.
        return Split(np.load(cache / RESIZED[images], mmap_mode="c", allow_pickle=False), classes)
    raw = read_idx((cache / images).read_bytes(), images)
    return Split(raw[:, np.newaxis].copy() if size is None else resize(raw, size), classes)


def batches(size: int, batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices (batch_size,) of one epoch's batches, in an order fixed by (seed, epoch).

    Args:
        size: The number of images.
        batch_size: The images in a batch; the last batch may have fewer.
        seed: The trial's.
        epoch: Counts from 1.
    """
    order = np.random.default_rng((seed, epoch)).permutation(size)
    for start in range(0, size, batch_size):
        yield order[start : start + batch_size]


def encode_idx(array: NDArray[np.uint8]) -> bytes:
    """Return the IDX file of a uint8 array of any shape."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def read_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return an IDX file's array; UserError where header and length differ. The format is on LeCun's MNIST page."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError(f"{name} is not an IDX file of bytes: it starts with {content[:4].hex()}, expected 000008")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(shape) != dimensions or len(content) != header + int(np.prod(shape)):
        raise UserError(
            f"{name} holds {len(content)} bytes, its header says {shape} and so {header + int(np.prod(shape))}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def resize(images: NDArray[np.uint8], size: int = SIDE) -> NDArray[np.uint8]:
    """Return (n, h, w) uint8 as (n, 1, size, size) uint8, by PIL's bilinear filter, as torchvision's Resize does."""
    resized = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(resized)[:, np.newaxis]
