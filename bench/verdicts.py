"""How long the verdicts take, and how much memory, on a store of a thousand trials; prints both.

    .venv/bin/python bench/verdicts.py

The trials are the paper's own study, its grid and the other optimizers, seed after seed, with the metrics that a run
has, 30 epochs each, made up. `reproduce verify` and `reproduce report` read them as they would read real ones.
"""

import csv
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from mlflow.entities import Metric, Param

from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.study.trial import Trial
from reproduce.tracking.reader import CURVE_FILE, METRICS
from reproduce.tracking.store import TrackingStore, open_store

TRIALS = 1000
CURVES = Path(__file__).resolve().parent.parent / "report" / "reference" / "range-test.csv"


def planned() -> list[Trial]:
    """The first thousand trials of the study, seed by seed."""
    paper, found = load_paper(), {}
    for seed in count():
        own = StudyConfig(seeds=(seed,), engine="fused")
        for optimizer in paper.optimizers:
            config = own.model_copy(update={"optimizer": optimizer})
            for trial in (
                planning.range_tests(paper, config)
                + planning.grid_trials(paper, config)
                + planning.trials(paper, config)
            ):
                found[trial] = None
                if len(found) == TRIALS:
                    return list(found)


def recorded_curve() -> str:
    """curve.csv as a range test's run has it, from the archived one of seed 0."""
    with CURVES.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "0"]
    return "step,learning_rate,loss\n" + "".join(f"{r['step']},{r['learning_rate']},{r['loss']}\n" for r in rows)


def fill(store: TrackingStore) -> None:
    """Put them into the store as finished runs."""
    rng, curve = random.Random(0), recorded_curve()
    for trial in planned():
        tags = {
            "specification": trial.config_hash, "outcome": "finished", "seed": str(trial.seed),
            "kind": "range_test" if trial.is_range_test else "trial",
        }  # fmt: skip
        run_id = store.mlflow.create_run(store.experiment_id, tags=tags, run_name=trial.run_name).info.run_id
        names = [name for name in METRICS if not (trial.is_range_test and name.startswith("test_"))]
        metrics = [
            Metric(name, 0.9 + 0.05 * rng.random(), 0, epoch) for name in names for epoch in range(1, trial.epochs + 1)
        ]
        parameters = [Param(key, str(value)) for key, value in trial.parameters().items()]
        store.mlflow.log_batch(run_id, metrics=metrics, params=parameters)
        if trial.is_range_test:
            store.mlflow.log_text(run_id, curve, CURVE_FILE)
        store.mlflow.set_terminated(run_id)


def main() -> None:
    """Fill a store of its own, have it judged and reported on, and print what that took."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        store = open_store(Path(folder) / "home", f"sqlite:///{folder}/mlflow.db")
        fill(store)
        seeds = ",".join(map(str, store.reader.seeds()))
        numerics_environment = os.environ | {"MLFLOW_TRACKING_URI": store.uri, "REPRODUCE_HOME": str(store.home)}
        for command in (["verify"], ["report", "--seeds", seeds]):
            started = time.perf_counter()
            words = [sys.executable, "-m", "reproduce", *command]
            done = subprocess.run(words, env=numerics_environment, capture_output=True, text=True)
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # the largest so far
            print(f"{' '.join(command)}, {TRIALS} trials: {seconds:.1f} s, {peak:.2f} GiB at most, exit code "
                  f"{done.returncode}; {done.stdout.splitlines()[-1]}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
