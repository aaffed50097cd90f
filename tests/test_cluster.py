"""Trials on a real Ray cluster of several nodes on this machine: the same bits, whatever dies."""

import itertools
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from conftest import CACHE, ROOT, own_workshop
from faults import PATIENCE_SECONDS, Damage, wait_for
from nodes import RayCluster
from test_cli import typed

from reproduce import cluster, running
from reproduce.errors import ClusterLostError, UserError
from reproduce.tracking import Store

RATES = "6e-3,6e-4,6e-5"
SMALL = ("sweep", "--scheduler", "step", "--learning-rates", RATES, "--epochs", "2", "--train-size", "640")
# Long enough to be struck in the middle: some ten seconds where three share two cores.
LONG = ("sweep", "--scheduler", "step", "--learning-rates", RATES, "--epochs", "16", "--train-size", "6400")
ON_RAY = "a sweep on a Ray cluster"
LABELS = ("step 6e-3 seed 0", "step 6e-4 seed 0", "step 6e-5 seed 0")


separate_disks = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount something for one process alone",
)


@pytest.fixture(scope="module")
def nodes(mnist_cache):
    made = RayCluster()
    try:
        made.begin()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def shop(nodes, mnist_cache, tmp_path_factory):
    """A directory in which commands know the cluster's token, and may be told its address."""

    def make(name):
        return own_workshop(tmp_path_factory.mktemp(name), mnist_cache, **nodes.access)

    return make


@pytest.fixture(scope="module")
def long(shop):
    """What the long sweep leaves when nothing stops it."""
    ours = shop("uninterrupted")
    ours.run(*LONG, "--device", "cpu")
    return ours.left()


def on(nodes, *more):
    return ("--device", "cpu", "--executor", "ray", "--ray-address", nodes.address, *more)


def trial_runs(ours):
    return {run.info.run_name: run for run in ours._runs() if "fingerprint" in run.data.tags}


def is_at_work(nodes, ours, lock):
    """Whether a worker holds the lock, is through with opening its run, and has saved an epoch, if not in this try."""
    status = trial_runs(ours)[LABELS[1]].info.status
    return status == "RUNNING" and list(lock.parent.glob("epoch-*")) and nodes.holder(lock)


def directory(ours, label):
    return ours.home / "trials" / trial_runs(ours)[label].data.tags["fingerprint"]


def saved(ours):
    """How many trials are under way, each with an epoch to go on from."""
    return len({mark.parent for mark in ours.home.glob("trials/*/under-way")}
               & {epoch.parent for epoch in ours.home.glob("trials/*/epoch-*")})  # fmt: skip


def epochs(ours):
    """How many trials have recorded an epoch."""
    return sum("train_loss" in run.data.metrics for run in trial_runs(ours).values())


def refused(ours, *words):
    """The one line with which a command ends before it has begun anything."""
    running = ours.start(*words)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 2, said
    assert said.count("\n") == 1, said
    assert not any("fingerprint" in run.data.tags or run.data.tags.get("kind") == "parent" for run in ours._runs())
    return said


def test_a_sweep_on_two_nodes_is_the_local_one_bit_for_bit_and_is_reused(nodes, shop):
    here, there = shop("here"), shop("there")
    here.run(*SMALL, "--device", "cpu")
    said = there.run(*SMALL, *on(nodes))
    expected = here.left()
    assert len(expected) == 3
    assert there.left().keys() == expected.keys()
    assert there.damage(expected) == Damage()
    assert said.splitlines()[0] == f"Ray cluster at {nodes.address}: 2 nodes to train on"
    assert said.splitlines()[-1] == "3 trained"
    assert len(said.splitlines()) == 5  # and nothing of Ray's own
    assert {run.data.tags["node"] for run in trial_runs(there).values()} == {"one", "two"}
    parents = [run.data.params for run in there._runs() if "fingerprint" not in run.data.tags]
    assert [(made["executor"], made["ray_address"]) for made in parents] == [("ray", nodes.address)]
    again = there.run(*SMALL, *on(nodes))
    assert again.splitlines()[1:] == ["3 of 3 trials were finished before and are reused", "3 reused"]
    assert there.damage(expected) == Damage()


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
    assert said.count(f"{LABELS[1]}: its worker died, perhaps for want of memory; it is run again\n") == 1, said
    assert said.count(f"{LABELS[1]}: failed, its worker died twice\n") == 1, said
    assert f"error: 1 of 3 trials failed: {LABELS[1]}: " in said.splitlines()[-1]
    runs = trial_runs(ours)
    assert [runs[label].info.status for label in LABELS] == ["FINISHED", "KILLED", "FINISHED"]
    assert [runs[label].data.tags.get("times_resumed") for label in LABELS] == [None, "1", None]
    ours.run(*LONG, *on(nodes))
    ledger.add("a worker killed, twice in one trial", ON_RAY, 2, ours.damage(long),
               "that trial is given up, the others end; the same command goes on")  # fmt: skip


