"""Rates and lists as text: no two rates read the same, and nothing is longer than MLflow records."""

import math

import pytest

from helpers.commands import typed
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.fields import format_rate


@pytest.mark.parametrize("rate", [1e-3, math.nextafter(1e-3, 1), 1.0000001e-3, 0.1 + 0.2, 1 / 3, 1e38, 5e-39, 60000.5])
def test_a_rate_is_written_so_that_no_other_reads_the_same(rate):
    assert float(format_rate(rate)) == rate
    near = math.nextafter(rate, math.inf)
    assert format_rate(near) != format_rate(rate)


def test_two_rates_that_agree_in_six_digits_have_labels_of_their_own(paper):
    rates = (1e-3, 1.0000001e-3, 1.00000011e-3)
    labels = [trial.label for trial in planning.trials(paper, StudyConfig(schedulers=("step",), learning_rates=rates))]
    assert labels == ["step 1e-3 seed 0", "step 1.0000001e-3 seed 0", "step 1.00000011e-3 seed 0"]


@pytest.mark.parametrize(
    ("option", "value", "length"),
    [
        ("--learning-rates", ",".join(f"1.2345{n:03}1e-5" for n in range(1000)), 14999),
        ("--milestones", ",".join(str(500_000_000 + n) for n in range(1000)), 9999),
        ("--seeds", "4294966296-4294967295", 10999),
    ],
)
def test_what_mlflow_would_cut_off_is_refused(monkeypatch, capsys, tmp_path, option, value, length):
    monkeypatch.chdir(tmp_path)
    code, printed = typed(monkeypatch, capsys, "sweep", option, value)
    assert code == 2
    assert f"which has {length} characters, but MLflow records at most 6000 of a parameter; expected " in printed
    assert list(tmp_path.iterdir()) == []
