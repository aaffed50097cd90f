"""A checkpoint's bytes are not trusted: what is damaged, forged or another trial's is passed over."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from helpers.small import kernel, small_config
from reproduce.study import planning
from reproduce.training import checkpoints, loop

FILES = (checkpoints.WEIGHTS, checkpoints.OPTIMIZER, checkpoints.SCHEDULE, checkpoints.HISTORY)


def train(trial, data, directory):
    """All its records, and the final weights by their bytes."""
    history = list(loop.train(trial, data, directory, kernel=kernel()))
    return history, checkpoints.last_weights(directory).read_bytes()


def stop_after(epochs, trial, data, directory):
    running = loop.train(trial, data, directory, kernel=kernel())
    for _ in range(epochs):
        next(running)
    running.close()


def forge(folder, file, content):
    """Put other bytes in a file's place, and their hash in that of the true ones."""
    (folder / file).write_bytes(content)
    known = json.loads((folder / checkpoints.HASHES).read_text())
    known["sha256"][file] = hashlib.sha256(content).hexdigest()
    (folder / checkpoints.HASHES).write_text(json.dumps(known))


@pytest.fixture(scope="module")
def few(whole_mnist):
    """MNIST with a tenth of a second's worth of test images."""
    return dataclasses.replace(whole_mnist, test=whole_mnist.test.part(0, 128))


@pytest.fixture(scope="module")
def stopped(few, tmp_path_factory):
    """A trial of three epochs left after its second, the directory's checkpoints as they then are, its final bits."""
    from reproduce.study.loading import load_paper

    config = small_config(epochs=3, train_size=128, batch_size=64, schedulers=("onecycle",), learning_rates=(6e-3,))
    trial = planning.trials(load_paper(), config)[0]
    folder = tmp_path_factory.mktemp("trial")
    _, expected = train(trial, few, folder / "whole" / "name")
    stop_after(2, trial, few, folder / "stopped" / "name")
    return trial, folder / "stopped" / "name", expected


@pytest.fixture
def resume(stopped, few, tmp_path):
    """Has a copy of the checkpoints spoilt and goes on from it: the epochs restored, and whether the bits are right."""
    trial, whole, expected = stopped
    times = iter(range(10**6))

    def spoilt(harm):
        directory = tmp_path / str(next(times)) / "name"
        shutil.copytree(whole, directory)
        before = {record.finished_at for record in checkpoints.load_history(directory / "epoch-0002" / FILES[-1])}
        harm(directory)
        history, weights = train(trial, few, directory)
        assert [record.epoch for record in history] == [1, 2, 3]
        return len(before & {record.finished_at for record in history}), weights == expected

    return spoilt


def test_an_unspoilt_checkpoint_is_gone_on_from(resume):
    assert resume(lambda directory: None) == (2, True)


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_with_any_bit_flipped_is_passed_over_for_the_one_before(resume, data):
    def flip(directory):
        path = directory / "epoch-0002" / data.draw(st.sampled_from((*FILES, checkpoints.HASHES)))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)

    assert resume(flip) == (1, True)


class Hostile:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def as_pickle(path):
    return pickle.dumps(Hostile(path))


def as_torch_zip(path):
    buffer = io.BytesIO()
    torch.save({"state": Hostile(path), "param_groups": []}, buffer)
    return buffer.getvalue()


