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