@pytest.mark.counted
@pytest.mark.parametrize(
    ("how", "code"), [("SIGTERM, as docker stop", 143), ("kill -9 of the command alone", -signal.SIGKILL)]
)
def test_a_command_that_is_stopped_leaves_nobody_at_work_and_the_next_goes_on(nodes, shop, long, ledger, how, code):
    ours = shop("stopped")
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2, running, "two trials under way")
    said = ours.stop(running, how)
    assert running.returncode == code, said
    assert "Traceback" not in said
    if how.startswith("SIGTERM"):
        assert "told to stop: what is done is recorded; the same command goes on from there" in said
        assert {run.info.status for run in ours._runs()} == {"KILLED"}
    said = ours.run(*LONG, *on(nodes))
    assert said.count(": resumed, ") == 2, said
    ledger.add(how, ON_RAY, 1, ours.damage(long), "the same command goes on in the same runs")


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
    assert said.splitlines()[0] == f"starting Ray on this machine, with {os.cpu_count()} cores, for this command"
    assert "Traceback" not in said
    assert psutil.wait_procs(everyone, PATIENCE_SECONDS)[1] == []
    assert set(Path("/tmp").glob("ray-*")) == before
    assert {run.info.status for run in ours._runs()} == {"KILLED"}


def test_nodes_that_are_not_alike_are_refused_in_one_line(nodes, shop, tmp_path):
    from importlib.metadata import version

    other = tmp_path / "pillow-99.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 99.0\n")
    nodes.start("odd", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    try:
        line = refused(shop("alike"), *SMALL, *on(nodes))
    finally:
        nodes.leave("odd")
    assert line == (
        f"error: the nodes of the Ray cluster differ in pillow: {version('pillow')} on one, two and 99.0 on odd; the "
        "same bits come from the same kind of machine only: make them alike, or take some out of the cluster\n"
    )


@separate_disks
def test_a_store_that_a_node_does_not_see_is_refused_in_one_line(nodes, shop):
    ours = shop("unseen")
    ours.start("verify").communicate()  # makes a store
    nodes.start("far", hidden=ours.directory)
    try:
        line = refused(ours, *SMALL, *on(nodes))
    finally:
        nodes.leave("far")
    assert line == (
        f"error: node far of the Ray cluster: it does not see the tracking store {ours.uri} but its own disk: have "
        "MLFLOW_TRACKING_URI name a server that all nodes reach (mlflow server), or be in a directory that they share\n"
    )
    assert not list(ours.directory.rglob(".seen-*"))


@pytest.mark.counted
@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=separate_disks)], ids=["shared", "disk of its own"])
def test_a_trial_whose_node_is_lost_goes_on_elsewhere_and_the_others_as_if_nothing_was(
    nodes, shop, long, ledger, shared
):
    ours = shop("lost")
    nodes.start("three", hidden=None if shared else ours.home, REPRODUCE_DATA_DIR=str(CACHE / "data" / "mnist"))
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2 + shared and epochs(ours) == 3, running, "three trials under way")
    nodes.kill("three")
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert ("is not the same directory on all of them" in said) is not shared
    (lost,) = re.findall("^(.*): its node is gone; it is run again$", said, re.MULTILINE)
    assert {label: f"{label}: resumed, " in said for label in LABELS} == {label: label == lost for label in LABELS}
    runs = trial_runs(ours)
    assert {label: runs[label].data.tags.get("resumed") is not None for label in LABELS} == {
        label: label == lost for label in LABELS
    }
    assert (runs[lost].data.tags["resumed"] == "after epoch 0") is not shared
    assert {run.data.tags["node"] for run in runs.values()} == {"one", "two"}
    if shared:
        ledger.add("a node killed", ON_RAY, 1, ours.damage(long), "its trial goes on elsewhere, in the same run")
    else:
        ledger.add("a node killed, with its checkpoints", ON_RAY, 1, ours.damage(long),
                   "its trial begins anew elsewhere, in the same run")  # fmt: skip


