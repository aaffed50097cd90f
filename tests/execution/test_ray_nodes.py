"""What a command knows of a Ray cluster before and beside its trials: addresses, nodes, what they have to see."""

import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import parameter

from helpers.commands import typed
from helpers.servers import free_port
from helpers.small import run_options, task_for
from reproduce.cli import process, run_command
from reproduce.errors import ClusterLostError, StoreAwayError, UserError
from reproduce.execution.ray import admission, cluster, node, session, shared_storage
from reproduce.tracking import store as tracking_store
from reproduce.tracking.parent_run import open_parent_run
from reproduce.tracking.retrying_client import RetryingClient
from reproduce.tracking.store import reopen_store


def test_an_address_in_the_environment_is_held_to_the_options_rules(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    assert typed(monkeypatch, capsys, "sweep", "--executor", "ray") == (
        2,
        "error: RAY_ADDRESS is 'ray://10.0.0.1:10001', which is an address of Ray's client or dashboard; expected "
        "HOST:PORT of a Ray cluster's head, such as 10.0.0.1:6379, the word local: correct or unset it\n",
    )
    assert run_command.ray_address("10.0.0.1:6379") == "10.0.0.1:6379"
    for value, address in (("10.0.0.2:6379", "10.0.0.2:6379"), ("auto", None), ("", None), ("local", "local")):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert run_command.ray_address(None) == address


def test_rays_options_without_ray_are_told_to_have_no_effect():
    assert run_command._list_unused(run_options(Path("/home"))) == []
    rays = {"ray_address": "10.0.0.1:6379", "gpus_per_trial": 0.5}
    assert run_command._list_unused(run_options(Path("/home"), **rays)) == [
        "--ray-address has no effect without --executor ray", "--gpus-per-trial has no effect without --executor ray",
    ]  # fmt: skip
    assert run_command._list_unused(run_options(Path("/home"), executor="ray", **rays)) == []


def found(name, alive, resources):
    """A node as Ray lists it."""
    return {"NodeID": name, "NodeName": name, "NodeManagerAddress": "", "Alive": alive, "Resources": resources}


@pytest.fixture
def listed(monkeypatch):
    """Have Ray list these nodes."""
    return lambda *nodes: monkeypatch.setattr(ray, "nodes", lambda: [found(*node) for node in nodes])


def test_a_cluster_without_a_gpu_is_told_where_one_is_wanted(listed):
    listed(("a", True, {"CPU": 1.0}), ("b", False, {"GPU": 1.0}))
    assert [admission.choose_device(wanted) for wanted in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(
        UserError, match="--device cuda: no node of the Ray cluster offers a GPU and a CPU; start one with"
    ):
        admission.choose_device("cuda")


def test_what_a_node_has_to_see_is_there_as_long_as_the_command(store, tmp_path):
    with shared_storage.open_to_nodes(store) as storage:
        shared_storage.check(storage, is_known=False)
        left_over = storage.home_token.with_name(f"{storage.home_token.name}-killed")
        left_over.touch()
        with shared_storage.open_to_nodes(store) as others:
            shared_storage.check(others, is_known=False)
        assert not left_over.exists()
        shared_storage.check(storage, is_known=False)
        unlocked = tmp_path / "unlocked"
        unlocked.touch()
        for change, complaint in (
            ({"created_at": storage.created_at + 1}, "it finds another store than this command"),
            ({"machine": "elsewhere"}, "is a SQLite file of elsewhere, which machines must not share"),
            ({"home_token": unlocked}, "is on a file system that does not share locks between machines"),
            ({"tokens": (("the artifacts", tmp_path / "nothing"),)}, "it sees its own disk in place of the artifacts"),
        ):
            with pytest.raises(UserError, match=complaint):
                shared_storage.check(replace(storage, **change), is_known=False)
    assert not list(tmp_path.rglob(".seen-*")) + list(store.home.rglob(".seen-*"))


def test_a_trial_that_loses_ten_nodes_is_given_up(store, small_trial, listed):
    listed(("a", True, {"CPU": 1.0}))
    made = cluster.Cluster(run_options(store.home), "10.0.0.1:6379")
    made.store, task = store, task_for(store, small_trial)
    assert [made.after_loss(task, "node") for _ in range(9)] == [None] * 9
    assert made.after_loss(task, "worker") is None
    assert made.after_loss(task, "node").note == "its node is gone (10 times)"


@pytest.mark.parametrize(("device", "calls", "gpus"), [("cuda", 1, 0.25), ("cpu", None, None)])
def test_a_worker_ends_after_its_trial_on_a_gpu_as_the_next_may_be_given_another(store, listed, device, calls, gpus):
    listed(("a", True, {"CPU": 1.0, "GPU": 1.0}))
    options = run_options(store.home, device=device, gpus_per_trial=0.25)
    needs = cluster.Cluster(options, "10.0.0.1:6379").remote_trial._default_options
    assert (needs.get("max_calls"), needs.get("num_gpus"), needs["num_cpus"]) == (calls, gpus, 1)


def test_a_node_needs_a_core_for_a_trial_on_its_gpu_too(listed):
    listed(("cores", True, {"CPU": 8.0}), ("both", True, {"CPU": 1.0, "GPU": 2.0}),
           ("login", True, {"GPU": 1.0}), ("gone", False, {"CPU": 1.0, "GPU": 1.0}))  # fmt: skip
    assert admission.usable_nodes("cuda") == {"both": "both"}
    assert admission.usable_nodes("cpu") == {"cores": "cores", "both": "both"}


def test_sigterm_while_ray_connects_ends_a_command_as_ever(monkeypatch):
    def init(**options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray has it
        signal.raise_signal(signal.SIGTERM)

    ended = []
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray._private.worker, "_worker_logs_enabled", True)
    before = signal.signal(signal.SIGTERM, process._terminate)
    try:
        with pytest.raises(process.Terminated), session.connect("local"):
            pass
        assert signal.getsignal(signal.SIGTERM) is process._terminate
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [True]


def test_a_worker_that_starts_waits_for_a_store_that_is_away_as_the_others_do(store, monkeypatch):
    waits = []

    class Noting(RetryingClient):
        def __init__(self, uri, timeout):
            super().__init__(uri, 0)
            waits.append(timeout)

    monkeypatch.setenv("REPRODUCE_STORE_PATIENCE", "100")
    monkeypatch.setattr(tracking_store, "RetryingClient", Noting)
    with shared_storage.open_to_nodes(store) as storage:
        away = replace(storage, uri=f"http://127.0.0.1:{free_port()}", tokens=(), machine=None,
                       home_token=Path("/none"))  # fmt: skip
        with pytest.raises(StoreAwayError, match="does not answer"):
            shared_storage.check(away, is_known=True)
        with pytest.raises(UserError, match="it cannot use the tracking store"):
            shared_storage.check(away, is_known=False)
    assert waits == [100, tracking_store.OPENING_SECONDS]


@pytest.fixture
def admitted(monkeypatch, listed, store):
    """Admit nodes that answer so, by name, in place of a cluster."""

    def admit(**answers):
        listed(*((name, True, {"CPU": 1.0}) for name in answers))

        def options(scheduling_strategy, **others):
            return SimpleNamespace(remote=lambda request: answers[scheduling_strategy])

        monkeypatch.setattr(admission, "NodeAffinitySchedulingStrategy", lambda node_id, soft: node_id)
        monkeypatch.setattr(admission.ray, "remote", lambda function: SimpleNamespace(options=options))
        monkeypatch.setattr(admission.ray, "get", lambda answer, timeout: answer)
        request = node.NodeRequest(run_options(Path("/home")), (), Path("/work"), "package", None)
        return admission.admit_nodes(request, "10.0.0.1:6379")

    return admit


def test_ray_takes_what_is_submitted_to_it():
    assert ray.remote(node.prepare)
    assert ray.remote(node.run_trial)


def test_processors_that_differ_are_told(admitted, capsys):
    environment = node.NodeEnvironment("fused", None, {"numpy": "2"}, "A", True, ("fetching mnist",))
    assert admitted(one=environment, two=replace(environment, processor="B", shares_home=False)) == environment
    assert capsys.readouterr().err.splitlines() == [
        "fetching mnist",
        "the nodes' processors differ, so the last bits may differ too: one: A; two: B",
        "Ray cluster at 10.0.0.1:6379: 2 nodes to train on",
        "/home is not the same directory on all of them: a trial that loses its node starts again",
    ]


def test_nodes_whose_kernels_differ_are_told_how_to_do_without(admitted):
    environment = node.NodeEnvironment("fused", None, {"engine": "a" * 64}, "A", True, ())
    message = "differ in engine: aaaaaaaaaaaa on one, three and bbbbbbbbbbbb on two; "
    with pytest.raises(UserError, match=f"{message}.*, or have none compiled with --engine torch"):
        admitted(one=environment, two=replace(environment, deciding={"engine": "b" * 64}), three=environment)


def test_a_node_with_another_version_of_this_package_is_refused(store):
    with shared_storage.open_to_nodes(store) as storage:
        request = node.NodeRequest(run_options(store.home), (), Path.cwd(), "another", storage)
        with pytest.raises(UserError, match="its version of this package is not the command's: install the same"):
            node.prepare(request)


def test_a_cluster_that_another_user_started_here_is_not_taken(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        address = f"127.0.0.1:{somebody.getsockname()[1]}"
        file = tmp_path / "ray" / "ray_current_cluster"
        file.parent.mkdir()
        file.write_text(address)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        assert session._started_here() == address
        monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + 1)
        assert session._started_here() is None


def test_a_node_that_is_started_here_need_not_be_told_its_helpers_ports_in_time(monkeypatch, tmp_path):
    usual = parameter.RayParams
    with session._patient_node(tmp_path) as option:
        made = parameter.RayParams()
        node = os.environ["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]
    assert {file.name: int(file.read_text()) for file in (tmp_path / made.session_name).iterdir()} == {
        f"metrics_agent_port_{node}": made.metrics_agent_port,
        f"dashboard_agent_listen_port_{node}": made.dashboard_agent_listen_port,
        f"runtime_env_agent_port_{node}": made.runtime_env_agent_port,
        f"metrics_export_port_{node}": option["_metrics_export_port"],
    }
    assert (parameter.RayParams, "RAY_OVERRIDE_NODE_ID_FOR_TESTING" in os.environ) == (usual, False)


def test_what_is_wrong_on_this_machine_is_one_line_with_ray_too(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert typed(monkeypatch, capsys, "sweep", "--executor", "ray", "--ray-address", "a..b:6379") == (
        2,
        "error: --ray-address a..b:6379: nothing answers there (it is no address); expected the head of a Ray cluster: "
        "start one with ray start --head, or remove the option and unset RAY_ADDRESS\n",
    )
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "many")
    assert typed(monkeypatch, capsys, "sweep", "--executor", "ray", "--ray-address", "local") == (
        2, "error: LOKY_MAX_CPU_COUNT is 'many', expected a whole number: correct or unset it\n",
    )  # fmt: skip


def test_a_clusters_trials_are_closed_with_the_command_that_they_were_of(store, small_trial, tmp_path):
    node = reopen_store(tmp_path / "another home", store.uri, store.experiment_id)

    def status(run_id):
        return store.mlflow.get_run(run_id).info.status

    with open_parent_run(store, "sweep", {}) as ended:
        left, _ = node.writer.open_trial(small_trial, "a" * 64, ended)
    with suppress(ClusterLostError), open_parent_run(store, "sweep", {}) as failed:
        unknown, _ = node.writer.open_trial(small_trial, "d" * 64, failed)
        raise ClusterLostError
    with open_parent_run(store, "sweep", {}) as at_work:
        others, _ = node.writer.open_trial(small_trial, "b" * 64, at_work)
        lost, _ = node.writer.open_trial(small_trial, "c" * 64, at_work)
        store.heartbeat.end_stale_runs()
        assert [status(run_id) for run_id in (left, others, lost)] == ["KILLED", "RUNNING", "RUNNING"]
        assert status(unknown) == "RUNNING"  # its worker may not know yet; its silence will tell
        store.heartbeat.end_lost_trials(at_work, "c" * 64)
        assert [status(run_id) for run_id in (others, lost)] == ["RUNNING", "KILLED"]
        store.heartbeat.end_lost_trials(at_work)
        assert status(others) == "KILLED"
