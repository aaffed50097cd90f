"""Whether our suggestion rules are those of the packages they come from, on recorded curves; writes suggestions.json.

    bench/.venv/bin/python bench/suggestions.py

The packages' own functions get the rates and smoothed losses of the archived range tests, and so do ours. fastai trims
the curve before its rules and Lightning within its own: here the same points reach both.
"""

import csv
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
CURVES = ROOT / "report" / "reference" / "range-test.csv"
LIGHTNING_SKIPS = (10, 1)  # points at either end, its defaults


def recorded() -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Rates and smoothed losses of each archived range test, by seed."""
    with CURVES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = sorted({int(row["seed"]) for row in rows})
    return {
        seed: tuple(
            np.array([float(row[name]) for row in rows if int(row["seed"]) == seed])
            for name in ("learning_rate", "smoothed_loss")
        )
        for seed in seeds
    }


def by_the_packages(rates: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """What the packages' own code says of the curve."""
    import matplotlib

    matplotlib.use("Agg")
    from fastai.callback.schedule import minimum, slide, valley
    from lightning.pytorch.tuner.lr_finder import _LRFinder
    from torch_lr_finder import LRFinder

    lr_tensor, loss_tensor = torch.tensor(rates), torch.tensor(losses)
    finder = LRFinder.__new__(LRFinder)  # its plot is where it suggests, and needs the history only
    finder.history = {"lr": rates.tolist(), "loss": losses.tolist()}
    _, step_rate = LRFinder.plot(finder, skip_start=0, skip_end=0, suggest_lr=True)
    lightning = types.SimpleNamespace(results={"lr": rates.tolist(), "loss": losses.tolist()})
    return {
        "steepest by step": float(step_rate),
        "steepest by rate": float(_LRFinder.suggestion(lightning, *LIGHTNING_SKIPS)),
        "minimum / 10": float(minimum(lr_tensor, loss_tensor, len(rates))[0]),
        "valley": float(valley(lr_tensor, loss_tensor, len(rates))[0]),
        "slide": float(slide(rates, loss_tensor, len(rates))[0]),
    }


def main() -> None:
    """Compare, print and write."""
    sys.path.insert(0, str(ROOT))
    from reproduce.analysis.suggestion_rules import RULES

    results = []
    for seed, (rates, losses) in recorded().items():
        theirs = by_the_packages(rates, losses)
        for name, rate in theirs.items():
            first, last = LIGHTNING_SKIPS if name == "steepest by rate" else (0, 0)
            end = len(rates) - last
            ours = RULES[name].at(rates[first:end], losses[first:end]).learning_rate
            results.append(
                {"seed": seed, "rule": name, "theirs": rate, "ours": ours, "same": bool(np.isclose(rate, ours))}
            )
            print(f"seed {seed} {name}: theirs {rate:.4g}, ours {ours:.4g}")
    versions = {name: version(name) for name in ("fastai", "lightning", "torch-lr-finder")}
    text = json.dumps({"versions": versions, "results": results}, indent=1)
    (ROOT / "bench" / "suggestions.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