class Nothing(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_an_address_where_no_cluster_is_is_refused_in_one_line(nodes, shop):
    ours = shop("nowhere")
    ours.environment["RAY_py_gcs_connect_timeout_s"] = "1"
    other = HTTPServer(("", 0), Nothing)
    port = other.server_address[1]
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        line = refused(ours, *SMALL, "--executor", "ray", "--ray-address", f"127.0.0.1:{port}")
    finally:
        other.shutdown()
        other.server_close()
    assert line == (
        f"error: --ray-address 127.0.0.1:{port}: what answers there is no head of a Ray cluster; "
        "expected HOST:PORT of one with this version of Ray\n"
    )
    line = refused(ours, *SMALL, "--executor", "ray", "--ray-address", f"127.0.0.1:{port}")
    assert line == (
        f"error: --ray-address 127.0.0.1:{port}: nobody answers there (Connection refused); expected the head of a Ray "
        "cluster: start one with ray start --head, or leave the option and RAY_ADDRESS out\n"
    )
    ours.environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    line = refused(ours, *SMALL, *on(nodes))
    assert line == (
        f"error: --ray-address {nodes.address}: the cluster asks for another token than this machine has: have "
        "RAY_AUTH_TOKEN or ~/.ray/auth_token hold the cluster's, and RAY_AUTH_MODE say token\n"
    )


def test_an_address_in_the_environment_is_held_to_the_options_rules(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    assert typed(monkeypatch, capsys, "sweep", "--executor", "ray") == (
        2,
        "error: RAY_ADDRESS is 'ray://10.0.0.1:10001', which is that of Ray's client or dashboard; expected HOST:PORT "
        "of a Ray cluster's head, as 10.0.0.1:6379, the word local: correct or unset it\n",
    )
    assert running.ray_address("10.0.0.1:6379") == "10.0.0.1:6379"
    for value, address in (("10.0.0.2:6379", "10.0.0.2:6379"), ("auto", None), ("", None), ("local", "local")):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert running.ray_address(None) == address


def test_rays_options_without_ray_are_told_to_have_no_effect():
    given = {"executor": "local", "ray_address": None, "gpus_per_trial": 1.0}
    assert running._idle(given) == []
    assert running._idle(given | {"ray_address": "10.0.0.1:6379", "gpus_per_trial": 0.5}) == [
        "--ray-address has no effect without --executor ray", "--gpus-per-trial has no effect without --executor ray",
    ]  # fmt: skip
    assert running._idle(given | {"executor": "ray", "ray_address": "10.0.0.1:6379", "gpus_per_trial": 0.5}) == []


def test_a_gpu_that_ray_gives_and_pytorch_does_not_find_fails_the_trial_in_one_line(nodes, shop):
    ours = shop("gpu")
    running = ours.start(*SMALL, *on(nodes, "--device", "auto", "--gpus-per-trial", "0.5"))
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    why = "node two: its PyTorch sees no GPU, though Ray gives one: install one that does"
    assert sorted(said.splitlines()[1:4]) == sorted(f"{label}: failed, {why}" for label in LABELS)
    assert trial_runs(ours) == {}


def test_a_cluster_without_a_gpu_is_told_where_one_is_wanted():
    class Nodes:
        @staticmethod
        def nodes():
            return [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 1.0}, "NodeName": "a",
                     "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "a"},
                    {"NodeID": "b", "Alive": False, "Resources": {"GPU": 1.0}}]  # fmt: skip

    made = cluster.Cluster(Nodes, "10.0.0.1:6379", None, None, 1.0)
    assert [made.device(wanted) for wanted in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="--device cuda: no node of the Ray cluster has a GPU to give; start one with"):
        made.device("cuda")


def test_a_head_that_stays_away_is_given_up(monkeypatch):
    made = cluster.Cluster(None, "10.0.0.1:6379", None, None, 1.0)
    answers = iter(["Connection refused", None, "Connection refused", "Connection refused"])
    monkeypatch.setattr(cluster, "silent", lambda address: next(answers))
    made._check_head()
    made._check_head()
    made._check_head()
    monkeypatch.setattr(cluster, "GONE_SECONDS", 0)
    with pytest.raises(ClusterLostError, match=r"the head of the Ray cluster, 10\.0\.0\.1:6379, is gone"):
        made._check_head()


def test_a_clusters_trials_are_closed_with_the_command_that_they_were_of(store, small_trial, tmp_path):
    node = Store(tmp_path / "another home", store.uri, store.experiment_id)

    def status(run_id):
        return store.client.get_run(run_id).info.status

    with store.parent("sweep", {}) as ended:
        left, _ = node.open_trial(small_trial, "a" * 64, ended)
    with store.parent("sweep", {}) as at_work:
        others, _ = node.open_trial(small_trial, "b" * 64, at_work)
        lost, _ = node.open_trial(small_trial, "c" * 64, at_work)
        store.close_abandoned()
        assert [status(run_id) for run_id in (left, others, lost)] == ["KILLED", "RUNNING", "RUNNING"]
        store.close_lost(at_work, "c" * 64)
        assert [status(run_id) for run_id in (others, lost)] == ["RUNNING", "KILLED"]
        store.close_lost(at_work)
        assert status(others) == "KILLED"
