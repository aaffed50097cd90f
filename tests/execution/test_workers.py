"""What becomes of trials whose worker dies. Real workers, killed as the kernel kills them."""

import os
import signal
import time
from contextlib import suppress

import psutil
import pytest

from helpers.faults import SWEEP
from helpers.small import run, small_config, task_for
from reproduce.execution.worker import is_under_way
from reproduce.report import trial_artifacts
from reproduce.study import planning


def dying(marks, name, times):
    """What is left behind, but the worker that comes to that trial dies, so many times."""

    def write_artifacts(trial, history, folder):
        mark = marks / str(sum(1 for _ in marks.iterdir()))
        if trial.label == name and len(list(marks.iterdir())) < times:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return trial_artifacts.write_artifacts(trial, history, folder, smoothing=0.9)

    return write_artifacts


def three(paper):
    return planning.trials(paper, small_config(schedulers=("step",), learning_rates=(6e-3, 6e-4, 6e-5)))


@pytest.mark.system
def test_a_trial_whose_worker_died_goes_on_in_a_new_one(store, paper, tmp_path, capfd):
    marks = tmp_path / "marks"
    marks.mkdir()
    _, done = run(store, three(paper), draw_artifacts=dying(marks, "step 6e-4 seed 0", times=1))
    assert len(list(marks.iterdir())) == 1
    assert {item.state for item in done} <= {"trained", "resumed"}
    assert done[1].state == "resumed"
    assert "a worker died, perhaps because memory ran out; in training: " in capfd.readouterr().err


@pytest.mark.system
def test_one_whose_worker_dies_again_is_given_up_by_name_and_the_others_finish(store, paper, tmp_path, capfd):
    marks = tmp_path / "marks"
    marks.mkdir()
    _, done = run(store, three(paper), draw_artifacts=dying(marks, "step 6e-4 seed 0", times=99))
    assert len(list(marks.iterdir())) == 2
    assert [(item.state == "failed", item.note == "its worker died twice") for item in done] == [
        (False, False), (True, True), (False, False),
    ]  # fmt: skip
    assert "step 6e-4 seed 0: failed, its worker died twice" in capfd.readouterr().err
    statuses = [store.mlflow.get_run(item.run_id).info.status for item in done if item.state != "failed"]
    assert statuses == ["FINISHED", "FINISHED"]


def test_a_mark_that_another_command_left_when_it_was_killed_is_no_sign_of_work(store, paper):
    task = task_for(store, three(paper)[0])
    task.directory.mkdir(parents=True)
    (task.directory / "under-way").write_text("another parent")
    assert not is_under_way(task)
    (task.directory / "under-way").write_text("parent")
    assert is_under_way(task)


@pytest.mark.system
def test_no_process_of_a_command_starts_compilers(workshop):
    ours, seen = workshop(), set()
    # A command that a test ran in this process may have set it.
    ours.environment.pop("TORCHINDUCTOR_COMPILE_THREADS", None)
    running = ours.start(*SWEEP)
    while running.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(running.pid).children(recursive=True):
                seen.add(" ".join(child.cmdline()))
        time.sleep(0.05)
    said = running.stdout.read()
    assert running.returncode == 0, said
    assert any("loky" in words for words in seen)
    assert not any("compile" in words for words in seen), seen
