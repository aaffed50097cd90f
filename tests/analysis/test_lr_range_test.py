import numpy as np
import pytest

from helpers import ROOT
from reproduce.analysis import lr_range_test
from reproduce.results.archive import Archive
from reproduce.training.epoch_record import EpochRecord


def record(rates, losses):
    curve = np.array(losses, np.float32), np.array(rates, np.float64)
    return EpochRecord(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, *curve, diverged=False, validation=np.empty((0, 3)))


def test_smoothing_in_worked_numbers():
    # averages 2, 0.5·2 + 0.5·4 = 3, ... of the biased 1, 2.5, 2.25 over 0.5, 0.75, 0.875
    np.testing.assert_allclose(lr_range_test.smooth(np.array([2.0, 4.0, 2.0]), 0.5), [2, 10 / 3, 18 / 7], rtol=1e-12)


def test_smoothing_keeps_a_constant_from_the_first_step_and_factor_zero_keeps_all():
    np.testing.assert_allclose(lr_range_test.smooth(np.full(50, 2.3), 0.98), 2.3, rtol=1e-12)
    losses = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(lr_range_test.smooth(losses, 0.0), losses)


def test_the_proposal_is_where_the_loss_falls_most_steeply_against_log_rate():
    rates = np.logspace(-6, 0, 601)
    losses = 2.3 / (1 + (rates / 1e-3) ** 2)  # steepest against log rate at 1e-3 exactly
    assert lr_range_test.steepest(rates, losses) == lr_range_test.Proposal(pytest.approx(1e-3), 300)


def test_a_steeper_fall_after_the_minimum_is_not_proposed():
    rates = np.logspace(-4, 0, 5)
    assert lr_range_test.steepest(rates, np.array([2.0, 1.0, 0.5, 9.0, 0.6])).step == 0


def test_a_loss_that_never_falls_proposes_nothing():
    assert not lr_range_test.steepest(np.logspace(-3, 0, 4), np.array([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_curve_ends_before_the_first_loss_that_is_not_finite(bad):
    found = lr_range_test.curve([record([1, 2], [5, 4]), record([3, 4, 5], [3, bad, 2])])
    assert (found.learning_rates.tolist(), found.losses.tolist()) == ([1, 2, 3], [5, 4, 3])


NOTHING = "no fall beyond rounding and noise"
REMEDY = ": raise --lr-end or --epochs"
RISES = "the loss rises and has not fallen before: lower --lr-start or raise --epochs"
NOISE = np.random.default_rng(1).normal(0, 0.02, 400)


def proposed(losses, smoothing=0.98):
    losses = np.array(losses, np.float64)
    rates = np.logspace(-6, 0, len(losses)) if len(losses) > 1 else np.array([1e-6])
    return lr_range_test.propose(lr_range_test.until_not_finite(rates, losses), smoothing)


@pytest.mark.parametrize(
    ("losses", "smoothing", "reason"),
    [
        ([np.nan, 2, 1], 0.98, "diverged at step 1: lower --lr-start"),
        ([], 0.98, "diverged at step 1: lower --lr-start"),
        ([2.3, np.inf, 1], 0.98, "diverged at step 1: lower --lr-start"),
        ([2.3], 0.98, "steepest by log rate needs 2 points, the curve has 1: train more steps"),
        (
            [2.3, 1e31, 2e35, np.inf],
            0.98,
            "diverged at step 3 with no fall beyond rounding and noise before: lower --lr-start",
        ),
        ([2.0, 1.0], 0.98, f"{NOTHING} (1.0 standard errors, over 6.3 needed){REMEDY}"),
        (np.full(50, 2.3), 0.98, NOTHING + REMEDY),
        (np.repeat(np.float32([2.3000002, 2.3]), 25), 0.98, NOTHING + REMEDY),  # one digit of float32
        (2.3 + NOISE, 0.98, f"{NOTHING} (2.3 standard errors, over 5.0 needed){REMEDY}"),
        ([2.3, 2.31, 2.29, 2.2, 2, 1.5, 1.6], 0.999, f"{NOTHING} (5.0 standard errors, over 5.4 needed){REMEDY}"),
        (np.linspace(2, 9, 100), 0.98, RISES),
        (np.append(np.full(200, 2.3), 1.3 + np.exp(np.linspace(0, 6, 50))), 0.98, RISES),
        (np.linspace(2.3, 0.1, 100), 0.98, "the loss still falls at the ramp's end, 1: raise --lr-end"),
    ],
    ids=[
        "nan",
        "empty",
        "inf",
        "one",
        "explodes",
        "two",
        "constant",
        "float32",
        "noise",
        "few",
        "rising",
        "plateau",
        "end",
    ],
)
def test_where_there_is_nothing_to_say_the_reason_is_said(losses, smoothing, reason):
    assert proposed(losses, smoothing) == lr_range_test.NoProposal(reason)
    assert str(proposed(losses, smoothing)) == f"none: {reason}"


DESCENT = 2.3 / (1 + np.logspace(-3, 3, 400) ** 2) + NOISE
EXPLOSION = np.linspace(0, 8, 60) ** 2


@pytest.mark.parametrize(
    ("losses", "step", "weak"),
    [
        (np.append(DESCENT, EXPLOSION), 225, ""),
        (np.append(2.5, np.append(DESCENT, EXPLOSION)), 0, "this is the first rate: lower --lr-start"),
        (np.insert(np.append(DESCENT, EXPLOSION), 4, 2.0), 3, "the loss has not fallen beyond its noise there"),
        (np.where(np.arange(100) == 50, 1.0, 2.3), 50, "the fall to there rests on one batch"),
        (np.append(np.linspace(2.3, 0.1, 100), np.inf), 99, "the loss falls up to step 100, where it diverged"),
    ],
    ids=["sound", "first", "lucky", "spike", "diverged"],
)
def test_a_weak_proposal_says_why(losses, step, weak):
    found = proposed(losses)
    assert (found.step, found.weak) == (step, weak)
    assert str(found).endswith(f", weak: {weak}" if weak else found.short)
    assert found.short.endswith(" (weak)") == bool(weak)


def test_every_proposal_of_the_archive_is_where_it_was_and_only_lars_has_none():
    archive = Archive(ROOT / "report" / "reference" / "runs.json")
    found = {}
    for run in archive.finished_runs().values():
        if run.ramp is not None:
            curve = lr_range_test.until_not_finite(*archive.curve(run.run_id))
            proposal = lr_range_test.propose(curve, archive.smoothing)
            raw = lr_range_test.steepest(curve.learning_rates, lr_range_test.smooth(curve.losses, archive.smoothing))
            found[run.parameters["optimizer"], run.parameters["seed"]] = proposal
            assert not proposal or proposal == raw
    assert {optimizer for (optimizer, _), proposal in found.items() if not proposal} == {"lars"}
    assert [found["adam", seed].step for seed in range(3)] == [744, 758, 720]
    assert [found["lars", seed].reason for seed in range(3)] == [
        f"the loss still falls at the ramp's end, {rate}: raise --lr-end" for rate in ("0.994", "0.994", "0.994")
    ]
