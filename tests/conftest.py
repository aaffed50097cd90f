"""Real MNIST for every test, fetched once into the checkout's own cache; stores and checkpoints of each test's own."""

import functools
import os
import shutil
import time
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch

from helpers import CACHE, ROOT
from helpers.small import own_workshop, run, small_config

QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
         "--no-first-run")  # fmt: skip
torch.set_num_threads(1)  # as every trial does; two threads are slower where tests share the cores
# As every command sets it: without it, PyTorch's compiler starts processes in each worker.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
for variable in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def own_variables():
    """Restore the environment's variables after each test: commands run in this process set some, as to hide GPUs."""
    with mock.patch.dict(os.environ):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark all of tests/system, so that `make test` can leave it out together with single tests of the same mark."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "system"):
            item.add_marker("system")


@pytest.fixture(scope="session")
def mnist_cache() -> Path:
    """A home whose cache holds the whole of MNIST, checked."""
    from reproduce.data import verified_cache

    brought = os.environ.get("REPRODUCE_DATA_DIR")  # by the container's image
    verified_cache.prepare("mnist", CACHE, Path(brought) if brought else None)
    return CACHE


@pytest.fixture(scope="session")
def whole_mnist(mnist_cache):
    from reproduce.data import datasets

    return datasets.open_files("mnist", mnist_cache)


@pytest.fixture
def own_home(mnist_cache, tmp_path) -> Path:
    """A home of the test's own that shares the checked data."""
    return home_in(tmp_path, mnist_cache)


def home_in(folder: Path, cache: Path) -> Path:
    (folder / "home" / "data").mkdir(parents=True)
    shutil.copytree(cache / "data" / "mnist", folder / "home" / "data" / "mnist", copy_function=os.link)
    return folder / "home"


@pytest.fixture
def paper():
    from reproduce.study.loading import load_paper

    return load_paper()


@pytest.fixture
def small_trial(paper):
    from reproduce.study import planning

    return planning.trials(paper, small_config(schedulers=("step",), learning_rates=(6e-4,)))[0]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An SQLite store as MLflow makes it, made once: its migrations take seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@contextmanager
def opened(folder: Path, home: Path):
    """The store in that folder, which is the current one meanwhile."""
    import mlflow

    from reproduce.tracking.store import open_store

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield open_store(home, f"sqlite:///{folder}/mlflow.db")
        mlflow.set_tracking_uri(None)


@pytest.fixture
def store(own_home, tmp_path, empty_database):
    """A tracking store of the test's own, with its artifacts beside it."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with opened(tmp_path, own_home) as store:
        yield store


@pytest.fixture(scope="session")
def trials():
    """A range test and one trial each of StepLR and MultiStepLR, small."""
    from reproduce.study import planning
    from reproduce.study.loading import load_paper

    config = small_config(learning_rates=(6e-4,), schedulers=("step", "multistep"))
    return planning.range_tests(load_paper(), config) + planning.trials(load_paper(), config)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory, mnist_cache, empty_database, trials):
    """A folder in which those three are trained and recorded, once for all tests; no test writes to it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_database, folder / "mlflow.db")
    with opened(folder, home_in(folder, mnist_cache)) as store:
        return folder, *run(store, trials)


@pytest.fixture
def finished(finished_study, own_home, tmp_path):
    """A copy of that, of the test's own: the store, the parent run's id, and what became of the trials."""
    folder, parent_id, done = finished_study
    shutil.copytree(folder, tmp_path, ignore=shutil.ignore_patterns("data"), dirs_exist_ok=True)
    with opened(tmp_path, own_home) as store:
        yield store, parent_id, list(done)


@pytest.fixture(scope="session")
def browser():
    """A Chromium, where there is one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), own)
        if not Path(found).exists():
            pytest.skip("needs a Chromium: .venv/bin/playwright install chromium, or apt-get install chromium")
        with closing(playwright.chromium.launch(executable_path=found, args=QUIET)) as launched:
            yield launched


@pytest.fixture(scope="session")
def ledger():
    """What was broken and what came of it; kept where REPRODUCE_LEDGER says."""
    from helpers.faults import Ledger

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
