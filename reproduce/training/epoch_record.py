"""What one epoch of a trial gave: the record that checkpoints keep, MLflow gets and the analysis reads."""

from dataclasses import dataclass

import numpy as np


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
