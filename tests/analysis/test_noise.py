import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.analysis import noise
from reproduce.analysis.lr_range_test import Curve, NoProposal, read, smooth
from reproduce.analysis.suggestion_rules import RULES, read_all


def test_the_variance_that_averaging_leaves_in_worked_numbers():
    # One loss: all of it. Two at b = 0.5 weigh 1/3 and 2/3: 1/9 + 4/9. Three weigh 1/7, 2/7, 4/7: 21/49. At last 1/3.
    found = noise.variance_left(0.5, np.array([1, 2, 3, 1000]))
    np.testing.assert_allclose(found, [1, 5 / 9, 21 / 49, 1 / 3], rtol=1e-12)
    np.testing.assert_array_equal(noise.variance_left(0.0, np.array([1, 2])), [1, 1])


def test_a_fall_in_standard_errors_in_worked_numbers():
    # Unsmoothed 7 to 1: successive differences of 1, so a variance of 1/2, and of a difference of two losses 1.
    losses = np.arange(7.0, 0, -1)
    found = noise.fall(losses, losses, 0.0, 6)
    assert found.errors == pytest.approx(6)
    # 21 pairs of 7 points, 2 · 36 / 17 = 4.24 degrees of freedom: the t quantile of 1 - 0.05 / 21.
    assert found.needed == pytest.approx(5.42, abs=0.01)
    assert found.is_real
    # From 4 to 2 smoothed by 0.5: to 8/3, by 4/3. The variance is 2, and that of the fall
    # is the share 2/3 squared times 1 + 1, times 2.
    found = noise.fall(np.array([4.0, 2.0]), smooth(np.array([4.0, 2.0]), 0.5), 0.5, 1)
    assert found.errors == pytest.approx((4 / 3) / np.sqrt(4 / 9 * 2 * 2))
    assert not found.is_real


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 0.98])
def test_level_losses_show_a_fall_in_one_curve_of_twenty_at_most(factor):
    random = np.random.default_rng(7)
    curves = [Curve(np.logspace(-6, 0, 100), random.normal(2.3, 0.1, 100)) for _ in range(200)]
    assert sum(bool(read(RULES["minimum / 10"], curve, factor)) for curve in curves) <= 10


@given(
    value=st.floats(1e-30, 1e30),
    length=st.integers(1, 300),
    factor=st.floats(0, 1, exclude_max=True),
)
def test_a_constant_curve_never_gets_a_proposal_from_any_rule(value, length, factor):
    curve = Curve(np.logspace(-6, 0, length), np.full(length, value))
    assert all(isinstance(found, NoProposal) for found in read_all(curve, factor).values())


@given(
    losses=st.lists(st.floats(0.125, 4, width=32), min_size=1, max_size=60),
    exponent=st.integers(-20, 20),
    factor=st.sampled_from([0.0, 0.5, 0.98]),
)
def test_losses_in_another_unit_give_the_same_answer(losses, exponent, factor):
    curve, rates = np.array(losses), np.logspace(-6, 0, len(losses))
    mine, theirs = (read_all(Curve(rates, curve * unit), factor) for unit in (1.0, 2.0**exponent))
    for name in set(RULES) - {"slide"}:  # its threshold has the losses' unit
        assert mine[name] == theirs[name]
