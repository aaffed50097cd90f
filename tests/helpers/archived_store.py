"""A tracking store with runs of the archived report, as a command would have recorded them, in seconds."""

import shutil
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from helpers import ROOT
from reproduce.analysis.lr_range_test import Curve
from reproduce.results.archive import Archive
from reproduce.study import planning
from reproduce.study.loading import load_paper
from reproduce.tracking import local_store
from reproduce.tracking.writer import ramp_metrics

ARCHIVE = ROOT / "report" / "reference" / "runs.json"


def fill(folder: Path, empty_database: Path, seeds=(0,), times=1) -> tuple[str, int]:
    """Make the store, and return the experiment's id and how many models are recorded in it.

    Each seed's runs are recorded `times` times, under seeds of their own.
    """
    shutil.copy(empty_database, folder / "mlflow.db")
    client = MlflowClient(local_store.make_uri(folder / "mlflow.db"))
    experiment_id = client.create_experiment("lenet5-mnist", str(folder / "mlruns" / "1"))
    parent_id = client.create_run(experiment_id, tags={"kind": "parent"}, run_name="main").info.run_id
    archive, paper, models = Archive(ARCHIVE), load_paper(), 0
    runs = archive.finished_runs()
    config = archive.config.model_copy(update={"seeds": seeds, "optimizer": "adam"})
    for trial in planning.range_tests(paper, config) + planning.trials(paper, config):
        recorded = runs[trial.config_hash]
        result = archive.result(trial, recorded)
        points = [
            Metric(name, value, 0, epoch)
            for name, values in result.epochs.items()
            for epoch, value in enumerate(values, start=1)
        ]
        if trial.is_range_test:
            points += ramp_metrics(Curve(*archive.curve(recorded.run_id)), 0)
        for copy in range(times):
            mine = trial.model_copy(update={"seed": trial.seed + copy * len(seeds)})
            tags = {"kind": "range_test" if trial.is_range_test else "trial", "mlflow.parentRunId": parent_id,
                    "specification": mine.config_hash, "seed": str(mine.seed), "outcome": result.outcome}  # fmt: skip
            run_id = client.create_run(experiment_id, tags=tags, run_name=mine.run_name).info.run_id
            client.log_batch(run_id, points, [Param(key, str(value)) for key, value in mine.parameters().items()])
            client.set_terminated(run_id)
            models += not trial.is_range_test
    client.set_terminated(parent_id)
    return experiment_id, models
