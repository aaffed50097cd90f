"""What a study may bring of its own: network, preparation, loss, optimizer's arguments and schedules, in training."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from helpers.own_study import write_parts
from reproduce.data import arrays, study_data
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.fields import Code, Preparation
from reproduce.study.loading import load_paper
from reproduce.study.own_code import OwnCode, OwnCodeError
from reproduce.study.schedules import OwnSchedule
from reproduce.training import checkpoints, loop, losses, lr_schedulers, optimizers, prepared, torch_setup

HASH = "f" * 64


def code_of(tmp_path, file, source):
    (tmp_path / file).write_text(source)
    return OwnCode.read(tmp_path, [f"{file}:f"])


@pytest.fixture
def study(tmp_path):
    return load_paper(str(write_parts(tmp_path / "parts")))


@pytest.fixture
def data(tmp_path, trial):
    arrays.prepare("digits", None, tmp_path, OwnCode(), lambda line: None)
    return study_data.open_for(trial, tmp_path)


@pytest.fixture
def trial(study):
    return planning.trials(study, StudyConfig(seeds=(3,)))[0]


def test_training_is_a_plain_pytorch_loop_with_the_studys_parts(study, trial, data, tmp_path):
    """Without dropout, which only the next test has a way to follow."""
    plain = load_paper(
        str(write_parts(tmp_path / "plain", parts="from torch import nn\n\n\ndef hidden_layer(a, b):\n"
                        "    return nn.Linear(a, b), nn.ReLU()\n"))
    )  # fmt: skip
    trial = planning.trials(plain, StudyConfig(seeds=(3,)))[0]
    records = list(loop.train(trial, data, tmp_path / "checkpoints", code=plain.code))

    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.5, weight_decay=0.01)
    images = torch.from_numpy(data.train.images[:320].astype(np.float32))
    mean, labels = images.mean(0), torch.from_numpy(data.train.labels[:320])
    expected = []
    for epoch in (1, 2, 3):
        for number, batch in enumerate(np.random.default_rng((3, epoch)).permutation(320).reshape(10, 32)):
            group = optimizer.param_groups[0]
            group["lr"], group["momentum"] = 0.2 * 0.5 ** (epoch - 1), 0.9 if number or epoch > 1 else 0.8
            loss = 2 * nn.functional.cross_entropy(network((images[batch] - mean) / 16), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    np.testing.assert_allclose(np.concatenate([record.step_losses for record in records]), expected, rtol=1e-4)
    assert [record.learning_rate for record in records] == pytest.approx([0.2, 0.1, 0.05])
    tested = torch.from_numpy(data.test.images.astype(np.float32))
    right = (network((tested - mean) / 16).argmax(1).numpy() == data.test.labels).mean()
    assert records[-1].test_accuracy == pytest.approx(right)


def test_a_stopped_trial_goes_on_to_the_same_bits_also_with_dropout(study, trial, data, tmp_path):
    def weights(directory):
        return hashlib.sha256(checkpoints.last_weights(directory).read_bytes()).hexdigest()

    whole = list(loop.train(trial, data, tmp_path / "whole", code=study.code))
    stopped = loop.train(trial, data, tmp_path / "stopped", code=study.code)
    next(stopped)
    stopped.close()
    torch.rand(7)  # another process has other random numbers behind it
    again = list(loop.train(trial, data, tmp_path / "stopped", code=study.code))
    assert [record.train_loss for record in again] == [record.train_loss for record in whole]
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_dropout_differs_from_epoch_to_epoch_and_from_rank_to_rank():
    def drawn(*numbers):
        with torch_setup.kept_generators():
            torch_setup.seed(*numbers)
            return torch.rand(3).tolist()

    assert drawn(0, 1, 0) == drawn(0, 1, 0)
    different = [drawn(*numbers) for numbers in ((0, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 0))]
    assert len({tuple(values) for values in different}) == 4


@pytest.mark.parametrize(
    ("preparation", "expected"),
    [
        (None, [[0.0, 1.0], [51 / 255, 0.2]]),
        (Preparation(scale=2, mean=5), [[-2.5, 125], [23, 23]]),
        (Preparation(mean=(0.0, 255.0)), [[0, 0], [0.2, -0.8]]),
        # The mean image is (25.5, 153).
        (Preparation(mean="image", scale=0.5), [[-51, 204], [51, -204]]),
    ],
)
def test_preparation_in_worked_numbers(tmp_path, preparation, expected):
    code = code_of(tmp_path, "network.py", "from torch import nn\n\n\ndef f():\n    return nn.Flatten()\n")
    images = np.array([[0, 255], [51, 51]], np.uint8).reshape(2, 2, 1, 1)
    network = prepared.build(Code(code="network.py:f", sha256=HASH), preparation, code, images)
    assert network(torch.from_numpy(images)).tolist() == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f():\n    return 3\n", "network.py:f makes a int, expected a torch.nn.Module"),
        ("def f():\n    return f(1)\n", "takes 0 positional arguments but 1 was given"),
        (
            "from torch import nn\n\n\ndef f():\n    one = nn.Linear(2, 2)\n    return nn.Sequential(one, one)\n",
            "network.py:f has one weight as 0.weight and as 1.weight, expected each weight once",
        ),
    ],
)
def test_what_is_no_network_is_refused(tmp_path, source, said):
    code = code_of(tmp_path, "network.py", source)
    with pytest.raises((OwnCodeError, TypeError), match=said):
        prepared.build(Code(code="network.py:f", sha256=HASH), None, code, np.zeros((1, 2), np.float32))


def test_a_layer_that_takes_its_width_from_the_first_image_has_its_weights_when_it_is_built(tmp_path):
    code = code_of(tmp_path, "network.py", "from torch import nn\n\n\ndef f():\n    return nn.LazyLinear(3)\n")
    made = prepared.build(Code(code="network.py:f", sha256=HASH), None, code, np.zeros((2, 5), np.float32))
    assert [tuple(weights.shape) for weights in made.parameters()] == [(3, 5), (3,)]
    assert made.training


def test_losses_in_worked_numbers(tmp_path):
    logits, labels = torch.tensor([[1.0, 3.0]]), torch.tensor([1])
    assert losses.build("cross_entropy", OwnCode())(logits, labels).item() == pytest.approx(np.log(1 + np.exp(-2)))
    assert losses.build("mse", OwnCode())(logits, labels).item() == pytest.approx((1 + 4) / 2)
    code = code_of(tmp_path, "losses.py", "def f(logits, labels, factor):\n    return factor * logits.sum()\n")
    own = losses.build(Code(code="losses.py:f", arguments={"factor": 2}, sha256=HASH), code)
    assert own(logits, labels).item() == 8


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(logits, labels):\n    return logits[:, 0]\n", r"losses.py:f returned a tensor of shape \(2,\)"),
        ("def f(logits, labels):\n    return 1.0\n", "losses.py:f returned 1.0, expected one number"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(tmp_path, source, said):
    own = losses.build(Code(code="losses.py:f", sha256=HASH), code_of(tmp_path, "losses.py", source))
    with pytest.raises(OwnCodeError, match=said):
        own(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("sgd", (("momentum", 0.5), ("weight_decay", 0.25)), {"momentum": 0.5, "weight_decay": 0.25}),
        ("sgd", (("weight_decay", 0.25),), {"momentum": 0.9, "weight_decay": 0.25}),
        ("adam", (("betas", (0.8, 0.9)),), {"betas": (0.8, 0.9), "eps": 1e-8}),
        ("radam", (("weight_decay", 0.5),), {"weight_decay": 0.5}),
        ("lars", (("epsilon", 0.5),), {"epsilon": 0.5, "momentum": 0}),
    ],
)
def test_an_optimizer_has_the_studys_arguments_and_else_its_own(name, arguments, expected):
    optimizer = optimizers.build(name, [nn.Parameter(torch.zeros(2))], 0.1, arguments)
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in expected} == expected
    assert group["lr"] == 0.1


def schedule(tmp_path, source, **arguments):
    code = code_of(tmp_path, "schedules.py", source)
    return OwnSchedule(name="own", code="schedules.py:f", arguments=arguments, sha256=HASH), code


def test_an_own_schedule_in_worked_numbers(tmp_path):
    found, code = schedule(
        tmp_path, "def f(now, power):\n    return now.learning_rate * (1 + now.epoch / now.total_epochs) ** -power\n",
        power=1,
    )  # fmt: skip
    rates = lr_schedulers.compute_rates(found, 0.6, 4, 2, code)
    assert rates.tolist() == pytest.approx([0.6, 0.6 / 1.25, 0.6 / 1.5, 0.6 / 1.75])


@pytest.mark.parametrize(("name", "momentum"), [("sgd", "momentum"), ("adam", "betas")])
def test_an_own_schedule_sets_the_momentum_too(tmp_path, name, momentum):
    found, code = schedule(tmp_path, "def f(now):\n    return 0.1, 0.5 + now.step / 10\n")
    optimizer = optimizers.build(name, [nn.Parameter(torch.zeros(2))], 0.1)
    scheduler = lr_schedulers.build(found, optimizer, 3, 1, code)
    seen = []
    for _ in range(3):
        seen.append(optimizer.param_groups[0][momentum])
        optimizer.step()
        scheduler.step()
    assert seen == ([0.5, 0.6, 0.7] if name == "sgd" else [(0.5, 0.999), (0.6, 0.999), (0.7, 0.999)])


def test_the_state_of_an_own_schedule_goes_to_other_ranks_without_its_function(tmp_path):
    found, code = schedule(tmp_path, "def f(now):\n    return now.learning_rate / (1 + now.step)\n")

    def begun():
        optimizer = optimizers.build("sgd", [nn.Parameter(torch.zeros(2))], 0.6)
        return optimizer, lr_schedulers.build(found, optimizer, 9, 1, code)

    (optimizer, ahead), (_, other) = begun(), begun()
    optimizer.step()
    ahead.step()
    other.load_state_dict(pickle.loads(pickle.dumps(ahead.state_dict())))
    assert (other.last_epoch, other.get_lr()) == (1, [0.3])


def test_numbers_of_numpy_are_numbers_of_a_schedule(tmp_path):
    found, code = schedule(
        tmp_path, "import numpy as np\n\n\ndef f(now):\n    return np.float32(0.5), np.float64(0.25)\n"
    )
    optimizer = optimizers.build("sgd", [nn.Parameter(torch.zeros(2))], 0.1)
    lr_schedulers.build(found, optimizer, 3, 1, code)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.5, 0.25)
    assert {type(group["lr"]), type(group["momentum"])} == {float}


@pytest.mark.parametrize(
    "returned",
    ["None", "float('nan')", "-1", "'0.1'", "True", "float('inf')", "(0.1, 1.0)", "(0.1, '0.9')", "(0.1, None)", "()",
     "(0.1, 0.9, 0.9)"],
)  # fmt: skip
def test_a_schedule_that_gives_no_rate_is_refused_with_its_step(tmp_path, returned):
    found, code = schedule(tmp_path, f"def f(now):\n    return {returned} if now.step == 2 else 0.1\n")
    with pytest.raises(OwnCodeError, match=r"the schedule returned .* for step 2, expected a rate of at least 0"):
        lr_schedulers.compute_rates(found, 0.1, 4, 1, code)
