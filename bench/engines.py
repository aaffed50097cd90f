"""Whether both engines end at the same accuracy: the same trials, 30 epochs, three seeds, in each; writes engines.json.

    .venv/bin/python bench/engines.py

Bits differ between engines, as sums are taken in another order, and thirty epochs enlarge that: what must agree is the
accuracy, within the spread between seeds. Takes a quarter of an hour on two cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SEEDS = "0-2"
SWEEPS = (("none", "6e-5"), ("step", "6e-4"), ("step", "6e-6"))


def main() -> None:
    """Train, read back, and write."""
    sys.path.insert(0, str(ROOT))
    from reproduce.cli.option_types import SEEDS as SEED_TYPE
    from reproduce.study import planning
    from reproduce.study.config import StudyConfig
    from reproduce.study.loading import load_paper
    from reproduce.tracking.store import open_store

    found = []
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "REPRODUCE_HOME": folder, "MLFLOW_TRACKING_URI": uri,
            "REPRODUCE_DATA_DIR": str(ROOT / ".reproduce" / "data" / "mnist"),
        }  # fmt: skip
        for engine in ("torch", "fused"):
            for scheduler, rate in SWEEPS:
                options = ["--scheduler", scheduler, "--learning-rates", rate, "--seeds", SEEDS, "--engine", engine]
                command = [sys.executable, "-m", "reproduce", "sweep", *options]
                subprocess.run(command, cwd=folder, env=environment, check=True)
        store = open_store(Path(folder), uri)
        seeds = SEED_TYPE.parse(SEEDS)
        for scheduler, rate in SWEEPS:
            row = {"scheduler": scheduler, "learning_rate": float(rate), "seeds": list(seeds)}
            for engine in ("torch", "fused"):
                config = StudyConfig(engine=engine, schedulers=(scheduler,), learning_rates=(float(rate),), seeds=seeds)
                results = store.reader.results(planning.trials(load_paper(), config)).values()
                row[engine] = [result.last("test_accuracy_batch_mean") for result in results]
            found.append(row)
            print(row["scheduler"], rate, *(f"{e} {statistics.mean(row[e]):.4f} {row[e]}" for e in ("torch", "fused")))
    (HERE / "engines.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
