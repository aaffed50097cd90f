"""Break the running program and count the damage: what the tests of faults share, and the record that they leave.

`python tools/fault_table.py` puts docs/faults.json, which `make test-faults` writes, into docs/reliability.md.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from datetime import date
from pathlib import Path

import psutil

from helpers import ROOT

METRICS = ("train_loss", "test_accuracy", "test_accuracy_batch_mean", "learning_rate")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
PATIENCE_SECONDS = 300  # for whatever a test waits for; only a failure takes so long


@dataclass(frozen=True)
class Damage:
    """What is not as an uninterrupted run leaves it; nothing is all zeros."""

    points_lost: int = 0  # of metrics, by epoch; all of a trial's where its run is missing
    bits_changed: int = 0  # files and numbers that are not the same
    doubled: int = 0  # runs, networks and points that are there more than once
    left_running: int = 0  # runs
    half_written: int = 0  # files and folders that somebody began and nobody cleared

    def __add__(self, other: "Damage") -> "Damage":
        return Damage(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Left:
    """What a finished trial left: values by metric and epoch, its curve, its weights if it has some."""

    points: dict[str, dict[int, list[float]]]
    curve: bytes
    weights: list[bytes]


class Workshop:
    """A directory with a home and a store of its own, in which `reproduce` runs as a user's program does."""

    def __init__(self, directory: Path, uri: str | None = None, **environment: str) -> None:
        self.directory, self.home = directory, directory / ".reproduce"
        self.uri = uri or f"sqlite:///{directory}/mlflow.db"
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "REPRODUCE_HOME": str(self.home), "MLFLOW_TRACKING_URI": self.uri,
        } | environment  # fmt: skip
        directory.mkdir(parents=True, exist_ok=True)

    def share(self, data: Path) -> None:
        """Have the checked data in the home, without another copy where the file system allows."""
        target = self.home / "data" / data.name
        target.mkdir(parents=True)
        for file in data.iterdir():
            try:
                os.link(file, target / file.name)
            except OSError:  # another file system
                shutil.copy(file, target)

    def move_home(self, home: Path) -> None:
        """Have the home elsewhere, on another file system say."""
        shutil.move(self.home, home)
        self.home = home
        self.environment["REPRODUCE_HOME"] = str(home)

    def start(self, *words: str) -> subprocess.Popen:
        """The command, or the launcher of its ranks, begun, in a process group of its own."""
        launched = words[0] == "torchrun"
        module = "torch.distributed.run" if launched else "reproduce"
        return subprocess.Popen(
            [sys.executable, "-m", module, *words[launched:]],
            cwd=self.directory,
            env=self.environment,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # heeded also where the tests ignore it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> str:
        """What the command says; it has to succeed."""
        running = self.start(*words)
        said, _ = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 0, said
        return said

    def stop(self, running: subprocess.Popen, how: str) -> str:
        """Stop a command in one of the ways of STOPS, and wait for its end; what it said."""
        number, all_of_them = STOPS[how]
        others = psutil.Process(running.pid).children(recursive=True) if number == signal.SIGKILL else []
        if all_of_them:
            os.killpg(running.pid, number)
            for process in others:  # a launcher's ranks have groups of their own
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        else:
            running.send_signal(number)
        said, _ = running.communicate(timeout=PATIENCE_SECONDS)
        return said

    def left(self) -> dict[str, list[Left]]:
        """What finished trials left, by cache key; two runs of one trial are two entries."""
        found: dict[str, list[Left]] = {}
        for run in self._runs():
            if run.info.status == "FINISHED" and "outcome" in run.data.tags:
                found.setdefault(run.data.tags["fingerprint"], []).append(self._left(run))
        return found

    def damage(self, whole: dict[str, list[Left]]) -> Damage:
        """How the store and the home differ from what the uninterrupted runs left in theirs."""
        damage, here = Damage(), self.left()
        for cache_key, (expected,) in whole.items():
            runs = here.get(cache_key, [])
            damage += Damage(doubled=max(0, len(runs) - 1))
            damage += _compare(expected, runs[0] if runs else Left({}, b"", []))
        known = [run for run in self._runs() if "fingerprint" in run.data.tags]
        runs = self._runs()
        return damage + Damage(
            doubled=len(known) - len({run.data.tags["fingerprint"] for run in known}),
            left_running=sum(run.info.status == "RUNNING" for run in runs),
            half_written=len(begun(self.home)),
        )

    def _client(self):
        import mlflow

        return mlflow.MlflowClient(self.uri)

    def _runs(self) -> list:
        client = self._client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, max_results=5000))

    def _left(self, run) -> Left:
        client, run_id = self._client(), run.info.run_id
        points: dict[str, dict[int, list[float]]] = {}
        for name in filter(run.data.metrics.__contains__, METRICS):
            for metric in client.get_metric_history(run_id, name):
                points.setdefault(name, {}).setdefault(metric.step, []).append(metric.value)
        models = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
        return Left(points, self._artifact(run_id, "curve.csv"), [self._weights(model) for model in models])

    def _artifact(self, run_id: str, name: str) -> bytes:
        into = self.directory / "fetched" / run_id
        into.mkdir(parents=True, exist_ok=True)
        return Path(self._client().download_artifacts(run_id, name, str(into))).read_bytes()

    def _weights(self, model) -> bytes:
        from mlflow.artifacts import download_artifacts

        into = self.directory / "fetched" / model.model_id
        into.mkdir(parents=True, exist_ok=True)
        folder = download_artifacts(artifact_uri=model.artifact_location, dst_path=str(into), tracking_uri=self.uri)
        (file,) = Path(folder).rglob("*.safetensors")
        return file.read_bytes()


