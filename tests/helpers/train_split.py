"""Started as several ranks by a launcher: trains one trial in `directory`, which rank 0 alone is to touch.

python tests/helpers/train_split.py HOME DIRECTORY KERNEL TRIAL, the last as JSON. Every rank leaves its losses beside
DIRECTORY.
"""

import os
import sys
from pathlib import Path

import numpy as np

from reproduce.data import datasets
from reproduce.study.trial import Trial
from reproduce.training import loop


def main(home, directory, kernel, text):
    trial, rank = Trial.model_validate_json(text), os.environ["RANK"]
    own = Path(directory) if rank == "0" else Path(f"{directory}.of-rank-{rank}")
    data = datasets.open_files(trial.dataset, Path(home))
    history = list(loop.train(trial, data, own, kernel=Path(kernel)))
    np.save(f"{directory}.rank-{rank}.npy", np.concatenate([record.step_losses for record in history]))


if __name__ == "__main__":
    main(*sys.argv[1:])
