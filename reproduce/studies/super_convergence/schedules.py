"""The schedules of the repetition: Caffe's `inv`, and one cycle of rate and momentum in straight lines.

`decay` is what Keras' SGD divides the rate of every step by on top of the schedule: 1 + decay × step. In the text it
is a weight decay instead.
"""

# Of the highest and the lowest rate of a cycle.
MOMENTUM = 0.8, 0.95
# What is left of the lowest rate at the end.
LAST = 1e-5


def inverse(now, gamma, power, decay=0.0):
    """Return the rate (1 + gamma × step)^-power times the first, and the momentum 0.9."""
    return now.learning_rate * (1 + gamma * now.step) ** -power / (1 + decay * now.step), 0.9


def one_cycle(now, lowest, up, tail, decay=0.0):
    """Return rate and momentum of a cycle from the lowest rate to the sweep's, back in as many epochs, and a tail.

    In a training of another length the parts keep their proportions.

    Args:
        now: Where training is. Its `learning_rate` is the highest.
        lowest: The rate at the beginning, and before the tail.
        up: The epochs of the rise.
        tail: The epochs in which the rate then falls to almost nothing.
        decay: Keras' decay.
    """
    highest, epoch = now.learning_rate, now.epoch * (2 * up + tail) / now.total_epochs
    fast, slow = MOMENTUM
    if epoch < 2 * up:
        share = 1 - abs(epoch / up - 1)
        rate, momentum = lowest + (highest - lowest) * share, slow + (fast - slow) * share
    else:
        rate, momentum = lowest * (1 - (1 - LAST) * (epoch - 2 * up) / tail), slow
    return rate / (1 + decay * now.step), momentum
