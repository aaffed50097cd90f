"""A small study of a user's own, with only what a study needs, and a claim that holds beside one that does not."""

OWN = """\
title: Two rates for SGD
publication: {title: A note on rates, authors: [A. Student], year: 2026}
protocol: {dataset: mnist, train_size: 640, optimizer: sgd, epochs: 5, batch_size: 64, seeds: [0, 1, 2]}
schedules:
  each-step: {exponential: {decay_steps: 50, gamma: 0.5}}
  late: {exponential: {decay_steps: 100, gamma: 0.5}}
sweeps:
  - scheduler: exponential
    learning_rates: [0.1, 1.0e-5]
    reported: [{learning_rate: 0.1, test_accuracy: 0.5}]
claims:
  - id: A
    says: 0.1 ends above 1e-5
    where: page 1
    measure:
      kind: final_accuracy
      of: {scheduler: exponential, learning_rate: 0.1}
      minus: {scheduler: exponential, learning_rate: 1.0e-5}
    expected: [0, .inf]
    reading: 0
    reason: an order
  - id: B
    says: 1e-5 ends at 0.9
    where: page 1
    measure: {kind: final_accuracy, of: {scheduler: exponential, learning_rate: 1.0e-5}}
    expected: [0.9, 0.9]
    reading: 0.01
    reason: printed to two digits
"""


def write_study(folder, text=OWN):
    """Write a study into a new folder, and return the folder."""
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(text)
    return folder


# A study with its own Python for all that can be: on digits, trained within a second.
PARTS = """\
title: Own parts
publication: {title: A note, authors: [A. Student], year: 2026}
protocol:
  dataset: digits
  preparation: {scale: 16, mean: image}
  train_size: 320
  network: {code: network.py:Net, arguments: {hidden: 16}}
  loss: losses.py:doubled
  optimizer: sgd
  optimizer_arguments: {momentum: 0.5, weight_decay: 0.01}
  epochs: 3
  batch_size: 32
  seeds: [0, 1, 2]
schedules:
  as-stated:
    cooled: {code: schedules.py:cooled, factor: 0.5}
sweeps:
  - scheduler: cooled
    learning_rates: [0.2]
  - scheduler: none
    epochs: 2
    on_demand: true
    learning_rates: [0.1]
claims:
  - id: A
    says: the mean of the accuracies is above 0.1
    where: page 1
    measure:
      kind: measures.py:mean_of
      arguments: {metric: test_accuracy}
      of: {scheduler: cooled, learning_rate: 0.2}
    expected: [0.1, .inf]
    reading: 0
    reason: a bound
"""
OWN_FILES = {
    "network.py": """\
from torch import nn

from parts import hidden_layer


class Net(nn.Sequential):
    def __init__(self, hidden):
        super().__init__(nn.Flatten(), *hidden_layer(64, hidden), nn.Linear(hidden, 10))
""",
    "parts.py": """\
from torch import nn


def hidden_layer(inputs, outputs):
    return nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.2)
""",
    "losses.py": """\
from torch.nn.functional import cross_entropy


def doubled(logits, labels):
    return 2 * cross_entropy(logits, labels)
""",
    "schedules.py": """\
def cooled(now, factor):
    return now.learning_rate * factor ** int(now.epoch), 0.9 if now.step else 0.8
""",
    "measures.py": """\
def mean_of(epochs, metric):
    return sum(epochs[metric]) / len(epochs[metric])
""",
}


def write_parts(folder, text=PARTS, **files):
    """Write the study with its own Python into a new folder, and return the folder. `files` replace some, by stem."""
    write_study(folder, text)
    for name, content in (OWN_FILES | {f"{stem}.py": content for stem, content in files.items()}).items():
        (folder / name).write_text(content)
    return folder
