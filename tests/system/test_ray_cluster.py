"""Trials on a real Ray cluster of several nodes on this machine: the same bits, whatever dies."""

import itertools
import re
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from helpers import CACHE
from helpers.faults import PATIENCE_SECONDS, Damage, wait_for
from helpers.own_study import write_parts
from helpers.ray_cluster import RayCluster, unlike
from helpers.ray_commands import (
    LABELS,
    LONG,
    ON_RAY,
    SMALL,
    directory,
    epochs,
    is_at_work,
    is_held,
    on,
    saved,
    separate_disks,
    told,
    trial_runs,
)
from reproduce.training import provenance

pytestmark = [pytest.mark.usefixtures("_two_nodes_left"), pytest.mark.xdist_group("ray")]


def test_a_sweep_on_two_nodes_is_the_local_one_bit_for_bit_and_is_reused(nodes, shop):
    here, there = shop("here"), shop("there")
    here.run(*SMALL, "--device", "cpu")
    said = there.run(*SMALL, *on(nodes))
    expected = here.left()
    assert len(expected) == 3
    assert there.left().keys() == expected.keys()
    assert there.damage(expected) == Damage()
    lines = told(said)
    assert lines[0] == f"Ray cluster at {nodes.address}: 2 nodes to train on"
    assert lines[-1] == "3 trained"
    assert len(lines) == 5  # and nothing of Ray's own
    assert {run.data.tags["node"] for run in trial_runs(there).values()} == {"one", "two"}
    asked = [
        (run.data.params["executor"], run.data.params["ray_address"], run.data.params["jobs"])
        for ours in (here, there) for run in ours._runs() if "fingerprint" not in run.data.tags
    ]  # fmt: skip
    assert asked == [("local", "auto", "auto"), ("ray", nodes.address, "auto")]
    again = there.run(*SMALL, *on(nodes))
    assert told(again)[1:] == ["3 of 3 trials are finished and reused", "3 reused"]
    assert there.damage(expected) == Damage()


def test_a_study_with_its_own_python_is_trained_on_the_nodes_bit_for_bit(nodes, shop):
    here, there = shop("here"), shop("there")
    for ours in (here, there):
        write_parts(ours.directory / "parts")
    here.run("sweep", "--study", "parts", "--device", "cpu")
    said = there.run("sweep", "--study", "parts", *on(nodes))
    expected = here.left()
    assert len(expected) == 3
    assert there.left().keys() == expected.keys()
    assert there.damage(expected) == Damage()
    assert told(said)[-1] == "3 trained"
    assert {run.data.tags["node"] for run in there._runs() if "fingerprint" in run.data.tags} <= {"one", "two"}


def test_jobs_bounds_the_trials_at_once(nodes, shop):
    ours = shop("jobs")
    ours.run(*SMALL, *on(nodes, "--jobs", "1"))
    spans = sorted((run.info.start_time, run.info.end_time) for run in trial_runs(ours).values())
    assert len(spans) == 3
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.counted
def test_a_trial_whose_worker_is_killed_twice_is_given_up_and_the_others_end(nodes, shop, long, ledger):
    ours = shop("workers")
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: LABELS[1] in trial_runs(ours), running, "the trial")
    lock = directory(ours, LABELS[1]) / "lock"
    killed = []
    for _ in range(2):
        wait_for(lambda: is_at_work(nodes, ours, lock), running, "a worker at it")
        worker = nodes.holder(lock)
        killed.append(worker.pid)
        worker.kill()
        worker.wait(PATIENCE_SECONDS)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    assert len(set(killed)) == 2
    assert said.count(f"{LABELS[1]}: its worker died, perhaps because memory ran out; it runs again\n") == 1, said
    assert said.count(f"{LABELS[1]}: failed, its worker died, perhaps because memory ran out (2 times)\n") == 1, said
    assert f"error: 1 of 3 trials failed: {LABELS[1]}: " in said.splitlines()[-1]
    runs = trial_runs(ours)
    assert [runs[label].info.status for label in LABELS] == ["FINISHED", "KILLED", "FINISHED"]
    assert [runs[label].data.tags.get("times_resumed") for label in LABELS] == [None, "1", None]
    ours.run(*LONG, *on(nodes))
    ledger.add("a worker killed, twice in one trial", ON_RAY, 2, ours.damage(long),
               "that trial is marked as failed, the others finish; the same command resumes")  # fmt: skip


@pytest.mark.counted
@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=separate_disks)], ids=["shared", "disk of its own"])
def test_a_command_that_is_told_to_stop_leaves_nobody_at_work_and_the_next_goes_on(nodes, shop, long, ledger, shared):
    ours = shop("stopped")
    if not shared:
        nodes.start("three", hidden=ours.home, REPRODUCE_DATA_DIR=str(CACHE / "data" / "mnist"))
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2 and epochs(ours) == 2 + (not shared), running, "every node at work")
    running.terminate()
    wait_for(lambda: {run.info.status for run in trial_runs(ours).values()} == {"KILLED"}, what="closed runs")
    locks = [directory(ours, label) / "lock" for label in trial_runs(ours)]
    # All workers have ended before the command has.
    assert not any(is_held(lock) or nodes.holder(lock) for lock in locks)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 143, said
    assert "Traceback" not in said
    assert "terminated: what is done is recorded; the same command resumes from there" in said
    assert {run.info.status for run in ours._runs()} == {"KILLED"}
    if not shared:
        nodes.leave("three")
    said = ours.run(*LONG, *on(nodes))
    assert said.count(": resumed, ") == 2 + (not shared), said
    ledger.add("SIGTERM, as docker stop", ON_RAY if shared else f"{ON_RAY}, a node with its own disk", 1,
               ours.damage(long), "the same command resumes in the same runs")  # fmt: skip


