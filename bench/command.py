"""How near `reproduce main` comes to the limit of this machine, and where its time goes. Into docs/performance.md.

    .venv/bin/python bench/command.py [--epochs 6]

The study from an installed environment and cached data, into an empty store, with the options that are given, and the
matrix rate of all cores at once, before and after it.
"""

import argparse
import collections
import datetime
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORD, PAGE = HERE / "command.json", ROOT / "docs" / "performance.md"
STEPS = 400


def images_computed(store: str) -> tuple[int, int]:
    """How many images were trained with, and how many evaluated, by the epochs that are recorded."""
    import mlflow

    client = mlflow.MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    trained = evaluated = 0
    for kind, tested in (("trial", 10_000), ("range_test", 0)):
        for run in client.search_runs(experiments, f"tags.kind = '{kind}'", max_results=1000):
            epochs = len(client.get_metric_history(run.info.run_id, "train_loss"))
            trained += epochs * int(run.data.params["train_size"])
            evaluated += epochs * tested
    return trained, evaluated


def stages(folder: Path) -> dict[str, float]:
    """Seconds of CPU time by stage, of all processes together."""
    found: collections.Counter[str] = collections.Counter()
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            stage, seconds = line.split("\t")
            found[stage] += float(seconds)
    return dict(found)


def rate(home: Path, cores: int) -> float:
    """Images a second, forward and backward, of all cores together at the rate of a matrix product."""
    import run

    return run.measure("matrix", cores, run.OURS, STEPS, home)[0]


def measure(home: Path, arguments: list[str]) -> dict:
    """Run the command, with the machine's rate before and after it."""
    import contenders

    from reproduce.training import provenance

    environment, cores = provenance.environment(), provenance.cores()
    rates = [rate(home, cores)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clock, store = folder / "clock", f"sqlite:///{folder}/mlflow.db"
        clock.mkdir()
        for cached in ("data", "fused"):
            shutil.copytree(home / cached, folder / "home" / cached)
        variables = os.environ | {
            "CLOCK": str(clock), "PYTHONPATH": f"{HERE / 'clock'}:{ROOT}", "REPRODUCE_HOME": str(folder / "home"),
            "MLFLOW_TRACKING_URI": store,
        }  # fmt: skip
        command = [sys.executable, "-m", "reproduce", "main", "--device", "cpu", *arguments]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=folder, env=variables, check=True)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        trained, evaluated = images_computed(store)
        by_stage = stages(clock)
    rates.append(rate(home, cores))
    return {
        "date": datetime.date.today().isoformat(), "cpu": environment["cpu"], "cores": cores,
        "command": " ".join(["reproduce", "main", *arguments]), "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "images_trained": trained, "images_evaluated": evaluated, "rates": rates, "stages": by_stage,
        "forward_share": 2 * contenders.FORWARD / contenders.FLOPS_PER_IMAGE,
    }  # fmt: skip


def table(record: dict) -> str:
    """The table of docs/performance.md."""
    images = record["images_trained"] + record["forward_share"] * record["images_evaluated"]
    limit = images * len(record["rates"]) / sum(record["rates"])
    spent = record["stages"] | {
        "starts of processes, and the rest": record["cpu_seconds"] - sum(record["stages"].values()),
        "no work for a core": record["cores"] * record["seconds"] - record["cpu_seconds"],
    }
    whole = record["cores"] * record["seconds"]
    lines = ["| where the time goes | seconds of one core | share |", "|-|-|-|"]
    lines += [
        f"| {stage} | {seconds:.1f} | {100 * seconds / whole:.1f}% |"
        for stage, seconds in sorted(spent.items(), key=lambda item: -item[1])
    ]
    lines += [
        f"| all {record['cores']} cores, from start to end | {whole:.1f} | 100% |",
        "",
        f"`{record['command']}` took {record['seconds']:.0f} seconds, on {record['cores']} cores of an",
        f"{record['cpu'].strip()}, {record['date']}. Its {record['images_trained'] / 1e6:.1f} million images forward",
        f"and backward, and {record['images_evaluated'] / 1e6:.1f} million forward, take {limit:.0f} seconds at the",
        "rate of a matrix product on all cores, measured before and after it. The command took",
        f"{record['seconds'] / limit:.2f} times that.",
    ]
    return "\n".join(lines) + "\n"


def page_with(record: dict, page: str) -> str:
    """The page with the record's table in its place."""
    return re.sub(
        r"(?<=<!-- command -->\n).*(?=<!-- /command -->)", lambda _: table(record), page, count=1, flags=re.DOTALL
    )


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".reproduce", help="where the data is")
    given, options = parser.parse_known_args()
    sys.path.insert(0, str(ROOT))
    from reproduce.training.fused import library

    library.find_or_compile(given.home)
    record = measure(given.home.resolve(), options)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page_with(record, PAGE.read_text()))
    print(table(record))


if __name__ == "__main__":
    main()
