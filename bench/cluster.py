"""The paper's study on two Ray nodes against MLflow on PostgreSQL, one node killed on the way. Into docs/scaling.md.

    .venv/bin/python bench/cluster.py

What it ends with is held against report/reference, which is the plain local run of the same code: every metric of every
epoch, to the last bit.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import mlflow
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from servers import Postgres, Server, free_port  # noqa: E402

RECORD, PAGE = ROOT / "bench" / "cluster.json", ROOT / "docs" / "scaling.md"
REFERENCE = ROOT / "report" / "reference" / "runs.json"
KILLED_AFTER = 6  # of the study's 16 trials
RAY = (str(Path(sys.executable).with_name("ray")), "start", "--num-cpus", "1", "--block", "--disable-usage-stats")


class Node:
    """A node of one core: its raylet and all that came with it."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen([*RAY, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as a power cut does."""
        everything = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        for process in everything:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def study(folder: Path, uri: str) -> tuple[list[str], float]:
    """Run it on two nodes, and kill one and add another as it runs: what it said, and the seconds it took."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = Node("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", str(folder / "r"))
    environment = os.environ | {"REPRODUCE_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": uri}
    nodes, said, begun = [head], [], time.monotonic()
    try:
        time.sleep(10)  # for the head to listen
        nodes.append(Node("--address", address))
        command = [sys.executable, "-m", "reproduce", "main", "--executor", "ray", "--ray-address", address,
                   "--output", str(folder / "report")]  # fmt: skip
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for line in running.stderr:
            print(line, end="", file=sys.stderr)
            said.append(line.strip())
            if len(nodes) == 2 and sum(": trained, " in told for told in said) == KILLED_AFTER:
                nodes[1].kill()
                said.append("(a node was killed here)")
                nodes.append(Node("--address", address))
        if running.wait() != 0:
            raise SystemExit(f"the study ended with {running.returncode}")
        return said, time.monotonic() - begun
    finally:
        for node in reversed(nodes):
            if node.process.poll() is None:
                node.kill()


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
    with tempfile.TemporaryDirectory(prefix="c") as name:
        folder, database = Path(name), Postgres().start()
        server = Server(folder / "server", database.uri).start()
        try:
            said, seconds = study(folder, server.uri)
            count = compared(server.uri)
        finally:
            server.kill()
            database.remove()
    record = {
        "made": f"The paper's study, seed 0, on two nodes of one core each, one killed after {KILLED_AFTER} trials and "
        f"another begun; {seconds / 60:.0f} minutes, by `make cluster` on {date.today()}.",
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