@pytest.mark.counted
def test_after_a_command_that_is_killed_the_next_goes_on(nodes, shop, long, ledger):
    ours, how = shop("killed"), "kill -9 of the command alone"
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2, running, "two trials under way")
    ours.stop(running, how)
    said = ours.run(*LONG, *on(nodes))
    assert said.count(": resumed, ") == 2, said
    ledger.add(how, ON_RAY, 1, ours.damage(long), "the same command resumes in the same runs")


def test_ray_that_a_command_starts_itself_ends_with_it(shop):
    ours = shop("alone")
    before = set(Path("/tmp").glob("ray-*"))
    running = ours.start(*LONG, "--executor", "ray", "--ray-address", "local", "--device", "cpu")
    wait_for(lambda: saved(ours) >= 1, running, "a trial under way")
    everyone = psutil.Process(running.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in everyone)
    assert len(set(Path("/tmp").glob("ray-*")) - before) == 1
    said = ours.stop(running, "Ctrl-C")
    assert running.returncode == 130, said
    assert told(said)[0] == f"starting Ray on this machine, with {provenance.cores()} cores, for this command"
    assert "Traceback" not in said
    assert psutil.wait_procs(everyone, PATIENCE_SECONDS)[1] == []
    assert set(Path("/tmp").glob("ray-*")) == before
    assert {run.info.status for run in ours._runs()} == {"KILLED"}


@pytest.mark.counted
@pytest.mark.parametrize(
    ("lost", "outcome"),
    [
        ("a node killed", "its trial resumes on another node, in the same run"),
        pytest.param("a node killed, with its checkpoints", "its trial starts again on another node, in the same run",
                     marks=separate_disks),
        ("a node taken out by ray stop", "its trial resumes on another node, in the same run"),
    ],
)  # fmt: skip
def test_a_trial_whose_node_is_lost_goes_on_elsewhere_and_the_others_as_if_nothing_was(
    nodes, shop, long, ledger, lost, outcome
):
    ours, shared = shop("lost"), "checkpoints" not in lost
    nodes.start("three", hidden=None if shared else ours.home, REPRODUCE_DATA_DIR=str(CACHE / "data" / "mnist"))
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2 + shared and epochs(ours) == 3, running, "three trials under way")
    (nodes.kill if "killed" in lost else nodes.leave)("three")
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert ("is not the same directory on all of them" in said) is not shared
    (label,) = re.findall("^(.*): its node is gone; it runs again$", said, re.MULTILINE)
    assert {each: f"{each}: resumed, " in said for each in LABELS} == {each: each == label for each in LABELS}
    runs = trial_runs(ours)
    assert {each: runs[each].data.tags.get("resumed") is not None for each in LABELS} == {
        each: each == label for each in LABELS
    }
    assert (runs[label].data.tags["resumed"] == "after epoch 0") is not shared
    assert {run.data.tags["node"] for run in runs.values()} == {"one", "two"}
    ledger.add(lost, ON_RAY, 1, ours.damage(long), outcome)


@pytest.mark.counted
def test_a_head_that_is_lost_ends_the_command_in_one_line_and_the_next_goes_on(shop, long, ledger):
    own, ours = RayCluster(REPRODUCE_FUSED_DIR=str(CACHE / "fused")), shop("headless")
    try:
        own.begin()
        ours.environment |= own.access
        running = ours.start(*LONG, *on(own))
        wait_for(lambda: saved(ours) == 1, running, "a trial under way")
        (head,) = [process for process in own.processes("one") if process.name() == "gcs_server"]
        head.kill()
        said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    finally:
        own.end()
    assert running.returncode == 1, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        f"error: the head of the Ray cluster, {own.address}, is gone: what is done is recorded; the same command "
        "resumes from there"
    )
    ours.run(*LONG, "--device", "cpu")
    ledger.add("the head of the cluster killed", ON_RAY, 1, ours.damage(long),
               "ends in one line; the same command resumes")  # fmt: skip


def suspend_between_writes(workers, database):
    """Suspend processes while none of them is in the store: everybody else would wait for what it has locked."""
    while True:
        for worker in workers:
            worker.suspend()
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database, timeout=0)) as store:
            store.execute("BEGIN EXCLUSIVE")
            return
        for worker in workers:
            worker.resume()
        time.sleep(0.1)


def test_a_node_that_joins_later_and_is_not_like_the_others_is_left_out(nodes, shop, long, tmp_path):
    ours = shop("late")
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2, running, "two trials under way")
    at_work = [nodes.holder(mark.with_name("lock")) for mark in ours.home.glob("trials/*/under-way")]
    suspend_between_writes(at_work, ours.directory / "mlflow.db")  # so that the third trial waits as the node comes
    nodes.start("odd", PYTHONPATH=unlike(tmp_path))
    said = ""
    try:
        while not re.search("left out|: trained", said):  # one of them it says, the latter if it takes the node
            said += (line := running.stdout.readline())
            assert line, said
    finally:
        for worker in at_work:
            worker.resume()
        said += running.stdout.read()
        nodes.leave("odd")
    assert running.wait() == 0, said
    assert said.count("node odd of the Ray cluster is left out: it differs from the other nodes in pillow\n") == 1, said
    assert {run.data.tags["node"] for run in trial_runs(ours).values()} == {"one", "two"}
    assert ours.damage(long) == Damage()
