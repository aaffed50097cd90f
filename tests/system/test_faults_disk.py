"""The disk is full or read-only: `make test-faults`. On a file system of the test's own, which only root may mount."""

import subprocess

import pytest

from helpers.faults import PATIENCE_SECONDS, SWEEP, WHILE, wait_for
from helpers.ray_commands import told

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """A file system in memory, of 400 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system of the test's own cannot be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def expected(uninterrupted):
    """What the sweep leaves where nothing breaks."""
    return uninterrupted(SWEEP)[0]


def fill(place):
    """Take what room there is; the file that does."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def ended_in_a_line(running, code):
    said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    assert "Traceback" not in said, said
    assert running.returncode == code, said
    assert said.splitlines()[-1].startswith("error: "), said
    return said


WHERE = ("checkpoints", "the store and artifacts", "everything")  # what is on the disk that gets full


def placed(workshop, disk, where):
    if where == "checkpoints":
        ours = workshop("work")
        ours.move_home(disk / "home")
        return ours
    if where == "the store and artifacts":
        ours = workshop("disk/work")
        ours.move_home(disk.parent / "home")
        return ours
    return workshop("disk/work")


@pytest.mark.parametrize("where", WHERE)
def test_a_full_disk_ends_in_a_line_and_with_room_it_goes_on(workshop, disk, expected, ledger, where):
    ours = placed(workshop, disk, where)
    for saved in (1, 5, 9):  # of all epochs, before the disk is full
        running = ours.start(*SWEEP)
        wait_for(lambda saved=saved: epochs_done(ours) >= saved, running, f"{saved} epochs")
        filler = fill(disk)
        ended_in_a_line(running, 1)
        filler.unlink()
    ours.run(*SWEEP)
    ledger.add(f"the disk full, with {where} on it", WHILE[SWEEP], 3, ours.damage(expected),
               "ends in one line; the same command resumes")  # fmt: skip


def epochs_done(ours):
    newest = (max((int(p.name[6:]) for p in trial.glob("epoch-*")), default=0) for trial in ours.home.glob("trials/*"))
    return sum(newest)


@pytest.mark.parametrize("where", WHERE)
def test_a_disk_that_can_only_be_read_ends_in_a_line_and_later_it_goes_on(workshop, disk, expected, ledger, where):
    ours = placed(workshop, disk, where)
    running = ours.start(*SWEEP)
    wait_for(lambda: epochs_done(ours) >= 2, running, "2 epochs")
    running.send_signal(15)
    running.communicate()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        said = ended_in_a_line(ours.start(*SWEEP), 2)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert len(told(said)) == 1, said
    ours.run(*SWEEP)
    ledger.add(f"the disk read-only, with {where} on it", "the start of a sweep", 1, ours.damage(expected),
               "ends in one line before any work; later the same command works")  # fmt: skip
