"""A rank knows what it is by its launcher's variables."""

import platform
import subprocess
import sys

import pytest

from helpers import ROOT
from reproduce.training import launcher


def test_a_rank_knows_what_it_is_before_pytorch_is_there():
    code = "import sys; from reproduce.training import distributed, launcher; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        ({"RANK": "0", "LOCAL_RANK": "0"}, "no disk"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, None),  # rank 0 says it, or the first rank of its machine
        ({"RANK": "4", "LOCAL_RANK": "0"}, f"rank 4, on {platform.node()}: no disk"),
    ],
)
def test_each_machine_tells_of_its_own_trouble_once(monkeypatch, rank, said):
    for name, value in ({"WORLD_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"} | rank).items():
        monkeypatch.setenv(name, value)
    assert launcher.error_message("no disk") == said
    assert launcher.error_message(launcher.with_rank("no disk")) == launcher.with_rank("no disk")
