import copy
import hashlib
import random

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.small import kernel, small_config
from reproduce.analysis import lr_range_test
from reproduce.data import datasets
from reproduce.studies.lenet5_mnist.network import LeNet5
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.training import checkpoints, loop, torch_setup


def train(trial, data, directory):
    return list(loop.train(trial, data, directory, kernel=kernel()))


def weights_hash(directory):
    return hashlib.sha256(checkpoints.last_weights(directory).read_bytes()).hexdigest()


def train_elsewhere(trial, home, directory):
    """In another process: the hash of the final weights."""
    train(trial, datasets.open_files("mnist", home), directory)
    return weights_hash(directory)


def test_lenet5_has_the_reports_parameters_and_shapes():
    model = LeNet5()
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_706
    assert model(torch.zeros(3, 1, 32, 32)).shape == (3, 10)


def test_lenet5_learns_32_images_by_heart(whole_mnist):
    torch.manual_seed(0)
    model = LeNet5()
    images = torch.from_numpy(np.array(whole_mnist.train.images[:32])).float() / 255
    labels = torch.from_numpy(whole_mnist.train.labels[:32])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2
    assert (model(images).argmax(1) == labels).all()


def test_the_first_losses_are_those_of_a_plain_pytorch_loop(paper, whole_mnist, tmp_path):
    trial = planning.trials(
        paper, StudyConfig(schedulers=("step",), learning_rates=(6e-4,), epochs=1, train_size=5120)
    )[0]
    (record,) = train(trial, whole_mnist, tmp_path)

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=6e-4)
    order = np.random.default_rng((0, 1)).permutation(5120).reshape(40, 128)
    losses = []
    for batch in order:
        images = torch.from_numpy(whole_mnist.train.images[batch].astype(np.float32) / 255)
        loss = nn.functional.cross_entropy(network(images), torch.from_numpy(whole_mnist.train.labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(record.step_losses, losses, rtol=1e-4)
    assert record.train_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_trial_gives_the_same_bits_again_and_beside_others(small_trial, whole_mnist, mnist_cache, tmp_path):
    train(small_trial, whole_mnist, tmp_path / "here")
    beside = joblib.Parallel(n_jobs=2)(
        joblib.delayed(train_elsewhere)(small_trial, mnist_cache, tmp_path / name) for name in ("one", "two")
    )
    assert beside == [weights_hash(tmp_path / "here")] * 2


def test_another_seed_gives_other_weights_and_another_order(small_trial, whole_mnist, tmp_path):
    first = train(small_trial, whole_mnist, tmp_path / "0")
    other = train(small_trial.model_copy(update={"seed": 1}), whole_mnist, tmp_path / "1")
    assert first[0].step_losses[0] != other[0].step_losses[0]


def test_accuracies_are_those_of_a_tensor_computation(whole_mnist):
    torch.manual_seed(1)
    model = LeNet5()
    images, labels = torch.from_numpy(whole_mnist.test.images), torch.from_numpy(whole_mnist.test.labels)
    # Where two classes are as good as equal, rounding decides, and it is another one on another processor.
    with torch.no_grad():
        first, second = copy.deepcopy(model).double()(images.double() / 255).topk(2).values.T
    clear = (first - second) > 1e-5
    images, labels = images[clear][:9990], labels[clear][:9990]
    accuracy, batch_mean = loop.evaluate(model, images, labels)
    with torch.no_grad():
        hits = model(images.float() / 255).argmax(1) == labels
    by_batch = [part.float().mean().item() for part in hits.split(128)]
    assert len(by_batch) == 79
    assert accuracy == hits.sum().item() / 9990
    assert batch_mean == pytest.approx(np.mean(by_batch), abs=1e-7)
    assert accuracy != batch_mean


def test_records_say_what_was_done(small_trial, whole_mnist, tmp_path):
    first, second = train(small_trial, whole_mnist, tmp_path)
    assert (first.epoch, second.epoch, len(first.step_losses)) == (1, 2, 5)
    assert first.train_loss == pytest.approx(first.step_losses.astype(float).mean(), rel=1e-12)
    assert set(second.step_learning_rates) == {6e-4}
    assert second.learning_rate == 6e-4
    assert 0 <= second.test_accuracy <= 1
    assert not second.diverged


def test_the_rate_falls_after_the_very_step_that_was_asked_for(paper, whole_mnist, tmp_path):
    config = small_config(schedulers=("multistep",), learning_rates=(0.01,), schedule_parameters={"milestones": (3, 7)})
    records = train(planning.trials(paper, config)[0], whole_mnist, tmp_path)
    rates = np.concatenate([record.step_learning_rates for record in records])
    np.testing.assert_allclose(rates, [0.01] * 3 + [0.001] * 4 + [0.0001] * 3, rtol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "radam", "lamb", "lars"])
def test_every_optimizer_trains_through_the_booster(name, paper, whole_mnist, tmp_path):
    rate = {"sgd": 0.05, "lars": 1.0, "lamb": 0.01}.get(name, 2e-3)
    config = StudyConfig(optimizer=name, epochs=2, train_size=2560, schedulers=("none",), learning_rates=(rate,))
    first, second = train(planning.trials(paper, config)[0], whole_mnist, tmp_path)
    assert second.train_loss < first.train_loss < 2.31


def test_a_loss_that_is_not_finite_ends_the_trial_and_keeps_its_curve(paper, whole_mnist, tmp_path):
    config = small_config(optimizer="sgd", epochs=5, schedulers=("none",), learning_rates=(1e38,))
    trial = planning.trials(paper, config)[0]
    (record,) = train(trial, whole_mnist, tmp_path)
    assert record.diverged
    assert np.isfinite(record.step_losses[:-1]).all()
    assert not np.isfinite(record.step_losses[-1])
    assert len(record.step_learning_rates) == len(record.step_losses) < 5
    assert len(train(trial, whole_mnist, tmp_path)) == 1  # taken up again, it does not go on


def test_a_range_test_is_not_evaluated(paper, whole_mnist, tmp_path):
    records = train(planning.range_tests(paper, small_config())[0], whole_mnist, tmp_path)
    assert all(np.isnan(record.test_accuracy) for record in records)
    rates = np.concatenate([record.step_learning_rates for record in records])
    np.testing.assert_allclose(rates, 1e-6 * 10 ** (6 * np.arange(10) / 10), rtol=1e-12)


def validated(paper, **changes):
    """A range test of four steps an epoch, as 128 of its 640 images are held out."""
    return planning.range_tests(paper, small_config(validation_size=128, validation_interval=3, **changes))[0]


def test_held_out_images_are_judged_along_the_ramp_and_not_trained_on(paper, whole_mnist, tmp_path):
    trial = validated(paper)
    first, second = train(trial, whole_mnist, tmp_path / "validated")
    assert [len(record.step_losses) for record in (first, second)] == [4, 4]
    assert np.concatenate([first.validation, second.validation])[:, 0].tolist() == [0, 3, 6]
    # The first 512 images alone give the same curve: looking at the others changes nothing.
    alone = planning.range_tests(paper, small_config(train_size=512))[0]
    for record, other in zip((first, second), train(alone, whole_mnist, tmp_path / "alone"), strict=True):
        np.testing.assert_array_equal(record.step_losses, other.step_losses)
        assert other.validation.shape == (0, 3)


def test_validation_is_that_of_a_tensor_computation_on_the_last_images(paper, whole_mnist, tmp_path):
    trial = validated(paper, range_test_epochs=1)
    (record,) = train(trial, whole_mnist, tmp_path)
    model = LeNet5()
    model.load_state_dict(load_file(checkpoints.last_weights(tmp_path)))
    held_out = whole_mnist.train.part(512, 640)
    with torch.no_grad():
        logits = model(torch.from_numpy(np.array(held_out.images)).float() / 255)
    labels = torch.from_numpy(held_out.labels)
    step, loss, accuracy = record.validation[-1]  # after step 3, the last of the only epoch
    assert (step, accuracy) == (3, (logits.argmax(1) == labels).double().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_a_range_test_stops_where_its_average_loss_exceeds_so_many_times_the_least(paper, whole_mnist, tmp_path):
    config = {"optimizer": "sgd", "lr_start": 1e-3, "lr_end": 1e3, "range_test_epochs": 10}
    whole = train(planning.range_tests(paper, small_config(**config))[0], whole_mnist, tmp_path / "whole")
    losses = np.concatenate([record.step_losses for record in whole]).astype(float)
    smoothed = lr_range_test.smooth(losses, 0.98)
    beyond = int(np.flatnonzero(~(smoothed <= 1.1 * np.minimum.accumulate(smoothed)))[0])

    trial = planning.range_tests(paper, small_config(stop_factor=1.1, **config))[0]
    stopped = train(trial, whole_mnist, tmp_path / "stopped")
    assert [record.diverged for record in stopped] == [False] * (len(stopped) - 1) + [True]
    np.testing.assert_array_equal(np.concatenate([record.step_losses for record in stopped]), losses[: beyond + 1])
    assert 5 < beyond < 50

    running = loop.train(trial, whole_mnist, tmp_path / "resumed", kernel=kernel())
    next(running)
    running.close()  # taken up again, it stops at the same step
    resumed = train(trial, whole_mnist, tmp_path / "resumed")
    assert [len(record.step_losses) for record in resumed] == [len(record.step_losses) for record in stopped]


def test_generators_and_threads_are_the_callers_again_even_after_an_exception(paper, whole_mnist, tmp_path):
    def state():
        return (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
                torch.get_num_threads(), torch.backends.cudnn.deterministic)  # fmt: skip

    torch.set_num_threads(2)
    try:
        before = state()
        train(validated(paper), whole_mnist, tmp_path / "whole")
        assert state() == before
        running = loop.train(validated(paper), whole_mnist, tmp_path / "thrown", kernel=kernel())
        next(running)
        assert torch.get_num_threads() == 1
        with pytest.raises(ZeroDivisionError):
            running.throw(ZeroDivisionError)
        assert state() == before
    finally:
        torch.set_num_threads(1)


@pytest.fixture
def stopped_after_two(paper, whole_mnist, tmp_path):
    """A onecycle trial of four epochs left after its second, and the bits of one that was not."""
    config = small_config(epochs=4, schedulers=("onecycle",), learning_rates=(6e-3,))
    trial = planning.trials(paper, config)[0]
    train(trial, whole_mnist, tmp_path / "whole")
    running = loop.train(trial, whole_mnist, tmp_path / "stopped", kernel=kernel())
    next(running), next(running)
    running.close()
    return trial, tmp_path / "stopped", weights_hash(tmp_path / "whole")


def test_a_stopped_trial_goes_on_to_the_same_bits(stopped_after_two, whole_mnist):
    trial, directory, expected = stopped_after_two
    before = checkpoints.load_history(directory / "epoch-0002" / checkpoints.HISTORY)
    history = train(trial, whole_mnist, directory)
    assert weights_hash(directory) == expected
    assert [record.finished_at for record in history[:2]] == [record.finished_at for record in before]
    assert checkpoints.saved_epochs(directory) == [3, 4]


@pytest.mark.parametrize("file", [checkpoints.WEIGHTS, checkpoints.OPTIMIZER, checkpoints.HISTORY, checkpoints.HASHES])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(stopped_after_two, whole_mnist, file):
    trial, directory, expected = stopped_after_two
    path = directory / "epoch-0002" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (directory / ".epoch-half-written").mkdir()
    history = train(trial, whole_mnist, directory)
    assert [record.epoch for record in history] == [1, 2, 3, 4]
    assert weights_hash(directory) == expected
    assert not list(directory.glob(".epoch-*"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_trial_runs_on_a_gpu(small_trial, whole_mnist, tmp_path):
    assert torch_setup.launch().type == "cuda"
    records = train(small_trial, whole_mnist, tmp_path)
    assert all(np.isfinite(record.train_loss) for record in records)
