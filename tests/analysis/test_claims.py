"""Verdicts in worked numbers, and a test at each kind of bound."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from reproduce.analysis import claims, regret
from reproduce.analysis.lr_range_test import Curve
from reproduce.study import planning
from reproduce.study.claim import Claim, Measure, Model

T2 = 4.302652729911275  # Student's t, 2 degrees of freedom, 97.5%


STEP = Measure(kind="onset_step")
ACCURACY = Measure(kind="final_accuracy", of=Model(scheduler="step", learning_rate=6e-4))


def claim(low, high, reading=0.0, measure=STEP):
    return Claim(
        id="C",
        says="it does",
        where="page 1",
        measure=measure,
        expected=(low, high),
        reading=reading,
        reason="it says so",
    )


def seeds(*values):
    return dict(enumerate(values))


SPREAD = (1.0, 2.0, 3.0)  # deviation 1
PREDICTION = T2 * math.sqrt(1 + 1 / 3)  # what one more run may differ by
HALF = T2 / math.sqrt(3)  # half the interval of the mean of three


def test_the_tolerance_is_the_reading_error_and_a_prediction_interval():
    assert claims.tolerance(claim(0, 0, reading=0.5), SPREAD) == pytest.approx(0.5 + PREDICTION)
    assert claims.tolerance(claim(0, 0, reading=0.5), [7.0, 7.0, 7.0]) == 0.5
    assert claims.tolerance(claim(0, 0, reading=0.5), []) == 0.5


def test_a_mean_is_judged_by_its_interval_and_the_bound_itself_is_inside():
    found = claims.judge(claim(2, 2, reading=1), seeds(2.0, 2.0, 2.0), [])
    assert (found.verdict, found.interval, found.allowed) == ("reproduced", (2, 2, 2), (1, 3))
    assert claims.judge(claim(2, 2, reading=1), seeds(3.0, 3.0, 3.0), []).verdict == "reproduced"
    assert claims.judge(claim(2, 2, reading=1), seeds(1.0, 1.0, 1.0), []).verdict == "reproduced"
    beyond = math.nextafter(3.0, 4.0)
    assert claims.judge(claim(2, 2, reading=1), seeds(beyond, beyond, beyond), []).verdict == "not reproduced"


def test_an_interval_across_a_bound_is_inconclusive():
    # mean 2, interval 2 ± 2.484
    assert claims.judge(claim(2, 2, reading=HALF * 0.99), seeds(*SPREAD), []).verdict == "inconclusive"
    assert claims.judge(claim(2, 2, reading=HALF * 1.01), seeds(*SPREAD), []).verdict == "reproduced"
    assert claims.judge(claim(2 + HALF * 1.01, 9), seeds(*SPREAD), []).verdict == "not reproduced"
    assert claims.judge(claim(2 + HALF * 0.99, 9), seeds(*SPREAD), []).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "value", "verdict"),
    [
        (0, math.inf, 0.0, "reproduced"), (0, math.inf, -1e-9, "not reproduced"),
        (-math.inf, 0, 0.0, "reproduced"), (-math.inf, 0, 1e-9, "not reproduced"),
        (-math.inf, -1, -math.inf, "reproduced"), (-math.inf, -1, math.inf, "not reproduced"),
        (600, 650, 600.0, "reproduced"), (600, 650, 650.0, "reproduced"), (600, 650, 651.0, "not reproduced"),
    ],
)  # fmt: skip
def test_one_sided_and_ranged_claims_at_their_bounds(low, high, value, verdict):
    assert claims.judge(claim(low, high), seeds(value, value, value), []).verdict == verdict


def test_an_order_is_judged_without_what_one_more_run_may_differ_by():
    order = claim(-math.inf, 0, reading=0.5)
    assert claims.tolerance(order, SPREAD) == 0.5
    # the interval is 2.484 to either side of the mean
    below, across, above = (
        seeds(*(value - 2 + mean for value in SPREAD)) for mean in (0.49 - HALF, 0.51 - HALF, 0.51 + HALF)
    )
    found = claims.judge(order, below, SPREAD)
    assert (found.verdict, found.allowed) == ("reproduced", (-math.inf, 0.5))
    assert found.rule.endswith("lies inside at most 0.5: at most 0 give or take 0.5")
    assert claims.judge(order, across, SPREAD).verdict == "inconclusive"
    assert claims.judge(order, above, SPREAD).verdict == "not reproduced"
    exact = claims.judge(claim(-math.inf, 0), seeds(-1.0, -1.0, -1.0), SPREAD)
    assert exact.rule.endswith("lies inside at most 0")
    # A number may have been moved by chance, and the same values are not outside of what that allows.
    assert claims.judge(claim(0, 0, reading=0.5), above, SPREAD).verdict == "inconclusive"


def test_how_far_a_proposal_lies_from_the_best_rate_is_no_number_of_the_papers():
    measure = Measure(kind="decades_from_best")
    found = claims.judge(claim(0, 0, reading=0.75, measure=measure), seeds(-0.5, -1.0, 0.0), [-0.5, -1.0, 0.0])
    assert (found.verdict, found.allowed) == ("inconclusive", (-0.75, 0.75))


def test_what_is_allowed_ends_where_the_measure_does():
    found = claims.judge(claim(0.99, 0.99, reading=0.02, measure=ACCURACY), seeds(0.99, 0.99, 0.99), [])
    assert found.allowed == (0.97, 1.0)
    order = claim(-math.inf, 0.5, reading=0.1, measure=ACCURACY)  # and no bound stays none
    assert claims.judge(order, seeds(0.5, 0.5, 0.5), []).allowed == (-math.inf, 0.6)


def test_a_rule_about_a_rate_is_told_in_rates():
    measure = Measure(kind="proposed_log10")
    found = claims.judge(claim(-4, -4, reading=0.5, measure=measure), seeds(-4.0, -4.0, -4.0), [])
    assert found.rule.endswith("lies inside 3.16e-5 to 3.16e-4: 1e-4 give or take 0.5 decades")


def test_a_claim_that_no_run_could_fail_is_not_settled():
    # An accuracy is at least 0 and at most 1: give or take 1 about 0.5 is anything, give or take 0.49 is not.
    found = claims.judge(claim(0.5, 0.5, reading=0.5, measure=ACCURACY), seeds(0.5, 0.5, 0.5), [])
    assert (found.verdict, found.rule) == (
        "inconclusive", "seeds differ so much that every value would do: give or take 0.5",
    )  # fmt: skip
    narrower = claim(0.5, 0.5, reading=0.49, measure=ACCURACY)
    assert claims.judge(narrower, seeds(0.5, 0.5, 0.5), []).verdict == "reproduced"


def test_with_fewer_than_three_seeds_the_spread_is_borrowed_and_said_to_be():
    found = claims.judge(claim(0, 100), seeds(50.0), SPREAD)
    assert found.interval == pytest.approx((50, 50 - T2, 50 + T2))
    assert "1 seed, spread borrowed from the reference's 3" in found.rule
    found = claims.judge(claim(0, 100), seeds(49.0, 51.0), SPREAD)
    assert found.interval.high == pytest.approx(50 + T2 / math.sqrt(2))
    alone = claims.judge(claim(0, 100), seeds(49.0, 51.0), [50.0, 50.0])
    assert (alone.verdict, alone.interval) == ("inconclusive", None)
    assert alone.rule == "2 of at least 3 seeds, and no reference to borrow from"


def test_without_runs_or_without_the_measure_nothing_is_concluded():
    found = claims.judge(claim(0, 1), {}, SPREAD, missing={"step 6e-4 seed 0": 0})
    assert (found.verdict, found.rule, found.missing) == ("inconclusive", "runs are missing", {"step 6e-4 seed 0": 0})
    rest = claims.judge(claim(0, 1), seeds(0.5, 0.5, 0.5), SPREAD, missing={"step 6e-4 seed 3": 3})
    assert rest.verdict == "inconclusive"  # though the three that are there would do
    assert claims.judge(claim(0, 1), seeds(0.5, 0.5, math.nan), SPREAD).verdict == "inconclusive"


def test_seeds_of_which_some_never_got_there_are_inconclusive():
    found = claims.judge(claim(-math.inf, -1), seeds(-math.inf, -3.0, -3.0), [])
    assert (found.verdict, found.interval, found.rule) == (
        "inconclusive",
        None,
        "some seeds get there, others never do",
    )


# Measures.

# 10 steps at 2; 18 falls of 0.11, those to steps 20 and 21 of 0.16; 5 steps at the least, -0.08; then 1, 2, 3, 4, 5.
FALLS = np.where(np.isin(np.arange(11, 29), (20, 21)), 0.16, 0.11)
RAMP = np.concatenate([np.full(10, 2.0), 2.0 - np.cumsum([0, *FALLS]), np.full(5, 0.0), np.arange(1.0, 6.0)])
CURVE = Curve(np.logspace(-6, 0, len(RAMP)), RAMP)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("onset_step", 12),  # 0.22 of 2.08 fallen; 0.11 at step 11
        ("descent_steps", 15),  # 1.97 of 2.08 fallen at step 27; 1.86, not nine tenths, at step 26
        ("explosion_step", 36),  # 1, 2, 3 from step 34 on: above 2 at 36
        ("steepest_step", 20),
        ("proposed_log10", -6 + 6 * 20 / 38),
    ],
)
def test_measures_of_a_curve(kind, value):
    assert claims.measure_curve(kind, CURVE, smoothing=0.0) == pytest.approx(value)


def test_a_curve_without_the_point_has_no_such_measure():
    flat = Curve(np.logspace(-3, 0, 5), np.ones(5))
    rising = Curve(np.logspace(-3, 0, 5), np.arange(5.0))
    for kind in ("onset_step", "descent_steps", "steepest_step", "proposed_log10"):
        assert math.isnan(claims.measure_curve(kind, flat, 0.0))
        assert math.isnan(claims.measure_curve(kind, rising, 0.0))
    assert math.isnan(claims.measure_curve("explosion_step", Curve(CURVE.learning_rates[:30], RAMP[:30]), 0.0))
    assert math.isnan(claims.measure_curve("onset_step", Curve(np.array([]), np.array([])), 0.98))


EPOCHS = {
    "test_accuracy_batch_mean": [0.5, 0.94, 0.95, 0.96, 0.96, 0.96, 0.96, 0.96, 0.96, 0.97, 0.98, 0.99],
    "train_loss": [10.0, 9.0, 8.0, 7.0, 6.0, 5.5, 3.5, 1.5, 0.5, 0.4, 0.3, 0.2],
}


@pytest.mark.parametrize(
    ("kind", "value"),
    [("final_accuracy", 0.99), ("accuracy_after_10_epochs", 0.97), ("epochs_to_95_percent", 3)],
)
def test_measures_of_a_model(kind, value):
    assert claims.measure_epochs(kind, EPOCHS, None) == value


def test_what_a_decay_gains_in_worked_numbers():
    # The rate falls in epoch 6. Before: 9 to 6 over epochs 2 to 5, 1 an epoch. From its end: 5.5 to 0.5, 5/3 an epoch.
    assert claims.measure_epochs("fall_gained_by_decay", EPOCHS, 6) == pytest.approx(5 / 3 - 1)
    assert math.isnan(claims.measure_epochs("fall_gained_by_decay", EPOCHS, 4))  # no three epochs before
    assert math.isnan(claims.measure_epochs("fall_gained_by_decay", EPOCHS, 10))  # none after


GRID = {1e-5: [0.1, 0.5, 0.8], 1e-3: [0.6, 0.9, 0.95], 1e-1: [0.7, 0.1]}  # the last diverged


@pytest.mark.parametrize(
    ("kind", "value"),
    [("best_log10", -3.0), ("decades_from_best", -1.0), ("final_regret", 0.95 - 0.93)],
)
def test_measures_of_a_grid(kind, value):
    assert claims.measure_grid(kind, GRID, 1e-4, [0.3, 0.8, 0.93]) == pytest.approx(value)


def test_a_rate_whose_accuracy_is_no_number_is_not_the_best():
    grid = {1e-5: [math.nan], 1e-4: [0.8], 1e-3: [0.9], 1e-2: [math.nan], 1e-1: [0.9]}
    assert regret.best(grid, 1) == (1e-3, 0.9)
    assert regret.regret(grid, [0.7], 1) == pytest.approx(0.2)
    assert all(map(math.isnan, regret.best({1e-5: [math.nan], 1e-1: []}, 1)))


def test_a_proposal_that_diverged_has_no_regret():
    assert math.isnan(claims.measure_grid("final_regret", GRID, 1e-4, [0.3, 0.8]))


def test_what_was_never_reached_or_trained():
    short = {name: values[:2] for name, values in EPOCHS.items()}
    assert claims.measure_epochs("epochs_to_95_percent", short, None) == math.inf
    assert math.isnan(claims.measure_epochs("accuracy_after_10_epochs", short, None))


# The file.


def test_every_claim_of_the_paper_is_there_and_about_models_it_has(paper):
    families = {found.id[:2] for found in paper.claims}
    assert families == {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9"}
    for found in paper.claims:
        for model in (found.measure.of, found.measure.minus):
            if isinstance(model, Model) and model.learning_rate != "proposed":
                assert model.learning_rate in paper.sweep(model.scheduler).learning_rates, found.id


def test_the_expected_values_are_those_of_the_papers_table(paper):
    for found in paper.claims:
        measure = found.measure
        plain = measure.kind == "final_accuracy" and measure.minus is None and found.expected[0] == found.expected[1]
        if plain and found.id != "C4b":  # the text's own, which is not the output's
            trial = planning.trial_of(paper, measure.of, 0, "torch")
            assert found.expected[0] == pytest.approx(paper.reported(trial).test_accuracy, abs=5e-5), found.id


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "onset_step", "of": {"scheduler": "step", "learning_rate": 1}}, {"kind": "final_accuracy"},
     {"kind": "onset_step", "minus": {"scheduler": "step", "learning_rate": 1}}, {"kind": "beauty"},
     {"kind": "final_regret", "minus": {"optimizer": "sgd"}}, {"kind": "final_regret", "of": {"scheduler": "none"}}],
)  # fmt: skip
def test_a_measure_that_is_of_the_wrong_thing_is_refused(wrong):
    with pytest.raises(ValidationError):
        Measure(**wrong)
