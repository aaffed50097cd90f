"""Nodes of a real Ray cluster on this machine, to be killed by the tests."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from helpers import ROOT
from helpers.faults import PATIENCE_SECONDS, wait_for

# A node gives up where its agents take more than 15 s to start, as on a machine that is busy.
TRIES = 5


def has_failed(node):
    """Whether `ray start` has ended, or waits for a raylet that has."""
    children = psutil.Process(node.pid).children() if node.poll() is None else []
    return node.poll() is not None or any(
        child.name() == "raylet" and child.status() == psutil.STATUS_ZOMBIE for child in children
    )


class RayCluster:
    """Nodes as `ray start` makes them, each a tree of processes; nothing of them is left in the end."""

    def __init__(self, **environment):
        self.folder = Path(tempfile.mkdtemp(prefix="ray-test-", dir="/tmp"))  # sockets have short names
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment, self.nodes = environment, {}

    def begin(self):
        self.start("one", "--head", "--port=0", "--include-dashboard=false", f"--temp-dir={self.folder}")
        told = self.folder / "ray_current_cluster"  # where nothing may stand yet
        wait_for(lambda: told.exists() and told.read_text().strip(), what="the head's address")
        self.address = told.read_text().strip()

    def start(self, name, *words, hidden=None, **environment):
        """A node; of the directory `hidden` it has one of its own, as on a disk that is not shared."""
        words = words or (f"--address={self.address}",)
        apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', hidden] if hidden else []
        command = [*apart, Path(sys.executable).with_name("ray"), "start", *words, f"--node-name={name}",
                   "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block"]  # fmt: skip
        # Ray starts no node that offers more GPUs than this variable shows, and the tests' GPUs are made up.
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        variables = inherited | self.access | {
            "RAY_raylet_start_wait_time_s": str(PATIENCE_SECONDS),
            "RAY_agent_register_timeout_ms": str(PATIENCE_SECONDS * 1000), "PYTHONPATH": str(ROOT),
        } | self.environment | environment  # fmt: skip
        log = self.folder / f"{name}.log"
        for _ in range(TRIES):
            with log.open("w") as file:
                node = subprocess.Popen(command, env=variables, cwd=self.folder, stdout=file, stderr=file,
                                        start_new_session=True)  # fmt: skip
            self.nodes[name] = node
            wait_for(
                lambda node=node: "Ray runtime started" in log.read_text() or has_failed(node), what=f"node {name}"
            )
            if not has_failed(node):
                return
            if node.poll() is None:
                self.kill(name)
        raise AssertionError(log.read_text())

    def processes(self, name):
        node = psutil.Process(self.nodes[name].pid)
        return [node, *node.children(recursive=True)]

    def kill(self, name):
        """As a machine that loses its power: every process at once, with no time for a word."""
        everyone = self.processes(name)
        for process in everyone:
            process.suspend()
        for process in everyone:
            process.kill()
        self.nodes.pop(name).wait()

    def leave(self, name):
        """As `ray stop`, which would have every node of this machine leave."""
        node = psutil.Process(self.nodes[name].pid)
        (raylet,) = (process for process in node.children() if process.name() == "raylet")
        raylet.terminate()
        assert psutil.wait_procs([raylet], PATIENCE_SECONDS)[1] == []
        self.kill(name)

    def holder(self, lock):
        """The worker that holds the lock of a trial; None where nobody does."""
        for name in self.nodes:
            for process in self.processes(name):
                try:
                    if any(Path(file.path) == lock for file in process.open_files()):
                        return process
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    continue
        return None

    def end(self):
        for name in list(self.nodes):
            if self.nodes[name].poll() is None:
                self.kill(name)
        shutil.rmtree(self.folder)


def unlike(place):
    """What makes a Python see another Pillow than there is."""
    other = place / "pillow-99.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 99.0\n")
    return f"{place}{os.pathsep}{ROOT}"
