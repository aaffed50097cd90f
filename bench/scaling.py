"""What a trial costs beside its training, on one core and on two, and by a Ray cluster. Into docs/scaling.md.

    .venv/bin/python bench/scaling.py [STORE]

The same real sweep several times over, each with an empty store; the times are those that its runs have recorded. With
the address of a store, only what the newest `reproduce main` in it took beside its training.
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
import on_paper
import shared_store

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "bench" / "scaling.json", ROOT / "docs" / "scaling.md"
TRIALS, EPOCHS, REPEATS = 8, 4, 3
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
        begun, alone = time.time(), ["--ray-address", "local"] if executor == "ray" else []
        subprocess.run(
            [*ours, *COMMAND, "--jobs", str(jobs), "--executor", executor, *alone],
            cwd=ROOT,
            env=environment,
            check=True,
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


def of_study(uri: str) -> dict[str, float]:
    """What the newest `reproduce main` took beside its training, two at once, as its runs tell; seconds, MiB."""
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
    return {
        "trials": len(runs),
        "trials_per_hour": 3600 * len(runs) / (ends[-1] - starts[0]),
        "training": statistics.median(training),
        "tracking": tracking / sum(training),
        "executor": sum(gaps) / sum(training),
        "gap": statistics.median(gaps),
        "mebibytes": mebibytes,
    }


def sentences(study: dict[str, float]) -> str:
    """What a study took, as Markdown."""
    return (
        f"`reproduce main` trained {study['trials']} trials, two at once on two cores, and recorded them in SQLite, "
        f"while other programs ran too: {study['trials_per_hour']:.0f} trials per hour, with {study['training']:.0f} s "
        f"of training in the median trial. Recording took {study['tracking']:.1%} of the training time. Cores waited "
        f"{study['executor']:.1%} of the training time for their next trial, {study['gap']:.2f} s in the median. "
        f"A trial leaves {study['mebibytes']:.1f} MiB of artifacts. Measured by `bench/scaling.py STORE` on the "
        "store behind report/reference.\n"
    )


def table(record: dict) -> str:
    """The record as Markdown: medians over the repeats."""
    lines = [
        "| | start-up, s | trials per hour | epoch, s | recording, s per trial | dispatch, s per trial | recording and "
        f"dispatch, of the training of {PAPERS_EPOCHS} epochs |",
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
        f"A trial of {PAPERS_EPOCHS} epochs sends {requests:.0f} requests to the tracking server, "
        f"{store['requests_an_epoch']:.0f} for each epoch and the others once. It leaves {store['files']:.0f} files. "
        "On this machine, one server with two workers on PostgreSQL recorded the metrics of "
        f"{store['writes_a_second']:.0f} epochs per second from {shared_store.WRITERS} writers at once. For one reader "
        f"it found {store['searches_a_second']:.0f} trials per second by cache key, or listed "
        f"{store['runs_a_second']:.0f} runs per second, or returned {store['histories_a_second']:.0f} metric histories "
        "per second."
    )
    return "\n".join([*lines, "", sentence, "", record["made"], ""])


def page_with(record: dict, page: str) -> str:
    """The page with what the record tells in its places."""
    store, two = record["store"], record["ways"]["local, two at once"]
    sums = on_paper.sums(
        epochs=PAPERS_EPOCHS,
        seconds=PAPERS_EPOCHS * statistics.median(run["epoch"] for run in two),
        requests=store["requests_a_trial"] + PAPERS_EPOCHS * store["requests_an_epoch"],
        files=store["files"],
        mebibytes=record["study"]["mebibytes"],
        writes=store["writes_a_second"],
        searches=store["searches_a_second"],
        runs=store["runs_a_second"],
        histories=store["histories_a_second"],
    )
    for name, text in {"study": sentences(record["study"]), "cost": table(record), "paper": sums}.items():
        place = re.compile(rf"(?<=<!-- {name} -->\n).*(?=<!-- /{name} -->)", re.DOTALL)
        page = place.sub(lambda _, text=text: text, page, count=1)
    return page


def main() -> None:
    """Run it, and put what was seen into the page."""
    record = json.loads(RECORD.read_text())
    if sys.argv[1:]:
        record["study"] = {key: round(value, 4) for key, value in of_study(sys.argv[1]).items()}
    else:
        record |= costs()
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page_with(record, PAGE.read_text()))
    print(table(record), sentences(record["study"]), sep="\n")


def costs() -> dict:
    """The short sweeps, and what a trial asks of a store."""
    ways: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):  # in turn, so that what else the machine does strikes all of them
        for way, (executor, jobs) in WAYS.items():
            ways[way].append({key: round(value, 4) for key, value in measured(executor, jobs).items()})
    return {
        "made": f"{TRIALS} trials of {EPOCHS} epochs of 60,000 images, measured {REPEATS} times each way in turn; "
        f"medians. Made by `make scaling` on {date.today()}.",
        "ways": ways,
        "store": {key: round(value, 3) for key, value in shared_store.measured().items()},
    }


if __name__ == "__main__":
    main()
