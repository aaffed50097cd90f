"""How near the fused engine comes to the limit of this machine, for each width of vectors that its CPU has.

    .venv/bin/python bench/kernel.py

Whole training steps, one trial and two at once, and each stage of the kernel, all in turn with the rate of a matrix
product; writes kernel.json and the tables of docs/performance.md. Takes some three minutes.
"""

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORD, PAGE = HERE / "kernel.json", ROOT / "docs" / "performance.md"
STEPS, BATCH = 400, 128
ONE_AND_TWO = (1, 2)


def targets() -> list[str]:
    """What this CPU can run, the best first."""
    from reproduce.training.fused import library

    best, every = library.best_target(), list(library.X86_TARGETS)
    return every[every.index(best) :] if best in every else [best]


def stages(target: str, folder: Path) -> list[dict]:
    """Each stage of one step by itself: seconds, and floating-point operations."""
    from reproduce.training.fused import library

    program = folder / f"stages-{target}"
    flags = [flag for flag in library.flags(target) if flag not in ("-fPIC", "-shared")]
    subprocess.run(["g++", *flags, "-o", str(program), str(HERE / "stages.cpp")], check=True)
    lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = (line.split("\t") for line in lines)
    return [{"stage": name, "seconds": float(seconds), "operations": float(count)} for name, seconds, count in rows]


def measure(home: Path, repeats: int) -> dict:
    """Everything, `repeats` times in turn."""
    import run

    from reproduce.training import provenance
    from reproduce.training.fused import library

    environment = provenance.environment()
    found = {
        "date": datetime.date.today().isoformat(), "cpu": environment["cpu"], "repeats": repeats,
        "matrix": {str(copies): [] for copies in ONE_AND_TWO}, "targets": [],
    }  # fmt: skip
    for target in targets():
        lanes = library.Kernel(library.compile_kernel(home / "fused", target)).lanes()
        rates = {str(copies): [] for copies in ONE_AND_TWO}
        found["targets"].append({"target": target, "lanes": lanes, "rates": rates, "stages": []})
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for copies in ONE_AND_TWO:
                names = [
                    ("matrix", found["matrix"]),
                    *((f"fused {row['target']}", row["rates"]) for row in found["targets"]),
                ]
                for name, into in names:
                    into[str(copies)].append(run.measure(name, copies, run.OURS, STEPS, home)[0])
                    print(
                        f"{repeat + 1}/{repeats} {name}, {copies}: {into[str(copies)][-1]:.0f} images/s",
                        file=sys.stderr,
                    )
            for row in found["targets"]:
                row["stages"].append(stages(row["target"], Path(folder)))
    return found


def _stage(name: str, seconds: float, operations: float, rate: float) -> str:
    shown = f"{operations / seconds / 1e9:.0f} | {100 * operations / seconds / rate:.0f}%" if operations else "— | —"
    return f"| {name} | {1e6 * seconds:.0f} | {shown} |"


def table(record: dict) -> str:
    """The tables of docs/performance.md."""
    limits = {copies: statistics.median(rates) for copies, rates in record["matrix"].items()}
    lines = ["| fused engine | one trial, images per second | of the matrix rate | two at once | of the matrix rate |",
             "|-|-|-|-|-|"]  # fmt: skip
    for row in record["targets"]:
        medians = {copies: statistics.median(rates) for copies, rates in row["rates"].items()}
        cells = [f"{medians[copies]:,.0f} | {100 * medians[copies] / limits[copies]:.0f}%" for copies in limits]
        lines.append(f"| {row['lanes']} lanes ({row['target']}) | {' | '.join(cells)} |")
    lines.append(f"| matrix rate | {limits['1']:,.0f} | — | {limits['2']:,.0f} | — |")
    best = record["targets"][0]
    fastest: dict[str, float] = {}
    for stage in (stage for repeat in best["stages"] for stage in repeat):
        fastest[stage["stage"]] = min(stage["seconds"], fastest.get(stage["stage"], stage["seconds"]))
    operations = {stage["stage"]: stage["operations"] for stage in best["stages"][0]}
    rate = limits["1"] / BATCH * sum(operations.values())
    head = f"| stage of the kernel, {best['lanes']} lanes | µs of a step | GFLOP/s | of the matrix rate |"
    lines += ["", head, "|-|-|-|-|"]
    for name in sorted(fastest, key=fastest.__getitem__, reverse=True):
        lines.append(_stage(name, fastest[name], operations[name], rate))
    lines.append(_stage("all", sum(fastest.values()), sum(operations.values()), rate))
    lines += [
        "",
        f"Medians of {record['repeats']} repeats that take turns, and the fastest time of each stage: steps of {BATCH}",
        f"images with Adam, on an {record['cpu']}, {record['date']}.",
    ]
    return "\n".join(lines) + "\n"


def page_with(record: dict, page: str) -> str:
    """The page with the record's tables in their place."""
    return re.sub(
        r"(?<=<!-- kernel -->\n).*(?=<!-- /kernel -->)", lambda _: table(record), page, count=1, flags=re.DOTALL
    )


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--home", type=Path, default=ROOT / ".reproduce", help="where the data is")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    record = measure(given.home, given.repeats)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page_with(record, PAGE.read_text()))
    print(table(record))


if __name__ == "__main__":
    main()
