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

    return library.find_or_compile(CACHE)


def run_options(home, **changes):
    """Options to train on the CPU of this machine."""
    from reproduce.execution.run_options import RunOptions

    options = {"home": home, "device": "cpu", "engine": "fused", "jobs": 2, "smoothing": 0.9}
    return RunOptions(**(options | changes))


def task_for(store, trial):
    """A task of a command whose run is called `parent`."""
    from reproduce.execution.executor import Placement, TrialTask

    where = (store.home, store.uri, store.experiment_id)
    return TrialTask(trial, "a" * 64, *where, "parent", Placement(1, 0, None), None, reuse=True)


def run(store, trials, **changes):
    """Run trials under a parent: its run id, and what became of each."""
    from reproduce.execution import local, runner
    from reproduce.report import trial_artifacts
    from reproduce.tracking.parent_run import log_outcomes, open_parent_run

    executor = local.Pool(run_options(store.home, jobs=changes.pop("jobs", 2)))
    executor.kernel = kernel()
    with open_parent_run(store, "sweep", {"scheduler": "test"}) as parent_id:
        settings = {"force": False, "draw_artifacts": functools.partial(trial_artifacts.write_artifacts, smoothing=0.9)}
        done = runner.run(trials, store, parent_id, executor=executor, **(settings | changes))
        log_outcomes(store, parent_id, [(item.trial, item.run_id, item.state) for item in done])
    return parent_id, done


def own_workshop(directory, cache, uri=None, **environment):
    from helpers.faults import Workshop

    kernel()
    made = Workshop(directory, uri, REPRODUCE_FUSED_DIR=str(CACHE / "fused"), **environment)
    made.share(cache / "data" / "mnist")
    return made
