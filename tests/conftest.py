"""Real MNIST for every test, fetched once into the checkout's own cache; stores and checkpoints of each test's own."""

import functools
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("REPRODUCE_HOME", ROOT / ".reproduce")).resolve()
torch.set_num_threads(1)  # as every trial does; two threads are slower where tests share the cores
for variable in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def mnist_cache() -> Path:
    """A home whose cache holds the whole of MNIST, checked."""
    from reproduce import mnist_files

    brought = os.environ.get("REPRODUCE_DATA_DIR")  # by the container's image
    mnist_files.prepare("mnist", CACHE, Path(brought) if brought else None)
    return CACHE


@pytest.fixture(scope="session")
def whole_mnist(mnist_cache):
    from reproduce import mnist

    return mnist.open_dataset("mnist", mnist_cache)


@pytest.fixture
def own_home(mnist_cache, tmp_path) -> Path:
    """A home of the test's own that shares the checked data."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    shutil.copytree(mnist_cache / "data" / "mnist", home / "data" / "mnist", copy_function=os.link)
    return home


@pytest.fixture
def paper():
    from reproduce.paper import load_paper

    return load_paper()


def small_wishes(**changes):
    """Two epochs of 640 real images, five steps each: enough to tell right from wrong, in a tenth of a second."""
    from reproduce import study

    return study.Wishes(**({"epochs": 2, "train_size": 640, "range_test_epochs": 2, "engine": "fused"} | changes))


@pytest.fixture
def small_trial(paper):
    from reproduce import study

    return study.trials(paper, small_wishes(schedulers=("step",), learning_rates=(6e-4,)))[0]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An SQLite store as MLflow makes it, made once: its migrations take seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(own_home, tmp_path, empty_database, monkeypatch):
    """A tracking store of the test's own, with its artifacts beside it."""
    import mlflow

    from reproduce.tracking import Store

    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    yield Store(own_home, f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(None)


@functools.cache
def kernel() -> Path:
    """The fused engine's kernel, compiled once."""
    from reproduce.fused import library

    return library.ready(CACHE)


def run(store, trials, **changes):
    """Run trials under a parent: its run id, and what became of each."""
    from reproduce import artifacts, pool, sweep

    ground = changes.pop("ground", None) or pool.Pool(changes.pop("jobs", 2), "cpu", 1, kernel())
    with store.parent("sweep", {"scheduler": "test"}) as parent_id:
        settings = {"force": False, "artifacts": functools.partial(artifacts.leave_behind, smoothing=0.9)}
        done = sweep.run(trials, store, parent_id, ground=ground, **(settings | changes))
        store.describe_parent(parent_id, [(item.trial, item.run_id, item.how) for item in done])
    return parent_id, done


@pytest.fixture
def trials(paper):
    """A range test and one trial each of StepLR and MultiStepLR, small."""
    from reproduce import study

    wishes = small_wishes(learning_rates=(6e-4,), schedulers=("step", "multistep"))
    return study.range_tests(paper, wishes) + study.trials(paper, wishes)


@pytest.fixture
def finished(store, trials):
    """Those three, trained and recorded."""
    parent_id, done = run(store, trials)
    return store, parent_id, done


@pytest.fixture(scope="session")
def ledger():
    """What was broken and what came of it; kept where REPRODUCE_LEDGER says."""
    from faults import Ledger

    record = Ledger()
    yield record
    if path := os.environ.get("REPRODUCE_LEDGER"):
        record.write(Path(path))


@pytest.fixture
def workshop(mnist_cache, tmp_path):
    """Make a directory in which `reproduce` is run, with a home that shares the checked data, and a store."""

    def make(name="work", uri=None, **environment):
        return own_workshop(tmp_path / name, mnist_cache, uri, **environment)

    return make


def own_workshop(directory, cache, uri=None, **environment):
    from faults import Workshop

    kernel()
    made = Workshop(directory, uri, REPRODUCE_FUSED_DIR=str(CACHE / "fused"), **environment)
    made.share(cache / "data" / "mnist")
    return made


@pytest.fixture(scope="session")
def uninterrupted(mnist_cache, tmp_path_factory):
    """What a command leaves when nothing stops it, and how many seconds it takes; run when first asked for."""

    @functools.cache
    def of(command):
        ours = own_workshop(tmp_path_factory.mktemp("uninterrupted"), mnist_cache)
        started = time.monotonic()
        ours.run(*command)
        assert all(points for (left,) in ours.left().values() for points in left.points.values())
        assert len(ours.left()) == (4 if "sweep" in command else 1)
        return ours.left(), time.monotonic() - started

    return of


def needs(*programs):
    """The container's image has not all that a checkout's machine has."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")
