"""Commands on a real Ray cluster, and what they have done so far."""

import re
import shutil
import subprocess

import pytest
from filelock import FileLock, Timeout

from helpers.faults import PATIENCE_SECONDS

RATES = "6e-3,6e-4,6e-5"
SMALL = ("sweep", "--scheduler", "step", "--learning-rates", RATES, "--epochs", "2", "--train-size", "640")
# Long enough to be struck in the middle: some ten seconds where three share two cores.
LONG = ("sweep", "--scheduler", "step", "--learning-rates", RATES, "--epochs", "16", "--train-size", "6400")
ON_RAY = "a sweep on a Ray cluster"
LABELS = ("step 6e-3 seed 0", "step 6e-4 seed 0", "step 6e-5 seed 0")

separate_disks = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount something for one process alone",
)


def on(nodes, *more):
    return ("--device", "cpu", "--executor", "ray", "--ray-address", nodes.address, *more)


def trial_runs(ours):
    return {run.info.run_name.partition(",")[0]: run for run in ours._runs() if "fingerprint" in run.data.tags}


def is_at_work(nodes, ours, lock):
    """Whether a worker holds the lock, is through with opening its run, and has saved an epoch, if not in this try."""
    status = trial_runs(ours)[LABELS[1]].info.status
    return status == "RUNNING" and list(lock.parent.glob("epoch-*")) and nodes.holder(lock)


def is_held(lock):
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def directory(ours, label):
    return ours.home / "trials" / trial_runs(ours)[label].data.tags["fingerprint"]


def saved(ours):
    """How many trials are under way, each with an epoch to go on from."""
    return len({mark.parent for mark in ours.home.glob("trials/*/under-way")}
               & {epoch.parent for epoch in ours.home.glob("trials/*/epoch-*")})  # fmt: skip


def epochs(ours):
    """How many trials have recorded an epoch."""
    return sum("train_loss" in run.data.metrics for run in trial_runs(ours).values())


# What a command says only where the machine or its disk is slow (reproduce.progress.say_if_slow), and that it is over.
ONLY_IF_SLOW = re.compile(
    r"waiting for .*, for up to .*"
    r"|the tracking store .* is (new and is being made, which takes some seconds|back)"
    r"|the tracking store .*, for up to .*"
    r"|compiling the kernel of engine .*, for up to .*"
)


def told(said):
    """The lines of a command, but for what depends on how quick the machine is, and where to compare runs."""
    lines = [line for line in said.splitlines() if not line.startswith("to compare the runs, ")]
    return [line for line in lines if not ONLY_IF_SLOW.fullmatch(line)]


def refused(ours, *words):
    """The one line with which a command ends before it has begun anything."""
    running = ours.start(*words)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 2, said
    (line,) = told(said)
    assert not any("fingerprint" in run.data.tags or run.data.tags.get("kind") == "parent" for run in ours._runs())
    return f"{line}\n"
