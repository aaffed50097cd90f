"""Side by side, in turn, on this machine: what a user would otherwise run, this package, and the machine's limit.

`make bench` installs the others in an environment of their own and runs this; it writes results.json and the tables of
docs/performance.md. Every repeat runs all contenders once, so that a slow minute of the machine falls on all of them.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import jinja2

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OTHERS = HERE / ".venv" / "bin" / "python"
OURS = Path(sys.executable)
# What is run: title, contender, how many at once, with which environment, and how many steps are timed.
ROWS = (
    ("the paper's loop, as a user types it", "paper", 1, OTHERS, 100),
    ("PyTorch, tensors in memory, channels_last", "eager", 1, OTHERS, 100),
    ("the same through torch.compile", "compiled", 1, OTHERS, 100),
    ("Lightning, fed by torchvision", "lightning", 1, OTHERS, 100),
    ("Lightning, tensors in memory", "lightning-memory", 1, OTHERS, 100),
    ("fastai, fed by torchvision", "fastai", 1, OTHERS, 100),
    ("fastai, tensors in memory", "fastai-memory", 1, OTHERS, 100),
    ("ours, engine torch, one trial", "ours-torch", 1, OURS, 100),
    ("ours, engine torch, two trials at once", "ours-torch", 2, OURS, 100),
    ("ours, engine fused, one trial", "ours-fused", 1, OURS, 400),
    ("ours, engine fused, two trials at once", "ours-fused", 2, OURS, 400),
    ("matrix rate, one core", "matrix", 1, OURS, 400),
    ("matrix rate, two cores", "matrix", 2, OURS, 400),
)
TRIALS, SEEDS = (1, 2, 4, 8, 16), (1, 3, 10)


def measure(contender: str, copies: int, python: Path, steps: int, home: Path) -> tuple[float, float]:
    """Images a second of all copies together, and the peak memory of the largest in GiB."""
    command = [str(python), str(HERE / "contenders.py"), contender, str(home), str(steps)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(copies)
    ]
    results = []
    for process in running:
        out, err = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{contender} failed:\n{err[-2000:]}")
        results.append(json.loads(out.splitlines()[-1]))
    return sum(result["images_per_second"] for result in results), max(result["peak_gib"] for result in results)


def side_by_side(home: Path, repeats: int) -> list[dict]:
    """All rows, `repeats` times in turn."""
    found = {title: [] for title, *_ in ROWS}
    for repeat in range(repeats):
        for title, *how in ROWS:
            found[title].append(measure(*how, home))
            print(f"{repeat + 1}/{repeats} {title}: {found[title][-1][0]:.0f} images/s", file=sys.stderr, flush=True)
    return [
        {
            "title": title,
            "copies": copies,
            "images_per_second": [speed for speed, _ in found[title]],
            "peak_gib": max(gib for _, gib in found[title]),
        }
        for title, _, copies, *_ in ROWS
    ]


def growth(home: Path) -> list[dict]:
    """Seconds of whole `reproduce sweep` commands, two epochs a trial, as trials and seeds grow."""
    kinds = [("trials", n, ["--learning-rates", ",".join(f"{k}e-4" for k in range(1, n + 1))]) for n in TRIALS]
    kinds += [("seeds", n, ["--learning-rates", "6e-4", "--seeds", f"0-{n - 1}"]) for n in SEEDS]
    rows = []
    for kind, count, options in kinds:
        with tempfile.TemporaryDirectory() as folder:
            command = [str(OURS), "-m", "reproduce", "sweep", "--scheduler", "step", "--epochs", "2", *options]
            environment = os.environ | {
                "PYTHONPATH": str(ROOT), "REPRODUCE_HOME": folder, "REPRODUCE_DATA_DIR": str(home / "data" / "mnist"),
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            }  # fmt: skip
            started = time.perf_counter()
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            seconds = time.perf_counter() - started
        rows.append({"kind": kind, "count": count, "seconds": seconds})
        print(f"{count} {kind}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return rows


def machine() -> dict[str, str]:
    """What it was measured on."""
    sys.path.insert(0, str(ROOT))
    from reproduce.training import provenance

    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    names = ("fastai", "lightning")
    answer = subprocess.run([str(OTHERS), "-c", ask, *names], capture_output=True, text=True, check=True).stdout
    found = dict(zip(names, answer.split(), strict=True))
    environment = provenance.environment()
    return {
        "date": datetime.date.today().isoformat(), "commit": provenance.source().commit, "cpu": environment["cpu"],
        "cores": environment["cores"], "python": platform.python_version(), "torch": version("torch"),
        "colossalai": version("colossalai"), **found,
    }  # fmt: skip


def table(results: dict) -> str:
    """The tables of docs/performance.md."""
    limits = {row["copies"]: statistics.median(row["images_per_second"]) for row in results["rows"][-2:]}
    rows = []
    for row in results["rows"]:
        speeds = row["images_per_second"]
        median = statistics.median(speeds)
        share = median / limits[row["copies"]] if row["title"].startswith("ours") else None
        rows.append(row | {"median": median, "low": min(speeds), "high": max(speeds), "share": share})
    template = jinja2.Template((HERE / "results.md.j2").read_text(), trim_blocks=True, keep_trailing_newline=True)
    repeats = len(results["rows"][0]["images_per_second"])
    return template.render(rows=rows, repeats=repeats, machine=results["machine"], growth=results["growth"])


def into_page(text: str) -> None:
    """Put the tables between the page's marks."""
    page = ROOT / "docs" / "performance.md"
    before, start, rest = page.read_text().partition("<!-- bench -->\n")
    _, end, after = rest.partition("<!-- /bench -->")
    page.write_text(before + start + text + end + after)


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--home", type=Path, default=ROOT / ".reproduce", help="where the data is")
    given = parser.parse_args()
    results = {"machine": machine(), "rows": side_by_side(given.home, given.repeats), "growth": growth(given.home)}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    into_page(text)
    print(text)


if __name__ == "__main__":
    main()
