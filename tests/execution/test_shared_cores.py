"""How many trials are trained at once: as many as end soonest on the cores that there are."""

import pytest

from helpers.small import run_options, small_config, task_for
from reproduce.execution import local
from reproduce.execution.local import choose_workers
from reproduce.study import planning

ENOUGH = 1000


@pytest.mark.parametrize(
    ("epochs", "cores", "workers"),
    [
        ([30], 2, 1),
        ([30] * 2, 2, 2),
        ([30] * 3, 2, 3),  # 45 epochs' time instead of 60
        ([30] * 4, 2, 2),
        ([5] + [30] * 15, 2, 3),  # the study: a range test, then the models
        ([30] * 15, 4, 5),  # three rounds of five, each 5/4 as long
        ([30] * 15, 16, 15),
        ([30] * 100, 64, 100),
        ([30] * 3, 1, 1),
        ([30, 1, 1], 2, 2),  # the long one begins first, and nothing is to be had
    ],
)
def test_as_many_share_the_cores_as_end_soonest(epochs, cores, workers):
    assert choose_workers(epochs, cores, ENOUGH) == workers


def test_no_more_than_there_is_memory_for_beside_one_for_each_core():
    assert choose_workers([30] * 100, 64, at_most=80) == 64
    assert choose_workers([30] * 3, 2, at_most=1) == 2


def pool(store, monkeypatch, **changes):
    monkeypatch.setattr(local.provenance, "cores", lambda: 2)
    return local.Pool(run_options(store.home, **{"jobs": None} | changes))


def three_tasks(store, paper):
    config = small_config(schedulers=("step",), learning_rates=(6e-3, 6e-4, 6e-5))
    return [task_for(store, trial) for trial in planning.trials(paper, config)]


def test_a_number_of_jobs_that_was_typed_holds(store, paper, monkeypatch):
    tasks = three_tasks(store, paper)
    assert pool(store, monkeypatch)._count_workers(tasks) == 3
    assert pool(store, monkeypatch, jobs=2)._count_workers(tasks) == 2


def test_epochs_that_are_done_count_no_more(store, paper, monkeypatch):
    tasks = three_tasks(store, paper)
    for epoch in (1, 2):
        (tasks[0].directory / f"epoch-{epoch:04d}").mkdir(parents=True)
    assert pool(store, monkeypatch)._count_workers(tasks) == 2
