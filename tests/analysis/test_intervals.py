import math

import pytest

from reproduce.analysis import intervals


def test_an_interval_in_worked_numbers():
    # mean 2, standard deviation 1, t for 2 degrees of freedom 4.3027: 4.3027 / √3
    found = intervals.mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.text(2) == "2.00 ± 2.48"


def test_one_value_has_no_interval_and_equal_values_one_of_nothing():
    assert intervals.mean_interval([0.9]) == intervals.MeanInterval(0.9, None)
    assert intervals.mean_interval([0.9]).text() == "0.9000"
    assert intervals.mean_interval([0.5, 0.5, 0.5]).half_width == 0.0


def test_a_value_that_is_not_a_number_is_not_hidden():
    found = intervals.mean_interval([1.0, math.nan])
    assert math.isnan(found.mean)
    assert found.text() == "nan"


def test_rates_are_averaged_by_their_order_of_magnitude():
    middle, low, high = intervals.mean_rate_interval([1e-5, 1e-3])
    assert middle == pytest.approx(1e-4)
    assert middle / low == pytest.approx(high / middle)
    assert intervals.mean_rate_interval([6e-5]) == pytest.approx((6e-5, 6e-5, 6e-5))


def test_an_interval_of_rates_ends_where_rates_do():
    # t of 1 degree of freedom is 12.7: ten times the 76 decades between the two, which no float could hold.
    assert intervals.mean_rate_interval([1e-38, 1e38]) == pytest.approx((1.0, 1e-38, 1e38))
    assert intervals.mean_rate_interval([1e-38]) == pytest.approx((1e-38, 1e-38, 1e-38))
    assert intervals.mean_rate_interval([1e30, 1e38]) == pytest.approx((1e34, 1e-17, 1e38), rel=1.0)