STOPS = {  # by name: the signal, and whether it goes to every process of the command
    "kill -9 of all its processes": (signal.SIGKILL, True),
    "kill -9 of the command alone": (signal.SIGKILL, False),
    "SIGTERM, as docker stop": (signal.SIGTERM, False),
    "Ctrl-C": (signal.SIGINT, True),
}


def _compare(expected: Left, found: Left) -> Damage:
    lost = changed = doubled = 0
    for name, by_epoch in expected.points.items():
        for epoch, values in by_epoch.items():
            here = found.points.get(name, {}).get(epoch, [])
            lost += not here
            doubled += max(0, len(here) - 1)
            changed += bool(here) and here[0] != values[0]
    doubled += max(0, len(found.weights) - len(expected.weights))
    changed += found.curve != expected.curve
    changed += found.weights[: len(expected.weights)] != expected.weights
    return Damage(points_lost=lost, bits_changed=changed, doubled=doubled)


def begun(home: Path) -> list[Path]:
    """What is there in a home only while something is written or trained."""
    return [
        path for path in home.rglob("*")
        if path.name.startswith(".") or path.name == "under-way" or (path.name.startswith("epoch-") and path.is_dir())
    ]  # fmt: skip


def wait_for(condition, running: subprocess.Popen | None = None, what: str = "what was waited for") -> None:
    """Until the condition holds; an error where the command ends first or nothing happens."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if running is not None and running.poll() is not None:
            raise AssertionError(f"the command ended before {what}: {running.stdout.read()}")
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.02)


def workers(running: subprocess.Popen) -> list[psutil.Process]:
    """The processes in which a command's trials are trained."""
    return [
        child for child in psutil.Process(running.pid).children() if "popen_loky_posix" in " ".join(child.cmdline())
    ]


# Four trials in two workers: long enough to be struck in the middle, and done in seconds.
TRIALS = ("sweep", "--scheduler", "step", "--learning-rates", "6e-3,6e-4,6e-5,6e-6", "--epochs", "6",
          "--train-size", "12800", "--device", "cpu")  # fmt: skip
SWEEP = (*TRIALS, "--jobs", "2")
RANGE_TEST = ("range_test", "--epochs", "8", "--train-size", "12800", "--device", "cpu")
RANKS = ("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "reproduce", *TRIALS)
WHILE = {SWEEP: "a sweep with two workers", RANGE_TEST: "a range test", RANKS: "a sweep with two ranks"}


class Ledger:
    """What was tried, how often, and what came of it, one row a kind of fault."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict] = {}

    def add(self, fault: str, during: str, times: int, damage: Damage, outcome: str) -> None:
        """Count a fault that struck `times` times; the test fails where there was damage, after it is written down."""
        row = self.rows.setdefault(
            (fault, during), {"fault": fault, "during": during, "times": 0, "outcome": outcome} | asdict(Damage())
        )
        row["times"] += times
        for name, count in asdict(damage).items():
            row[name] += count
        assert damage == Damage(), damage

    def write(self, path: Path) -> None:
        """Keep the rows as JSON, in place of earlier ones of the same kind, each with the commit that it is of."""
        described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
        commit = subprocess.run(described, capture_output=True, text=True).stdout.strip()
        earlier = json.loads(path.read_text())["rows"] if path.exists() else []
        rows = {(row["fault"], row["during"]): row for row in earlier}
        rows |= {key: row | {"commit": commit, "on": str(date.today())} for key, row in self.rows.items()}
        path.write_text(json.dumps({"rows": list(rows.values())}, indent=1) + "\n")
