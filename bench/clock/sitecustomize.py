"""Clocks what some functions of the package cost, in each process that has this folder on its PYTHONPATH.

Each process appends lines to a file of its own in the folder that CLOCK names: a stage, and the seconds of CPU time
that a call spent in it and in no stage within it. Python imports this module at the start of every process.
"""

import functools
import importlib.machinery
import os
import sys
import time
from pathlib import Path

# What is clocked, by module.
STAGES = {
    "reproduce.training.loop": {"_Run.train_epoch": "training", "evaluate": "evaluation", "_Run.start": "set-up"},
    "reproduce.training.torch_setup": {"launch": "set-up"},
    "reproduce.training.checkpoints": {"Checkpoints.save": "checkpoints", "Checkpoints.restore": "checkpoints"},
    "reproduce.data.study_data": {"open_for": "data"},
    "reproduce.data.verified_cache": {"prepare": "data"},
    "reproduce.tracking.store": {"reopen_store": "tracking", "open_store": "tracking"},
    "reproduce.tracking.writer": {
        f"RunWriter.{name}": "tracking" for name in ("open_trial", "log_epoch", "finish_trial", "fail_trial")
    },
    "reproduce.tracking.parent_run": {"log_outcomes": "tracking"},
    "reproduce.report.trial_artifacts": {"write_artifacts": "figures of each trial"},
    "reproduce.report.build": {"write": "report"},
    "reproduce.execution.worker": {"run_to_the_end": "imports and the rest of a trial"},
}  # fmt: skip
LIBRARIES = ("torch", "mlflow", "colossalai", "ray", "sklearn", "scipy", "matplotlib")
within: list[float] = []


def record(stage: str, seconds: float) -> None:
    """Append a line; a process may be ended at any moment."""
    with (Path(os.environ["CLOCK"]) / str(os.getpid())).open("a") as file:
        file.write(f"{stage}\t{seconds}\n")


def clocked(function, stage):
    """The function, which records its own CPU time."""

    @functools.wraps(function)
    def call(*arguments, **named):
        within.append(0.0)
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            spent = time.process_time() - started
            record(stage, spent - within.pop())
            if within:
                within[-1] += spent

    return call


class Finder:
    """Finds the modules above, and clocks their functions once they are executed; and the import of large libraries."""

    def find_spec(self, name, path, target=None):
        """Return the module's ordinary specification, with a loader that does so."""
        if name not in STAGES and name not in LIBRARIES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for place, stage in STAGES[name].items():
                *owners, last = place.split(".")
                owner = functools.reduce(getattr, owners, module)
                found = owner.__dict__[last]
                plain = found.__func__ if isinstance(found, classmethod) else found
                wrapped = clocked(plain, stage)
                setattr(owner, last, classmethod(wrapped) if isinstance(found, classmethod) else wrapped)

        spec.loader.exec_module = exec_module if name in STAGES else clocked(execute, f"import of {name}")
        return spec


if os.environ.get("CLOCK"):
    sys.meta_path.insert(0, Finder())
