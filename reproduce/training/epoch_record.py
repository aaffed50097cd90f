"""What one epoch of a trial gave: the record that checkpoints keep, MLflow gets and the analysis reads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one trial. Accuracies are fractions in [0, 1], and NaN where nothing was evaluated.

    Attributes:
        epoch: Counts from 1.
        train_loss: The mean over the epoch's batches.
        test_accuracy: Over all test images.
        test_accuracy_batch_mean: The paper's: the mean over test batches, though the last has 16 images.
        learning_rate: That of the last step.
        wall_seconds: The epoch's time.
        finished_at: Seconds since 1970.
        step_losses: (steps,) float32, up to the first loss that is not finite.
        step_learning_rates: (steps,) float64, of the same steps.
        diverged: Whether the trial ends here, as its loss exploded or is not finite.
        validation: (times, 3) float64, a range test's on held-out images: step from 0, loss, accuracy.
    """

    epoch: int
    train_loss: float
    test_accuracy: float
    test_accuracy_batch_mean: float
    learning_rate: float
    wall_seconds: float
    finished_at: float
    step_losses: NDArray[np.float32]
    step_learning_rates: NDArray[np.float64]
    diverged: bool
    validation: NDArray[np.float64]
