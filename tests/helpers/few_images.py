"""A data set of a few images, in files as those of MNIST are."""

import numpy as np

from reproduce.data import datasets

FEW = {"train": 3, "t10k": 2}


def few_files():
    """Four small IDX files by their usual names."""
    rng = np.random.default_rng(0)
    images = {kind: datasets.encode_idx(rng.integers(0, 256, (n, 28, 28), np.uint8)) for kind, n in FEW.items()}
    labels = {kind: datasets.encode_idx(rng.integers(0, 10, n, np.uint8)) for kind, n in FEW.items()}
    return {
        datasets.TRAIN_IMAGES: images["train"], datasets.TRAIN_LABELS: labels["train"],
        datasets.TEST_IMAGES: images["t10k"], datasets.TEST_LABELS: labels["t10k"],
    }  # fmt: skip


FILES = few_files()