def as_torch_tar(path):
    """The oldest of torch.load's formats."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, values in (("storages", (0, [])), ("tensors", (0,)), ("pickle", (Hostile(path),))):
            content = b"".join(map(pickle.dumps, values))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def as_array(path):
    buffer = io.BytesIO()
    np.savez(buffer, epoch=np.array([Hostile(path)], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [as_pickle, as_torch_zip, as_torch_tar, as_array])
@pytest.mark.parametrize("file", FILES)
def test_a_pickle_with_hashes_to_match_is_not_run_but_passed_over(resume, tmp_path, file, form):
    mark = tmp_path / "ran"
    assert resume(lambda directory: forge(directory / "epoch-0002", file, form(mark))) == (1, True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("form", "load"),
    [(as_pickle, torch.load), (as_torch_zip, torch.load), (as_torch_tar, torch.load),
     (as_array, lambda path: np.load(path, allow_pickle=True)["epoch"])],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")
def test_these_pickles_do_run_where_pickles_are_read(tmp_path, form, load):
    """Else the test above would hold of any checkpoints."""
    (tmp_path / "file").write_bytes(form(tmp_path / "ran"))
    with contextlib.suppress(pickle.UnpicklingError, RuntimeError, TypeError):
        load(tmp_path / "file")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "tensor"),
    [("0.exp_avg", torch.zeros(())), ("1.exp_avg_sq", torch.zeros(1)), ("0.step", torch.zeros(2)),
     ("99.exp_avg", torch.zeros(3)), ("x.exp_avg", torch.zeros(3)), ("exp_avg", torch.zeros(3))],
    ids=["smaller", "shorter", "step", "no such parameter", "no number", "no parameter"],
)  # fmt: skip
def test_a_state_that_fits_no_parameter_is_passed_over(resume, key, tensor):
    """PyTorch's fused kernels write through it unseen, beyond its end."""

    def misfit(directory):
        from safetensors import safe_open

        path = directory / "epoch-0002" / checkpoints.OPTIMIZER
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        save_file(load_file(path) | {key: tensor}, path, header)
        forge(path.parent, path.name, path.read_bytes())

    assert resume(misfit) == (1, True)


@pytest.mark.parametrize("kept", ["epoch-0001", "epoch-0002"])
def test_a_checkpoint_under_another_epochs_name_is_passed_over(resume, kept):
    def rename(directory):
        other = directory / "epoch-0007"
        (directory / kept).rename(other)

    assert resume(rename) == (2 if kept == "epoch-0001" else 1, True)


def test_another_trials_checkpoint_is_passed_over(resume, stopped, few, tmp_path):
    other = stopped[0].model_copy(update={"seed": 1})
    stop_after(2, other, few, tmp_path / "other")

    def exchange(directory):
        for epoch in ("epoch-0001", "epoch-0002"):
            shutil.rmtree(directory / epoch)
            shutil.copytree(tmp_path / "other" / epoch, directory / epoch)

    assert resume(exchange) == (0, True)


def test_foreign_names_among_the_checkpoints_are_let_alone(resume, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    foreign = ("epoch-abc", "epoch-", "epoch-7", "epoch-00009", "epoch-٠٠٠٣", "epoch--001")

    def clutter(directory):
        for name in foreign:
            (directory / name).mkdir()
        (directory / "epoch-0008").touch()
        (directory / "epoch-0009").symlink_to(tmp_path / "elsewhere")
        (directory / "epoch-0003").symlink_to(tmp_path / "nowhere")  # where the next is to stand
        (directory / ".epoch-left").symlink_to(tmp_path / "elsewhere")
        clutter.directory = directory

    assert resume(clutter) == (2, True)
    names = {path.name for path in clutter.directory.iterdir()}
    assert names == {*foreign, "epoch-0008", "epoch-0009", "epoch-0002", "epoch-0003"}
    assert (tmp_path / "elsewhere" / "kept").exists()


@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_passed_over(resume, file):
    def pipe(directory):
        (directory / "epoch-0002" / file).unlink()
        os.mkfifo(directory / "epoch-0002" / file)

    assert resume(pipe) == (1, True)


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [("adam", "ramp"), ("adamw", "step"), ("sgd", "onecycle"), ("radam", "exponential"), ("lamb", "multistep"),
     ("lars", "none")],
)  # fmt: skip
def test_every_optimizer_and_schedule_goes_on_to_the_same_bits(paper, few, tmp_path, optimizer, scheduler):
    small = {"optimizer": optimizer, "train_size": 128, "batch_size": 32, "epochs": 3, "range_test_epochs": 3}
    if scheduler == "ramp":
        trial = planning.range_tests(paper, small_config(**small))[0]
    else:
        own = {"decay_steps": 3} if scheduler in ("step", "exponential") else {}
        own |= {"milestones": (3, 5, 9)} if scheduler == "multistep" else {}
        config = small_config(**small, schedulers=(scheduler,), learning_rates=(6e-3,), schedule_parameters=own)
        trial = planning.trials(paper, config)[0]
    _, expected = train(trial, few, tmp_path / "whole")
    stop_after(2, trial, few, tmp_path / "stopped")
    _, found = train(trial, few, tmp_path / "stopped")
    assert found == expected
