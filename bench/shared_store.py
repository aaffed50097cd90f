"""What a trial asks of a shared tracking server, and how much of that a server on PostgreSQL answers."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers.servers import Postgres, Server  # noqa: E402

WRITERS, WRITING_SECONDS = 8, 15
RUNS = 1000  # to be searched


def measured() -> dict[str, float]:
    """Requests and files of a trial, and what the server and its database do in a second."""
    with tempfile.TemporaryDirectory() as name:
        folder, database = Path(name), Postgres().start()
        server = Server(folder / "server", database.uri).start()
        try:
            _swept(folder, server, 1, 1)  # what is asked once in the life of a store
            few, longer, more = (_swept(folder, server, *what) for what in ((2, 2), (2, 6), (4, 2)))
            an_epoch = (longer["requests"] - few["requests"]) / 8
            each = {key: (more[key] - few[key]) / 2 for key in few}
            return {
                "requests_an_epoch": an_epoch,
                "requests_a_trial": each["requests"] - 2 * an_epoch,
                "files": each["files"],
                "writes_a_second": _writing(server.uri),
                "histories_a_second": _reading(server.uri),
                **_searching(server.uri),
            }
        finally:
            server.kill()
            database.remove()


def _swept(folder: Path, server: Server, trials: int, epochs: int) -> dict[str, float]:
    """What a sweep of so many trials adds."""
    artifacts, log = server.directory / "artifacts", server.directory / "log"

    def now() -> dict[str, float]:
        files = sum(path.is_file() for path in artifacts.rglob("*"))
        requests = len(re.findall(r'"(?:GET|POST|PUT|DELETE|PATCH) /api/', log.read_text()))
        return {"requests": requests, "files": files}

    rates = ",".join(f"{n}e-{trials}" for n in range(1, trials + 1))
    before = now()
    command = [sys.executable, "-m", "reproduce", "sweep", "--scheduler", "none", "--learning-rates", rates,
               "--epochs", str(epochs), "--train-size", "640", "--device", "cpu"]  # fmt: skip
    environment = os.environ | {"REPRODUCE_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": server.uri}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    after = now()
    return {key: after[key] - before[key] for key in after}


def _writing(uri: str) -> float:
    """How many epochs WRITERS get written in a second."""
    client = mlflow.MlflowClient(uri)
    runs = [client.create_run("0").info.run_id for _ in range(WRITERS)]
    ended, written = time.monotonic() + WRITING_SECONDS, [0] * WRITERS

    def write(writer: int) -> None:
        while time.monotonic() < ended:
            step = written[writer] = written[writer] + 1
            client.log_batch(runs[writer], metrics=[Metric(name, 0.5, 0, step) for name in "abcde"])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(written) / WRITING_SECONDS


def _reading(uri: str) -> float:
    """How many metrics' histories one reader gets in a second."""
    client, times = mlflow.MlflowClient(uri), 100
    run = client.create_run("0").info.run_id
    client.log_batch(run, metrics=[Metric("a", 0.5, 0, step) for step in range(30)])
    begun = time.monotonic()
    for _ in range(times):
        client.get_metric_history(run, "a")
    return times / (time.monotonic() - begun)


def _searching(uri: str) -> dict[str, float]:
    """How many trials are found in a second by their cache_key, and how many by reading through all runs.

    The runs have as much to them as the finished trial that stands for them.
    """
    client, times = mlflow.MlflowClient(uri), 100
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    like = client.search_runs(experiments, "tags.outcome = 'finished'", max_results=1)[0]
    metrics = [Metric(name, value, 0, 1) for name, value in like.data.metrics.items()]
    params = [Param(name, value) for name, value in like.data.params.items()]
    for number in range(RUNS):
        run = client.create_run("0", tags=like.data.tags | {"fingerprint": f"{number:064x}"})
        client.log_batch(run.info.run_id, metrics, params)
    begun = time.monotonic()
    for number in range(times):
        assert len(client.search_runs(["0"], f"tags.fingerprint = '{number:064x}'")) == 1
    by_name = times / (time.monotonic() - begun)
    begun = time.monotonic()
    assert len(client.search_runs(["0"], "tags.outcome LIKE '%'", max_results=RUNS)) == RUNS
    return {"searches_a_second": by_name, "runs_a_second": RUNS / (time.monotonic() - begun)}
