"""The paper's study on two Ray nodes against MLflow on PostgreSQL, one node killed on the way. Into docs/scaling.md.

    .venv/bin/python bench/cluster.py [COMMAND OPTIONS…]

Another command than `main` is a part of the study only, and the page says so.

What it ends with is held against report/reference, which is the plain local run of the same code: every metric of every
epoch, to the last bit.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

import mlflow

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers.ray_cluster import RayCluster  # noqa: E402
from helpers.servers import Postgres, Server  # noqa: E402

RECORD, PAGE = ROOT / "bench" / "cluster.json", ROOT / "docs" / "scaling.md"
REFERENCE = ROOT / "report" / "reference" / "runs.json"
KILLED_AT = 10  # epochs that the trials of both nodes have saved


def study(folder: Path, uri: str, words: list[str]) -> tuple[list[str], float]:
    """Run it on two nodes, and kill one and add another as it runs: what it said, and the seconds it took."""
    ray, home = RayCluster(), folder / "home"
    environment = os.environ | ray.access | {"REPRODUCE_HOME": str(home), "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "reproduce", *words, "--executor", "ray"]
    said, begun = [], time.monotonic()
    try:
        ray.begin()
        ray.start("two")
        command += ["--ray-address", ray.address]
        running = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)

        def listen() -> None:
            for line in running.stderr:
                print(line, end="", file=sys.stderr)
                said.append(line)

        listener = threading.Thread(target=listen)
        listener.start()
        while running.poll() is None:
            time.sleep(1)
            saved = {path.parent for path in home.glob("trials/*/epoch-*") if path.name >= f"epoch-{KILLED_AT:04d}"}
            if "two" in ray.nodes and len(saved) == 2:
                ray.kill("two")
                print("a node was killed", file=sys.stderr)
                ray.start("three")
        listener.join()
        if running.returncode != 0:
            raise SystemExit(f"the study ended with {running.returncode}")
        if "two" in ray.nodes:
            raise SystemExit("the study was over before a node was killed: take one that is longer")
        return said, time.monotonic() - begun
    finally:
        ray.end()


def compared(uri: str) -> Counter:
    """How many values are there in the store, and how many are not those of the reference."""
    client, count = mlflow.MlflowClient(uri), Counter()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    known = {run["specification"]: run for run in json.loads(REFERENCE.read_text())["runs"]}
    runs = [run for run in client.search_runs(experiments) if "specification" in run.data.tags]
    for run in runs:
        count["runs"] += 1
        count["ended otherwise"] += run.info.status != "FINISHED"
        for name, expected in known[run.data.tags["specification"]]["epochs"].items():
            points = client.get_metric_history(run.info.run_id, name)
            found = {point.step: point.value for point in points}
            count["values"] += len(expected)
            count["doubled"] += len(points) - len(found)
            count["other bits"] += sum(found.get(epoch) != value for epoch, value in enumerate(expected, start=1))
    count["runs doubled"] = len(runs) - len({run.data.tags["specification"] for run in runs})
    return count


def table(record: dict) -> str:
    """The record as Markdown."""
    rows = [f"| {name} | {value} |" for name, value in record["found"].items()]
    return "\n".join(["| | |", "|-|-|", *rows, "", record["made"], ""])


def page_with(record: dict, page: str) -> str:
    """The page with the record's table in its place."""
    return re.sub(
        r"(?<=<!-- cluster -->\n).*(?=<!-- /cluster -->)", lambda _: table(record), page, count=1, flags=re.DOTALL
    )


def main() -> None:
    """Run it, and put what came of it into the page."""
    words = sys.argv[1:] or ["main"]
    with tempfile.TemporaryDirectory(prefix="c") as name:
        folder, database = Path(name), Postgres().start()
        server = Server(folder / "server", database.uri).start()
        try:
            said, seconds = study(folder, server.uri, words)
            count = compared(server.uri)
        finally:
            server.kill()
            database.remove()
    record = {
        "made": f"`reproduce {' '.join(words)}` on two nodes of one core each. One node was killed after the trials of "
        f"both had saved {KILLED_AT} epochs, and another node was started. It took {seconds / 60:.0f} minutes. Made by "
        f"`make cluster` on {date.today()}.",
        "found": {
            "trials": count["runs"],
            "of them resumed after the node was killed": sum(": resumed, " in line for line in said),
            "not finished": count["ended otherwise"],
            "runs of a trial that has one already": count["runs doubled"],
            "values of metrics held against the local run's": count["values"],
            "values that are missing or differ in any bit": count["other bits"],
            "values that are there twice": count["doubled"],
        },
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page_with(record, PAGE.read_text()))
    print(table(record))


if __name__ == "__main__":
    main()
