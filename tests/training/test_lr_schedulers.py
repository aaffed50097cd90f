import numpy as np
import pytest
import torch

from reproduce.errors import UserError
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.schedules import ExponentialDecay, MultiStepDecay, OneCycle, Ramp, StepDecay
from reproduce.training import lr_schedulers, optimizers

STEPS = np.arange(30 * 469)  # the paper's 14,070


def of_paper(paper, name):
    return planning.trials(paper, StudyConfig(schedulers=(name,), learning_rates=(0.6,)))[0].schedule


def test_no_schedule_keeps_the_rate(paper):
    assert set(lr_schedulers.compute_rates(of_paper(paper, "none"), 6e-5, 100)) == {6e-5}


def test_step_is_its_closed_form_at_every_step(paper):
    expected = 0.6 * 0.1 ** (STEPS // 4500)
    np.testing.assert_allclose(
        lr_schedulers.compute_rates(of_paper(paper, "step"), 0.6, len(STEPS)), expected, rtol=1e-12
    )


def test_multistep_is_its_closed_form_at_every_step(paper):
    expected = 6e-4 * 0.1 ** np.searchsorted([2500, 7500, 10000], STEPS, side="right")
    np.testing.assert_allclose(
        lr_schedulers.compute_rates(of_paper(paper, "multistep"), 6e-4, len(STEPS)), expected, rtol=1e-12
    )


def test_exponential_is_its_closed_form_at_every_step(paper):
    expected = 6e-4 * 0.1 ** (STEPS / 4690)
    np.testing.assert_allclose(
        lr_schedulers.compute_rates(of_paper(paper, "exponential"), 6e-4, len(STEPS)), expected, rtol=1e-9
    )


def test_onecycle_is_its_closed_form_at_every_step(paper):
    peak = 0.3 * len(STEPS) - 1
    rising = 0.6 / 25 + (0.6 - 0.6 / 25) * (1 - np.cos(np.pi * STEPS / peak)) / 2
    low = 0.6 / 25 / 10000
    part = (STEPS - peak) / (len(STEPS) - 1 - peak)
    falling = low + (0.6 - low) * (1 + np.cos(np.pi * part)) / 2
    expected = np.where(peak >= STEPS, rising, falling)
    np.testing.assert_allclose(
        lr_schedulers.compute_rates(of_paper(paper, "onecycle"), 0.6, len(STEPS)), expected, rtol=1e-9, atol=1e-12
    )


def test_the_ramp_reaches_the_papers_rates_at_the_papers_steps():
    rates = lr_schedulers.compute_rates(Ramp(lr_end=1.0), 1e-6, 2345)
    np.testing.assert_allclose(rates, 1e-6 * 10 ** (6 * np.arange(2345) / 2345), rtol=1e-12)
    assert rates[696] < 6.05e-5 < rates[697]
    assert rates[2200] == pytest.approx(0.43, abs=0.005)


def test_a_four_step_ramp_in_worked_numbers():
    np.testing.assert_allclose(
        lr_schedulers.compute_rates(Ramp(lr_end=1e-1), 1e-5, 4), [1e-5, 1e-4, 1e-3, 1e-2], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (StepDecay(decay_steps=2, gamma=0.5), [8, 8, 4, 4, 2]),
        (MultiStepDecay(milestones=(1, 3), gamma=0.5), [8, 4, 4, 2, 2]),
        (ExponentialDecay(decay_steps=1, gamma=0.5), [8, 4, 2, 1, 0.5]),
    ],
)
def test_own_parameters_in_worked_numbers(schedule, expected):
    np.testing.assert_allclose(lr_schedulers.compute_rates(schedule, 8.0, 5), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw", "radam", "sgd", "lamb", "lars"])
def test_onecycle_drives_every_optimizer(name):
    optimizer = optimizers.build(name, [torch.nn.Parameter(torch.ones(3, 3))], 0.5)
    lr_schedulers.build(OneCycle(pct_start=0.3, div_factor=25, final_div_factor=1e4), optimizer, 100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 / 25)


def test_sgd_has_momentum_and_the_others_their_librarys_defaults():
    parameter = [torch.nn.Parameter(torch.ones(2))]
    assert optimizers.build("sgd", parameter, 0.1).defaults["momentum"] == 0.9
    assert optimizers.build("adam", parameter, 0.1).defaults["betas"] == (0.9, 0.999)
    assert {optimizers.build(name, parameter, 0.1).defaults["lr"] for name in ("adamw", "radam", "lamb", "lars")} == {
        0.1
    }


def test_hybridadam_without_a_gpu_is_refused_in_one_line():
    with pytest.raises(UserError, match="optimizer hybridadam needs a CUDA device"):
        optimizers.check_device("hybridadam", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="HybridAdam's kernel needs a CUDA device")
def test_hybridadam_is_built_where_there_is_a_gpu():
    optimizer = optimizers.build("hybridadam", [torch.nn.Parameter(torch.ones(2, device="cuda"))], 0.1)
    assert optimizer.defaults["lr"] == 0.1
