"""A worker of a sweep dies, for want of memory or by a fault of its own: `make test-faults`."""

import random
import signal
import time

import pytest
from faults import PATIENCE_SECONDS, Damage, wait_for, workers

pytestmark = pytest.mark.faults
SWEEP = ("sweep", "--scheduler", "step", "--learning-rates", "6e-3,6e-4,6e-5,6e-6", "--epochs", "6",
         "--train-size", "12800", "--jobs", "2", "--device", "cpu")  # fmt: skip


@pytest.mark.parametrize(
    ("how", "number"), [("killed, as the kernel does it", signal.SIGKILL), ("a segmentation fault", signal.SIGSEGV)]
)
def test_a_workers_death_costs_nothing(workshop, ledger, how, number):
    whole = workshop("uninterrupted")
    whole.run(*SWEEP)
    expected, moments, damage = whole.left(), random.Random(number), Damage()
    for round_ in range(3):
        ours = workshop(f"round-{round_}")
        running = ours.start(*SWEEP)
        wait_for(lambda ours=ours: list(ours.home.glob("trials/*/epoch-*")), running, "the first epoch")
        time.sleep(moments.uniform(0, 0.5))
        random.Random(round_).choice(workers(running)).send_signal(number)
        said, _ = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 0, said
        assert "a worker died" in said
        damage += ours.damage(expected)
    ledger.add(f"a worker's death: {how}", "a sweep with two workers", 3, damage, "its trial goes on in a new one")
