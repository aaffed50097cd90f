"""Two hundred short trials in one go: does the command grow, or the store slow down? Into docs/reliability.md.

    .venv/bin/python bench/soak.py

A real sweep, watched from outside; a trial's time in the store is what its run took beyond its training.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import mlflow
import psutil

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "bench" / "soak.json", ROOT / "docs" / "reliability.md"
RATES, SEEDS = 10, 20
SETTLED = 20  # trials until everything has been used once
COMMAND = ("sweep", "--scheduler", "none", "--learning-rates", ",".join(f"{n}e-4" for n in range(1, RATES + 1)),
           "--seeds", f"0-{SEEDS - 1}", "--epochs", "1", "--train-size", "640", "--device", "cpu")  # fmt: skip


def watched(folder: Path) -> list[dict[str, float]]:
    """Run the sweep, and look at the command's memory in MiB and its open files as each trial ends."""
    environment = os.environ | {
        "REPRODUCE_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }  # fmt: skip
    command = [sys.executable, "-m", "reproduce", *COMMAND]
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    process, seen = psutil.Process(running.pid), []
    for line in running.stderr:
        print(line, end="", file=sys.stderr)
        if ": trained, " in line:
            seen.append({"memory": process.memory_info().rss / 2**20, "files": process.num_fds()})
    if running.wait() != 0:
        raise SystemExit(f"the sweep ended with {running.returncode}")
    return seen


def store_seconds(folder: Path) -> list[float]:
    """What each trial's run took beyond its training, in the order of their ends."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.kind = 'trial'", max_results=RATES * SEEDS)
    runs = sorted(runs, key=lambda run: run.info.end_time)
    return [(run.info.end_time - run.info.start_time) / 1000 - run.data.metrics["wall_seconds"] for run in runs]


def table(record: dict) -> str:
    """The record as Markdown."""
    head = f"| | after {SETTLED} trials | at most after that | at the end | growth |\n|-|-|-|-|-|\n"
    rows = []
    for name, key, form in (("memory of the command, MiB", "memory", ".0f"), ("its open files", "files", ".0f")):
        first, rest = record[key][SETTLED - 1], record[key][SETTLED:]
        growth = f"{max(rest) / first - 1:+.1%}"
        rows.append(f"| {name} | {first:{form}} | {max(rest):{form}} | {rest[-1]:{form}} | {growth} |\n")
    parts = [record["store"][start : start + 40] for start in (SETTLED, len(record["store"]) - 40)]
    early, late = (statistics.median(part) for part in parts)
    sentence = (
        f"\nA trial's time in the store, median of 40: {early:.2f} s after {SETTLED} trials, {late:.2f} s for "
        f"the last 40, {late / early - 1:+.0%}.\n\n{record['made']}\n"
    )
    return head + "".join(rows) + sentence


def page_with(record: dict, page: str) -> str:
    """The page with the record's table in its place."""
    return re.sub(r"(?<=<!-- soak -->\n).*(?=<!-- /soak -->)", lambda _: table(record), page, count=1, flags=re.DOTALL)


def main() -> None:
    """Run it, and put what was seen into the page."""
    with tempfile.TemporaryDirectory() as folder:
        seen = watched(Path(folder))
        store = store_seconds(Path(folder))
    record = {
        "made": f"{len(store)} trials of one epoch of 640 images, two at once, by `make soak` on {date.today()}.",
        "memory": [round(look["memory"], 1) for look in seen],
        "files": [look["files"] for look in seen],
        "store": [round(seconds, 3) for seconds in store],
    }
    RECORD.write_text(json.dumps(record) + "\n")
    PAGE.write_text(page_with(record, PAGE.read_text()))
    print(table(record))


if __name__ == "__main__":
    main()
