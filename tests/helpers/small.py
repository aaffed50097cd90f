"""Small trials on real images, run and recorded within a second, and directories to run the program in."""

import functools
from pathlib import Path

from helpers import CACHE


def small_config(**changes):
    """Two epochs of 640 real images, five steps each: enough to tell right from wrong, in a tenth of a second."""
    from reproduce.study.config import StudyConfig

    return StudyConfig(**({"epochs": 2, "train_size": 640, "range_test_epochs": 2, "engine": "fused"} | changes))


@functools.cache
def kernel() -> Path:
    """The fused engine's kernel, compiled once."""
    from reproduce.training.fused import library

    return library.ready(CACHE)


def run(store, trials, **changes):
    """Run trials under a parent: its run id, and what became of each."""
    from reproduce.execution import local, runner
    from reproduce.report import trial_artifacts
    from reproduce.tracking.parent_run import log_outcomes, open_parent_run

    ground = changes.pop("ground", None) or local.Pool(changes.pop("jobs", 2), "cpu", 1, kernel())
    with open_parent_run(store, "sweep", {"scheduler": "test"}) as parent_id:
        settings = {"force": False, "artifacts": functools.partial(trial_artifacts.leave_behind, smoothing=0.9)}
        done = runner.run(trials, store, parent_id, ground=ground, **(settings | changes))
        log_outcomes(store, parent_id, [(item.trial, item.run_id, item.how) for item in done])
    return parent_id, done


def own_workshop(directory, cache, uri=None, **environment):
    from helpers.faults import Workshop

    kernel()
    made = Workshop(directory, uri, REPRODUCE_FUSED_DIR=str(CACHE / "fused"), **environment)
    made.share(cache / "data" / "mnist")
    return made
