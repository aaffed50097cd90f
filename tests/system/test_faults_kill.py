"""Stop the running program at any moment, in every way there is, and go on: `make test-faults`."""

import random
import shutil
import time

import pytest

from helpers import CACHE, ROOT
from helpers.faults import RANKS, STOPS, SWEEP, WHILE, Damage, begun

pytestmark = pytest.mark.faults
STOPS_EACH = 2


def stop_often(make, command, how, seconds, check):
    """Stop the command at random moments until STOPS_EACH have struck, each time from the start once it has ended.

    After the last stop, and whenever the command gets to its end, `check` looks at what there is.
    """
    moments = random.Random(" ".join(command) + how)
    trace = f'File "{ROOT}/reproduce' if command is RANKS else "Traceback"  # torchrun ends in one of its own
    struck, damage, round_ = 0, Damage(), 0
    while struck < STOPS_EACH:
        ours = make(f"round-{round_}")
        round_ += 1
        ended = False
        while not ended and struck < STOPS_EACH:
            running = ours.start(*command)
            time.sleep(moments.uniform(0, seconds))
            ended = running.poll() is not None
            said = running.communicate()[0] if ended else ours.stop(running, how)
            assert trace not in said, said
            struck += not ended
        if not ended:
            ours.run(*command)
        damage += check(ours)
    return struck, damage


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("command", WHILE, ids=WHILE.values())
def test_training_goes_on_to_the_same_bits(workshop, uninterrupted, ledger, command, how):
    expected, seconds = uninterrupted(command)
    struck, damage = stop_often(workshop, command, how, seconds, lambda ours: ours.damage(expected))
    ledger.add(how, WHILE[command], struck, damage, "the same command resumes in the same runs")


@pytest.mark.parametrize("how", STOPS)
def test_the_report_is_whole_or_not_there(workshop, ledger, how):
    small = ("--epochs", "1", "--train-size", "640")
    ours = workshop()
    ours.run("main", *small, "--device", "cpu", "--output", "report")
    expected = contents(ours.directory / "report")
    started = time.monotonic()
    ours.run("report", *small, "--output", "another")
    seconds = time.monotonic() - started
    shutil.rmtree(ours.directory / "another")
    struck, damage = 0, Damage()
    for _ in range(STOPS_EACH):
        running = ours.start("report", *small, "--output", "report")
        time.sleep(random.Random(how + str(struck)).uniform(seconds / 2, seconds))
        if running.poll() is None:
            struck += 1
        ours.stop(running, how)
        now = contents(ours.directory / "report")
        if "index.html" in now:  # then all of it is there
            damage += Damage(bits_changed=sum(now.get(name) != content for name, content in expected.items()))
    ours.run("report", *small, "--output", "report")
    now = contents(ours.directory / "report")
    damage += Damage(bits_changed=sum(now.get(name) != content for name, content in expected.items()))
    damage += Damage(half_written=len(now.keys() - expected.keys()) + len(list(ours.directory.glob(".report*"))))
    damage += Damage(left_running=sum(run.info.status == "RUNNING" for run in ours._runs()))
    ledger.add(how, "a report", struck, damage, "the earlier report stays, or the same command writes the new one")


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


@pytest.mark.parametrize("how", STOPS)
def test_the_data_are_whole_or_made_again(workshop, ledger, how):
    source = CACHE / "data" / "mnist"
    expected = {path.name: path.read_bytes() for path in source.iterdir() if path.suffix != ".lock"}
    expected = {name: content for name, content in expected.items() if name != "lock"}
    command = ("data", "--data-dir", str(source))

    def empty(name):
        ours = workshop(name)
        shutil.rmtree(ours.home)
        return ours

    def check(ours):
        cache = ours.home / "data" / "mnist"
        changed = sum((cache / name).read_bytes() != content for name, content in expected.items())
        return Damage(bits_changed=changed, half_written=len(begun(ours.home)))

    ours = empty("uninterrupted")
    started = time.monotonic()
    ours.run(*command)
    seconds = time.monotonic() - started
    assert check(ours) == Damage()
    struck, damage = stop_often(empty, command, how, seconds, check)
    ledger.add(how, "the preparation of the data", struck, damage, "the same command makes what is missing")


def test_two_commands_at_once_share_the_work(workshop, uninterrupted, ledger):
    expected, seconds = uninterrupted(SWEEP)
    moments, damage, trained = random.Random(0), Damage(), []
    for round_ in range(3):
        ours = workshop(f"round-{round_}")
        both = [ours.start(*SWEEP)]
        time.sleep(moments.uniform(0, seconds / 2))
        both.append(ours.start(*SWEEP))
        said = [running.communicate()[0] for running in both]
        assert [running.returncode for running in both] == [0, 0], said
        trained.append(sum(text.count(": trained, ") for text in said))
        damage += ours.damage(expected)
    assert trained == [4, 4, 4]
    ledger.add(
        "a second command started beside it", WHILE[SWEEP], 3, damage, "each trial is trained once, by one of the two"
    )


def test_two_directories_on_one_store_leave_each_others_trials_alone(workshop, uninterrupted, ledger):
    expected, seconds = uninterrupted(SWEEP)
    first = workshop("first")
    second = workshop("second", first.uri)
    both = [first.start(*SWEEP)]
    time.sleep(seconds / 2)
    both.append(second.start(*SWEEP))
    said = [running.communicate()[0] for running in both]
    assert [running.returncode for running in both] == [0, 0], said
    assert sum(text.count(": trained, ") for text in said) == 4, said
    damage = first.damage(expected) + Damage(half_written=len(begun(second.home)))
    ledger.add("one started in another directory on the same store", WHILE[SWEEP], 1, damage,
               "each trial is trained once, by one of the two")  # fmt: skip
