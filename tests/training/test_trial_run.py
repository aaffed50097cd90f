"""A study tried out before it is trained: what is wrong with its own parts is found and named."""

import pytest

from helpers.own_study import OWN, PARTS, write_parts, write_study
from reproduce.data import arrays
from reproduce.errors import UserError
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.training import trial_run

HASH = "f" * 64


@pytest.fixture
def study(tmp_path):
    return load_paper(str(write_parts(tmp_path / "parts")))


def test_a_study_whose_parts_are_right_has_no_fault(study):
    assert list(trial_run.find_faults(study)) == []


@pytest.mark.parametrize(
    ("before", "after", "files", "keys", "said"),
    [
        ("hidden: 16", "hiden: 16", {}, "protocol.network",
         "TypeError: Net.__init__() got an unexpected keyword argument 'hiden'"),
        ("momentum: 0.5", "momentum: -1.0", {}, "protocol.optimizer_arguments",
         "ValueError: Invalid momentum value: -1.0"),
        ("mean: image", "mean: [1, 2]", {}, "protocol.preparation",
         "preparation: mean has 2 numbers, and the images (1, 8, 8)"),
        ("factor: 0.5", "factr: 0.5", {}, "schedules.as-stated.cooled",
         "TypeError: cooled() got an unexpected keyword argument 'factr'"),
        ("", "", {"parts": "from torch import nn\n\n\ndef hidden_layer(a, b):\n    return (nn.Linear(a + 1, b),)\n"},
         "protocol.network", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x64 and 65x16)"),
        ("", "", {"network": "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, hidden):\n"
                  "        super().__init__(nn.Flatten(), nn.Linear(64, 9))\n"},
         "protocol.network", "gives 9 classes, and the labels have 10"),
        ("", "", {"network": "from torch import nn\n\n\ndef Net(hidden):\n    return nn.Identity()\n"},
         "protocol.network", "takes (32, 1, 8, 8) to (32, 1, 8, 8), expected (32, classes)"),
        ("", "", {"losses": "def doubled(logits, labels):\n    return logits\n"}, "protocol.loss",
         "losses.py:doubled returned a tensor of shape (32, 10), expected one number, the mean over the batch"),
        ("metric: test_accuracy", "metric: accuracy", {}, "claims.0.measure.kind",
         "measures.py:2: KeyError: 'accuracy'"),
        ("measures.py:mean_of", "measures.py:mean_off", {}, "claims.0.measure.kind",
         "measures.py has no class or function mean_off, did you mean mean_of?"),
        ("", "", {"measures": "def mean_of(epochs, metric):\n    return epochs[metric]\n"}, "claims.0.measure.kind",
         "TypeError: float() argument must be a string or a real number, not 'list'"),
        ("learning_rates: [0.2]", "learning_rates: [0.2, 0.6]",
         {"schedules": "def cooled(now, factor):\n    assert now.learning_rate < 0.5\n    return 0.1\n"},
         "schedules.as-stated.cooled", "schedules.py:2: AssertionError: no reason given"),
        ("sweeps:\n", "  as-run:\n    cooled: {code: schedules.py:cooled, factor: 0.5}\nvariants:\n  as-run:\n"
         "    optimizer_arguments: {momentum: -2.0}\nsweeps:\n", {}, "protocol.optimizer_arguments",
         "ValueError: Invalid momentum value: -2.0"),
        ("", "", {"schedules": "def cooled(now, factor):\n    return now.nothing\n"}, "schedules.as-stated.cooled",
         "schedules.py:2: AttributeError: 'Now' object has no attribute 'nothing'"),
    ],
)  # fmt: skip
def test_a_fault_is_found_before_training(tmp_path, before, after, files, keys, said):
    assert before in PARTS
    folder = write_parts(tmp_path / "bad", PARTS.replace(before, after) if before else PARTS, **files)
    assert [(".".join(map(str, where)), what) for where, what in trial_run.find_faults(load_paper(str(folder)))] == [
        (keys, said)
    ]


def test_what_is_on_demand_and_has_no_code_of_its_own_is_not_tried(tmp_path):
    text = PARTS.replace("train_size: 320", "train_size: 32").replace(
        "factor: 0.5}\n", "factor: 0.5}\n    onecycle: {pct_start: 0.3, div_factor: 25, final_div_factor: 1.0e+4}\n"
    ).replace("learning_rates: [0.1]\n", "learning_rates: [0.1]\n  - {scheduler: onecycle, epochs: 1, on_demand: true, "
              "learning_rates: [0.1]}\n")  # fmt: skip
    study = load_paper(str(write_parts(tmp_path / "short", text)))
    with pytest.raises(UserError, match="which must be more than one step"):
        planning.trials(study, StudyConfig(schedulers=("onecycle",)))
    assert list(trial_run.find_faults(study)) == []


@pytest.mark.parametrize(
    ("protocol", "where", "said"),
    [
        ("loss: losses.py:halved, ", "protocol.loss", "losses.py:2: NameError: name 'halve' is not defined"),
        ("optimizer_arguments: {momentum: -1.0}, ", "protocol.optimizer_arguments", "ValueError: Invalid momentum "
         "value: -1.0"),
    ],
)  # fmt: skip
def test_the_built_in_network_is_tried_with_a_studys_own_parts_too(tmp_path, protocol, where, said):
    folder = write_study(tmp_path / "built in", OWN.replace("optimizer: sgd, ", f"optimizer: sgd, {protocol}"))
    (folder / "losses.py").write_text("def halved(logits, labels):\n    return halve(logits)\n")
    assert [(".".join(keys), what) for keys, what in trial_run.find_faults(load_paper(str(folder)))] == [(where, said)]


def test_data_whose_hash_is_not_the_stated_one_is_told_with_its_hash(tmp_path):
    source = "def load():\n    return ([[0.0] * 64] * 320, [9] * 320), ([[0.0] * 64], [0])\n"
    text = PARTS.replace("dataset: digits", f"dataset: data.py:load\n  data_sha256: {HASH}")
    folder = write_parts(tmp_path / "own", text, data=source)
    study = load_paper(str(folder))
    actual = arrays.sha256(arrays.load_own(study.code, "data.py:load"))
    assert list(trial_run.find_faults(study)) == [
        (("protocol", "data_sha256"), f"data.py:load returns data of SHA-256 {actual}: state that, if this is the data "
         "that is meant")
    ]  # fmt: skip
    (folder / "study.yaml").write_text(text.replace(HASH, actual))
    assert list(trial_run.find_faults(load_paper(str(folder)))) == []
    (folder / "study.yaml").write_text(text.replace(HASH, actual).replace("train_size: 320", "train_size: 321"))
    (fault,) = trial_run.find_faults(load_paper(str(folder)))
    assert fault == (("protocol", "train_size"), "there are 320 images")
