"""A real Ray cluster that cannot be used, or a node of it, ends a command in one line before it has begun anything."""

import secrets
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import pytest

from helpers.faults import PATIENCE_SECONDS
from helpers.ray_cluster import unlike
from helpers.ray_commands import SMALL, on, refused, separate_disks, told, trial_runs

pytestmark = [pytest.mark.usefixtures("_two_nodes_left"), pytest.mark.xdist_group("ray")]


def test_nodes_that_are_not_alike_are_refused_in_one_line(nodes, shop, tmp_path):
    nodes.start("odd", PYTHONPATH=unlike(tmp_path))
    try:
        line = refused(shop("alike"), *SMALL, *on(nodes))
    finally:
        nodes.leave("odd")
    assert line == (
        f"error: the nodes of the Ray cluster differ in pillow: {version('pillow')} on one, two and 99.0 on odd; only "
        "machines of the same kind give the same bits: make them alike, or take some out of the cluster\n"
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
        f"error: node far of the Ray cluster: it sees its own disk in place of the tracking store {ours.uri}: set "
        "MLFLOW_TRACKING_URI to a server that all nodes reach (mlflow server), or be in a directory that they share\n"
    )
    assert not list(ours.directory.rglob(".seen-*"))


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
        f"error: --ray-address 127.0.0.1:{port}: what answers there is not the head of a Ray cluster; "
        "expected HOST:PORT of one with this version of Ray\n"
    )
    line = refused(ours, *SMALL, "--executor", "ray", "--ray-address", f"127.0.0.1:{port}")
    assert line == (
        f"error: --ray-address 127.0.0.1:{port}: nothing answers there (Connection refused); expected the head of a "
        "Ray cluster: start one with ray start --head, or remove the option and unset RAY_ADDRESS\n"
    )
    ours.environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    line = refused(ours, *SMALL, *on(nodes))
    assert line == (
        f"error: --ray-address {nodes.address}: the cluster requires another token than this machine has: put the "
        "cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token, and set RAY_AUTH_MODE to token\n"
    )


def test_a_node_whose_gpu_pytorch_does_not_find_is_left_out_and_with_it_the_command_ends(nodes, shop):
    ours = shop("gpu")
    running = ours.start(*SMALL, *on(nodes, "--device", "auto", "--gpus-per-trial", "0.5"))
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 1, said
    why = "its PyTorch sees no GPU, although Ray offers one: install a PyTorch that does"
    assert said.count(f"node two of the Ray cluster is left out: {why}\n") == 1, said
    last = f"error: no node of the Ray cluster is left to train on; two: {why}: "
    assert said.splitlines()[-1].startswith(last), said
    assert trial_runs(ours) == {}


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode != 0,
    reason="needs the right to hide this machine's processes",
)
def test_a_machine_that_is_no_node_is_told_to_become_one(nodes, shop):
    ours = shop("login")
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "reproduce", *SMALL, *on(nodes)]
    environment = ours.environment | {"RAY_gcs_server_request_timeout_seconds": "2"}
    done = subprocess.run(command, cwd=ours.directory, env=environment, capture_output=True, text=True)
    assert (done.returncode, told(done.stderr)) == (
        2,
        [f"error: --ray-address {nodes.address}: this machine is not a node of the cluster, and Ray accepts commands "
         f"on nodes only: first type ray start --address={nodes.address}, with --num-cpus=0 --num-gpus=0 to train "
         "nothing here"],
    )  # fmt: skip
