"""Trials on a real Ray cluster of several nodes on this machine: the same bits, whatever dies."""

import itertools
import re
import secrets
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from filelock import FileLock, Timeout

from helpers import CACHE
from helpers.faults import PATIENCE_SECONDS, Damage, wait_for
from helpers.ray_cluster import RayCluster, unlike
from helpers.small import own_workshop
from reproduce.training import provenance

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
    made = RayCluster(REPRODUCE_FUSED_DIR=str(CACHE / "fused"))
    try:
        made.begin()
        made.start("two", f"--address={made.address}", "--num-gpus=1")  # one that PyTorch will not find
        yield made
    finally:
        made.end()


@pytest.fixture(autouse=True)
def _without_what_a_test_started(nodes):
    """Let a test that fails in the middle leave no node behind, which would take part in all the others."""
    yield
    for name in nodes.nodes.keys() - {"one", "two"}:
        nodes.kill(name)


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


def is_held(lock):
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def directory(ours, label):
    return ours.home / "trials" / trial_runs(ours)[label].data.tags["fingerprint"]


def saved(ours):
    """How many trials are under way, each with an epoch to go on from."""
    return len({mark.parent for mark in ours.home.glob("trials/*/under-way")}
               & {epoch.parent for epoch in ours.home.glob("trials/*/epoch-*")})  # fmt: skip


def epochs(ours):
    """How many trials have recorded an epoch."""
    return sum("train_loss" in run.data.metrics for run in trial_runs(ours).values())


def told(said):
    """The lines of a command but for those that say what takes a while, which depends on the machine."""
    slow = ("waiting for ", "the tracking store ")
    return [line for line in said.splitlines() if not (line.startswith(slow) and ", for up to " in line)]


def refused(ours, *words):
    """The one line with which a command ends before it has begun anything."""
    running = ours.start(*words)
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 2, said
    (line,) = told(said)
    assert not any("fingerprint" in run.data.tags or run.data.tags.get("kind") == "parent" for run in ours._runs())
    return f"{line}\n"


def test_a_sweep_on_two_nodes_is_the_local_one_bit_for_bit_and_is_reused(nodes, shop):
    here, there = shop("here"), shop("there")
    here.run(*SMALL, "--device", "cpu")
    said = there.run(*SMALL, *on(nodes))
    expected = here.left()
    assert len(expected) == 3
    assert there.left().keys() == expected.keys()
    assert there.damage(expected) == Damage()
    assert told(said)[0] == f"Ray cluster at {nodes.address}: 2 nodes to train on"
    assert told(said)[-1] == "3 trained"
    assert len(told(said)) == 5  # and nothing of Ray's own
    assert {run.data.tags["node"] for run in trial_runs(there).values()} == {"one", "two"}
    asked = [
        (run.data.params["executor"], run.data.params["ray_address"], run.data.params["jobs"])
        for ours in (here, there) for run in ours._runs() if "fingerprint" not in run.data.tags
    ]  # fmt: skip
    assert asked == [("local", "auto", "auto"), ("ray", nodes.address, "auto")]
    again = there.run(*SMALL, *on(nodes))
    assert told(again)[1:] == ["3 of 3 trials were finished before and are reused", "3 reused"]
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
    assert said.count(f"{LABELS[1]}: its worker died, perhaps because memory ran out; it is run again\n") == 1, said
    assert said.count(f"{LABELS[1]}: failed, its worker died, perhaps because memory ran out (2 times)\n") == 1, said
    assert f"error: 1 of 3 trials failed: {LABELS[1]}: " in said.splitlines()[-1]
    runs = trial_runs(ours)
    assert [runs[label].info.status for label in LABELS] == ["FINISHED", "KILLED", "FINISHED"]
    assert [runs[label].data.tags.get("times_resumed") for label in LABELS] == [None, "1", None]
    ours.run(*LONG, *on(nodes))
    ledger.add("a worker killed, twice in one trial", ON_RAY, 2, ours.damage(long),
               "that trial is given up, the others end; the same command goes on")  # fmt: skip


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
    assert not any(is_held(lock) or nodes.holder(lock) for lock in locks)  # whoever was at work ended before
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 143, said
    assert "Traceback" not in said
    assert "told to stop: what is done is recorded; the same command goes on from there" in said
    assert {run.info.status for run in ours._runs()} == {"KILLED"}
    if not shared:
        nodes.leave("three")
    said = ours.run(*LONG, *on(nodes))
    assert said.count(": resumed, ") == 2 + (not shared), said
    ledger.add("SIGTERM, as docker stop", ON_RAY if shared else f"{ON_RAY}, a node with its own disk", 1,
               ours.damage(long), "the same command goes on in the same runs")  # fmt: skip


