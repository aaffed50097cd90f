"""Nodes of a Ray cluster, and directories in which commands know its token."""

import pytest

from helpers import CACHE
from helpers.ray_cluster import RayCluster
from helpers.ray_commands import LONG
from helpers.small import own_workshop


@pytest.fixture(scope="module")
def nodes(mnist_cache):
    made = RayCluster(REPRODUCE_FUSED_DIR=str(CACHE / "fused"))
    try:
        made.begin()
        made.start("two", f"--address={made.address}", "--num-gpus=1")  # one that PyTorch will not find
        yield made
    finally:
        made.end()


@pytest.fixture
def _two_nodes_left(nodes):
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
