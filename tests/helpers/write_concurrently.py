"""Processes that write trials to one store at once: `write_concurrently.py DIRECTORY URI TRIALS…`, one for each word.

Each word names, by their numbers in `study`, the trials that one process writes, as in 0,8. Every process has a home of
its own, as on machines of their own. What each made of its trials is in DIRECTORY/NUMBER.json: run ids, in order.
"""

import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from reproduce.report import trial_artifacts
from reproduce.studies.lenet5_mnist.network import LeNet5
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.study.trial import Trial
from reproduce.tracking.logged_model import TrainedNetwork
from reproduce.tracking.parent_run import log_outcomes, open_parent_run
from reproduce.tracking.store import open_store
from reproduce.training.epoch_record import EpochRecord

STEPS = 40  # an epoch: enough for a range test to read a rate off
JUDGED = 3  # times an epoch that a range test judges what it holds out
SMOOTHING = 0.9


def trials() -> list[Trial]:
    """The paper's own study, a range test and 15 models, and last a short trial of another seed."""
    paper, config = load_paper(), StudyConfig(engine="fused")
    short = StudyConfig(engine="fused", schedulers=("step",), learning_rates=(6e-4,), seeds=(1,), epochs=3)
    return planning.range_tests(paper, config) + planning.trials(paper, config) + planning.trials(paper, short)


def history(trial: Trial) -> list[EpochRecord]:
    """What the trial might have given: made up, but no number is twice in all of the trials."""
    dice = np.random.default_rng(int(trial.config_hash[:8], 16))
    records = []
    for epoch in range(1, trial.epochs + 1):
        rates = np.geomspace(1e-6, 1.0, trial.epochs * STEPS)[(epoch - 1) * STEPS : epoch * STEPS]
        accuracies = (float("nan"), float("nan")) if trial.is_range_test else dice.random(2).tolist()
        steps = np.linspace((epoch - 1) * STEPS, epoch * STEPS - 1, JUDGED).round()
        validation = np.column_stack([steps, dice.random(JUDGED), dice.random(JUDGED)])
        records.append(
            EpochRecord(
                epoch=epoch,
                # What a database has no number for is a result as well.
                train_loss=float("nan") if trial.schedule.name == "onecycle" and epoch == 3 else dice.random(),
                test_accuracy=accuracies[0],
                test_accuracy_batch_mean=accuracies[1],
                learning_rate=dice.random(),
                wall_seconds=dice.random(),
                finished_at=1.7e9 + epoch,
                step_losses=(3 - dice.random(STEPS) - np.log10(rates) / 3).astype(np.float32),
                step_learning_rates=rates,
                diverged=False,
                validation=validation if trial.is_range_test else np.empty((0, 3)),
            )
        )
    return records


def write(directory: Path, uri: str, number: int, mine: list[Trial], all_here: multiprocessing.Barrier) -> None:
    """Write trials as a command does, and begin at the same moment as all others."""
    written = []
    all_here.wait()
    store = open_store(directory / f"home-{number}", uri)
    with open_parent_run(store, "sweep", {"writer": number}) as parent_id:
        for trial in mine:
            all_here.wait()
            run_id, resumed = store.writer.open_trial(trial, trial.cache_key({}), parent_id)
            assert not resumed
            with store.heartbeat.record_heartbeat(run_id), tempfile.TemporaryDirectory() as folder:
                records = history(trial)
                for record in records:
                    store.writer.log_epoch(run_id, record)
                tags = {}
                if trial.is_range_test:
                    tags = trial_artifacts.write_artifacts(trial, records, Path(folder), SMOOTHING)
                network = None if trial.is_range_test else TrainedNetwork(directory / "weights.safetensors")
                store.writer.finish_trial(run_id, records, Path(folder), network, tags)
            written.append(run_id)
        log_outcomes(
            store, parent_id, [(trial, run_id, "trained") for trial, run_id in zip(mine, written, strict=True)]
        )
    (directory / f"{number}.json").write_text(json.dumps(written))


def main(directory: Path, uri: str, shares: list[str]) -> int:
    """Have each share of the trials written; the exit code."""
    torch.manual_seed(0)
    save_file(LeNet5().state_dict(), directory / "weights.safetensors")
    every = trials()
    context = multiprocessing.get_context("fork")  # what takes seconds to import is imported once
    all_here = context.Barrier(len(shares), timeout=300)
    processes = [
        context.Process(
            target=write, args=(directory, uri, number, [every[int(i)] for i in share.split(",")], all_here)
        )
        for number, share in enumerate(shares)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
