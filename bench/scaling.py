"""What a trial costs beside its training, on one core and on two, and by a Ray cluster. Into docs/scaling.md.

    .venv/bin/python bench/scaling.py [STORE]

The same real sweep several times over, each with an empty store; the times are those that its runs have recorded. With
the address of a store, what the largest command in it took beside its training.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import mlflow
import shared_store

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "bench" / "scaling.json", ROOT / "docs" / "scaling.md"
TRIALS, EPOCHS, REPEATS = 2, 4, 3
PAPERS_EPOCHS = 30
WAYS = {"local, one at a time": ("local", 1), "local, two at once": ("local", 2), "Ray, two at once": ("ray", 2)}
COMMAND = ("sweep", "--scheduler", "none", "--learning-rates", ",".join(f"{n}e-4" for n in range(1, TRIALS + 1)),
           "--epochs", str(EPOCHS), "--device", "cpu")  # fmt: skip


def measured(executor: str, jobs: int) -> dict[str, float]:
    """One sweep: seconds, and what of them was what."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {
            "REPRODUCE_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }  # fmt: skip
        ours = [sys.executable, "-m", "reproduce"]
        subprocess.run([*ours, "data"], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"]).search_experiments()  # makes the store
        begun = time.time()
        subprocess.run(
            [*ours, *COMMAND, "--jobs", str(jobs), "--executor", executor], cwd=ROOT, env=environment, check=True
        )
        client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, "tags.kind = 'trial'", max_results=TRIALS)
        training = [sum(m.value for m in client.get_metric_history(run.info.run_id, "wall_seconds")) for run in runs]
        spent = [(run.info.end_time - run.info.start_time) / 1000 for run in runs]
        first, last = min(run.info.start_time for run in runs) / 1000, max(run.info.end_time for run in runs) / 1000
        return {
            "start_up": first - begun,
            "trials_per_hour": 3600 * TRIALS / (last - first),
            "epoch": sum(training) / TRIALS / EPOCHS,
            "tracking": (sum(spent) - sum(training)) / TRIALS,
            "executor": (jobs * (last - first) - sum(spent)) / TRIALS,
        }


def of_study(uri: str) -> str:
    """What the newest `reproduce main` took beside its training, two at once, as its runs tell."""
    client = mlflow.MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (study,) = client.search_runs(experiments, "attributes.run_name = 'main'", max_results=1)
    runs = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{study.info.run_id}'", max_results=5000)
    training = [sum(m.value for m in client.get_metric_history(run.info.run_id, "wall_seconds")) for run in runs]
    starts, ends = (sorted(getattr(run.info, name) / 1000 for run in runs) for name in ("start_time", "end_time"))
    gaps = [start - end for start, end in zip(starts[2:], ends, strict=False)]  # until a core has its next trial
    tracking = sum(ends) - sum(starts) - sum(training)
    place = Path(client.get_experiment(study.info.experiment_id).artifact_location)
    everything = client.search_runs(experiments, "tags.fingerprint LIKE '%'", max_results=5000)
    mebibytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 2**20 / len(everything)
    hourly = 3600 * len(runs) / (ends[-1] - starts[0])
    return (
        f"`reproduce main`, {len(runs)} trials, two at once on two cores into SQLite, with other work beside it: "
        f"{hourly:.0f} trials an hour, {statistics.median(training):.0f} s of training in the median one. The record "
        f"took {tracking / sum(training):.1%} of the training's time, and the wait of a core for its next trial "
        f"{sum(gaps) / sum(training):.1%}, {statistics.median(gaps):.2f} s in the median. A trial leaves "
        f"{mebibytes:.1f} MiB of artifacts; by "
        "`bench/scaling.py STORE` on the store behind report/reference.\n"
    )


def table(record: dict) -> str:
    """The record as Markdown: medians over the repeats."""
    lines = [
        "| | start-up, s | trials an hour | an epoch, s | tracking, s a trial | executor, s a trial | both, of the "
        f"training of {PAPERS_EPOCHS} epochs |",
        "|-|-|-|-|-|-|-|",
    ]
    for way, runs in record["ways"].items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        part = (middle["tracking"] + middle["executor"]) / (PAPERS_EPOCHS * middle["epoch"])
        lines.append(
            f"| {way} | {middle['start_up']:.1f} | {middle['trials_per_hour']:.0f} | {middle['epoch']:.2f} "
            f"| {middle['tracking']:.2f} | {middle['executor']:.2f} | {part:.1%} |"
        )
    store = record["store"]
    requests = store["requests_a_trial"] + PAPERS_EPOCHS * store["requests_an_epoch"]
    sentence = (
        f"A trial of {PAPERS_EPOCHS} epochs asks the tracking server {requests:.0f} times, "
        f"{store['requests_an_epoch']:.1f} of them an epoch, and leaves {store['files']:.0f} files. One "
        f"server process on PostgreSQL, on this machine, wrote "
        f"{store['writes_a_second']:.0f} epochs a second for {shared_store.WRITERS} writers at once, and read "
        f"{store['histories_a_second']:.0f} metrics' histories a second for one reader."
    )
    return "\n".join([*lines, "", sentence, "", record["made"], ""])


def page_with(record: dict, page: str) -> str:
    """The page with the record's table in its place."""
    return re.sub(r"(?<=<!-- cost -->\n).*(?=<!-- /cost -->)", lambda _: table(record), page, count=1, flags=re.DOTALL)


def main() -> None:
    """Run it, and put what was seen into the page."""
    if sys.argv[1:]:
        found = of_study(sys.argv[1])
        page = re.sub(r"(?<=<!-- study -->\n).*(?=<!-- /study -->)", lambda _: found, PAGE.read_text(), flags=re.DOTALL)
        PAGE.write_text(page)
        return print(found)
    ways: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):  # in turn, so that what else the machine does strikes all of them
        for way, (executor, jobs) in WAYS.items():
            ways[way].append({key: round(value, 4) for key, value in measured(executor, jobs).items()})
    record = {
        "made": f"{TRIALS} trials of {EPOCHS} epochs of 60,000 images, {REPEATS} times each way in turn, medians; "
        f"by `make scaling` on {date.today()}.",
        "ways": ways,
        "store": {key: round(value, 3) for key, value in shared_store.measured().items()},
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page_with(record, PAGE.read_text()))
    print(table(record))


if __name__ == "__main__":
    main()
