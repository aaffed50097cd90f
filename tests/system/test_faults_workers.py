"""A worker of a sweep dies, as memory runs out or by a fault of its own: `make test-faults`."""

import random
import signal
import time

import pytest

from helpers.faults import PATIENCE_SECONDS, SWEEP, WHILE, Damage, wait_for, workers

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("how", "number"), [("killed, as the kernel does it", signal.SIGKILL), ("a segmentation fault", signal.SIGSEGV)]
)
def test_a_workers_death_costs_nothing(workshop, uninterrupted, ledger, how, number):
    expected, moments, damage = uninterrupted(SWEEP)[0], random.Random(number), Damage()
    for round_ in range(2):
        ours = workshop(f"round-{round_}")
        running = ours.start(*SWEEP)
        wait_for(lambda ours=ours: list(ours.home.glob("trials/*/epoch-*")), running, "the first epoch")
        time.sleep(moments.uniform(0, 0.5))
        random.Random(round_).choice(workers(running)).send_signal(number)
        said, _ = running.communicate(timeout=PATIENCE_SECONDS)
        assert running.returncode == 0, said
        assert "a worker died" in said
        damage += ours.damage(expected)
    ledger.add(f"a worker's death: {how}", WHILE[SWEEP], 2, damage, "its trial resumes in a new worker")
