import numpy as np
import pytest

from reproduce import range_test
from reproduce.checkpoints import EpochRecord


def record(rates, losses):
    curve = np.array(losses, np.float32), np.array(rates, np.float64)
    return EpochRecord(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, *curve, diverged=False, validation=np.empty((0, 3)))


def test_smoothing_in_worked_numbers():
    # averages 2, 0.5·2 + 0.5·4 = 3, ... of the biased 1, 2.5, 2.25 over 0.5, 0.75, 0.875
    np.testing.assert_allclose(range_test.smooth(np.array([2.0, 4.0, 2.0]), 0.5), [2, 10 / 3, 18 / 7], rtol=1e-12)


def test_smoothing_keeps_a_constant_from_the_first_step_and_factor_zero_keeps_all():
    np.testing.assert_allclose(range_test.smooth(np.full(50, 2.3), 0.98), 2.3, rtol=1e-12)
    losses = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(range_test.smooth(losses, 0.0), losses)


def test_the_proposal_is_where_the_loss_falls_most_steeply_against_log_rate():
    rates = np.logspace(-6, 0, 601)
    losses = 2.3 / (1 + (rates / 1e-3) ** 2)  # steepest against log rate at 1e-3 exactly
    assert range_test.steepest(rates, losses) == range_test.Proposal(pytest.approx(1e-3), 300)


def test_a_steeper_fall_after_the_minimum_is_not_proposed():
    rates = np.logspace(-4, 0, 5)
    assert range_test.steepest(rates, np.array([2.0, 1.0, 0.5, 9.0, 0.6])).step == 0


def test_a_loss_that_never_falls_proposes_nothing():
    assert not range_test.steepest(np.logspace(-3, 0, 4), np.array([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_curve_ends_before_the_first_loss_that_is_not_finite(bad):
    found = range_test.curve([record([1, 2], [5, 4]), record([3, 4, 5], [3, bad, 2])])
    assert (found.learning_rates.tolist(), found.losses.tolist()) == ([1, 2, 3], [5, 4, 3])
