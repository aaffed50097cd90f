"""Two runs and where they come from, for crates."""

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

from reproduce.report import crate
from reproduce.study.loading import load_paper
from reproduce.tracking.reader import Result


def trial(label, **parameters):
    """What a crate says of a trial."""
    return SimpleNamespace(label=label, parameters=lambda: parameters)


STARTED = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
FINISHED = Result(
    trial=trial("step 6e-4 seed 0", optimizer="adam", learning_rate=0.0006, milestones="[2500, 7500]"),
    run_id="872b13166bb74f81893590b33e890a52",
    started_at=STARTED,
    ended_at=STARTED + timedelta(seconds=90),
    experiment_id="1",
    epochs={"test_accuracy_batch_mean": [0.9, 0.9885], "train_loss": [0.3, 0.0312]},
    tags={},
    outcome="finished",
)
DIVERGED = replace(
    FINISHED,
    trial=trial("none 0.6 seed 0", optimizer="adam", learning_rate=0.6),
    run_id="d54f6f04d1f64795a5484e12f28c6d74",
    started_at=STARTED + timedelta(seconds=5),
    ended_at=STARTED + timedelta(seconds=30),
    epochs={"test_accuracy_batch_mean": [0.0], "train_loss": [float("nan")]},
    outcome="diverged",
)
COMMIT = "6f7dd0fc0aac8a03e6f443a775af62cc4bf087cd"
ENVIRONMENT = {
    "commit": [COMMIT],
    "uncommitted changes": ["no"],
    "python": ["3.11.7"],
    "torch": ["2.5.1+cpu"],
    "colossalai": ["0.5.0"],
    "cpu": ["this"],
}
GIVEN = {"command": "reproduce main --seeds 0,1,2", "environment": ENVIRONMENT, "dataset": "mnist"}
PUBLICATION = load_paper().publication


def graph(folder):
    """The crate's entities by their ids."""

    def not_json(constant):
        raise AssertionError(f"{constant} is no JSON")

    entities = json.loads((folder / crate.METADATA).read_text(encoding="utf-8"), parse_constant=not_json)["@graph"]
    by_id = {entity["@id"]: entity for entity in entities}
    assert len(by_id) == len(entities)
    return by_id