@pytest.mark.counted
def test_after_a_command_that_is_killed_the_next_goes_on(nodes, shop, long, ledger):
    ours, how = shop("killed"), "kill -9 of the command alone"
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2, running, "two trials under way")
    ours.stop(running, how)
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
    assert told(said)[0] == f"starting Ray on this machine, with {provenance.cores()} cores, for this command"
    assert "Traceback" not in said
    assert psutil.wait_procs(everyone, PATIENCE_SECONDS)[1] == []
    assert set(Path("/tmp").glob("ray-*")) == before
    assert {run.info.status for run in ours._runs()} == {"KILLED"}


def test_nodes_that_are_not_alike_are_refused_in_one_line(nodes, shop, tmp_path):
    nodes.start("odd", PYTHONPATH=unlike(tmp_path))
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
@pytest.mark.parametrize(
    ("lost", "outcome"),
    [
        ("a node killed", "its trial goes on elsewhere, in the same run"),
        pytest.param("a node killed, with its checkpoints", "its trial begins anew elsewhere, in the same run",
                     marks=separate_disks),
        ("a node taken out by ray stop", "its trial goes on elsewhere, in the same run"),
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
    (label,) = re.findall("^(.*): its node is gone; it is run again$", said, re.MULTILINE)
    assert {each: f"{each}: resumed, " in said for each in LABELS} == {each: each == label for each in LABELS}
    runs = trial_runs(ours)
    assert {each: runs[each].data.tags.get("resumed") is not None for each in LABELS} == {
        each: each == label for each in LABELS
    }
    assert (runs[label].data.tags["resumed"] == "after epoch 0") is not shared
    assert {run.data.tags["node"] for run in runs.values()} == {"one", "two"}
    ledger.add(lost, ON_RAY, 1, ours.damage(long), outcome)


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


def test_a_node_whose_gpu_pytorch_does_not_find_is_left_out_and_with_it_the_command_ends(nodes, shop):
    ours = shop("gpu")
    running = ours.start(*SMALL, *on(nodes, "--device", "auto", "--gpus-per-trial", "0.5"))
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    why = "its PyTorch sees no GPU, though Ray gives one: install one that does"
    assert said.count(f"node two of the Ray cluster is left out: {why}\n") == 1, said
    last = f"error: no node of the Ray cluster is left to train on; two: {why}: "
    assert said.splitlines()[-1].startswith(last), said
    assert trial_runs(ours) == {}


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
        f"error: the head of the Ray cluster, {own.address}, is gone: what is done is recorded; the same command goes "
        "on from there"
    )
    ours.run(*LONG, "--device", "cpu")
    ledger.add("the head of the cluster killed", ON_RAY, 1, ours.damage(long),
               "ends in one line; the same command goes on")  # fmt: skip


def test_a_node_that_joins_later_and_is_not_like_the_others_is_left_out(nodes, shop, long, tmp_path):
    ours = shop("late")
    running = ours.start(*LONG, *on(nodes))
    wait_for(lambda: saved(ours) == 2, running, "two trials under way")
    at_work = [nodes.holder(mark.with_name("lock")) for mark in ours.home.glob("trials/*/under-way")]
    for worker in at_work:  # so that the third trial is still waiting when the node has come
        worker.suspend()
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


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode != 0,
    reason="needs the right to hide this machine's processes",
)
def test_a_machine_that_is_no_node_is_told_to_become_one(nodes, shop):
    ours = shop("login")
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "reproduce", *SMALL, *on(nodes)]
    environment = ours.environment | {"RAY_gcs_server_request_timeout_seconds": "2"}
    done = subprocess.run(command, cwd=ours.directory, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: --ray-address {nodes.address}: this machine is none of the cluster's nodes, through which alone Ray "
        f"lets a command in: first type ray start --address={nodes.address}, and --num-cpus=0 --num-gpus=0 to train "
        "nothing here\n",
    )
