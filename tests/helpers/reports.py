"""A report on a small study."""

from helpers.small import small_config
from reproduce.report import build
from reproduce.results.run_collection import RunCollection

SMALL_STUDY = small_config(learning_rates=(6e-4,), schedulers=("step", "multistep"))


def write_report(store, paper, output, config=SMALL_STUDY):
    """Write it, and return how many runs are missing."""
    return len(build.write(RunCollection(store.reader, paper, config, 0.9), output).missing)
