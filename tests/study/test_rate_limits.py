"""The rates that schedules and proposals make of typed ones: known before anything starts, refused if impossible."""

import math
from decimal import Decimal

import pytest
from mlflow.entities import Metric, Param

from helpers.commands import typed
from helpers.small import small_config
from reproduce.analysis.lr_range_test import NoProposal, Proposal
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning, rate_checks, rate_limits
from reproduce.study.config import StudyConfig
from reproduce.study.fields import MAX_RATE, MIN_RATE
from reproduce.study.schedules import Constant, ExponentialDecay, MultiStepDecay, OneCycle, Ramp, StepDecay
from reproduce.study.trial import Trial
from reproduce.training import lr_schedulers


def of(schedule, rate, steps):
    """A trial of so many steps."""
    return Trial(dataset="mnist", train_size=steps, batch_size=1, epochs=1, optimizer="adam", schedule=schedule,
                 learning_rate=rate, seed=0, engine="torch")  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        (Constant(), 0.06),
        (StepDecay(decay_steps=3, gamma=0.1), 0.6),
        (StepDecay(decay_steps=3, gamma=1e4), 1e-10),
        (MultiStepDecay(milestones=(1, 7, 8), gamma=0.1), 0.6),
        (ExponentialDecay(decay_steps=7, gamma=0.1), 0.6),
        (ExponentialDecay(decay_steps=1, gamma=2.0), 1e-9),
        (OneCycle(pct_start=0.3, div_factor=25, final_div_factor=1e4), 0.6),
        (OneCycle(pct_start=0.3, div_factor=1e-10, final_div_factor=1e-10), 1e10),
        (OneCycle(pct_start=0.3, div_factor=1e15, final_div_factor=1e20), 0.6),  # whose start is half lost in rounding
        (OneCycle(pct_start=0.3, div_factor=1e17, final_div_factor=1e20), 0.6),  # and wholly
        (Ramp(lr_end=1e38), 1e-38),
    ],
)
def test_the_closed_form_is_what_the_scheduler_gives_at_every_step(schedule, rate):
    trial = of(schedule, rate, 50)
    expected = lr_schedulers.compute_rates(schedule, rate, 50)
    found = [float(rate_limits.rate_at(trial, step)) for step in range(50)]
    assert found == pytest.approx(expected.tolist(), rel=1e-12, abs=0)
    beyond = [step for step, value in enumerate(expected) if not MIN_RATE <= value <= MAX_RATE]
    assert rate_limits.first_beyond(trial) == ((beyond[0], rate_limits.rate_at(trial, beyond[0])) if beyond else None)


def test_the_first_step_beyond_is_found_where_no_float_goes():
    trial = of(StepDecay(decay_steps=7, gamma=1e38), 6e-4, 600)
    assert rate_limits.first_beyond(trial) == (14, rate_limits.rate_at(trial, 14))
    assert rate_limits.as_text(rate_limits.rate_at(trial, 14)) == "6e+72"
    assert rate_limits.as_text(rate_limits.rate_at(trial, 599)) == "6e+3226"
    falling = of(ExponentialDecay(decay_steps=1, gamma=1e-38), 1e-3, 10)
    assert rate_limits.first_beyond(falling)[0] == 1
    assert rate_limits.as_text(rate_limits.rate_at(falling, 9)) == "1e-345"
    assert rate_limits.as_text(Decimal(0)) == "0"


def test_a_rate_that_comes_to_a_bound_within_rounding_is_at_the_bound():
    rising = StepDecay(decay_steps=1, gamma=10.0)
    trial = of(rising, 1e-15, 54)
    assert lr_schedulers.compute_rates(rising, 1e-15, 54)[-1] > MAX_RATE  # by its last bits, after 53 multiplications
    assert rate_limits.first_beyond(trial) is None
    assert rate_limits.first_beyond(of(rising, 1e-15, 55)) == (54, rate_limits.rate_at(trial, 54))


def test_whatever_the_paper_and_the_archive_have_is_trained(paper):
    for protocol in paper.protocols:
        config = StudyConfig(protocol=protocol)
        rate_checks.check_rates(config, planning.requested_trials(paper, config) + planning.range_tests(paper, config))
    rate_checks.check_rates(StudyConfig(), planning.grid_trials(paper, StudyConfig()))
    lowest = min(
        rate_limits.rate_at(trial, trial.total_steps - 1)
        for trial in planning.trials(paper, StudyConfig(protocol="as-written"))
    )
    assert rate_limits.as_text(lowest) == "2.4e-11"  # OneCycle at 6e-6, over 25 and over 10,000


def test_the_papers_own_decay_in_a_long_run_is_told_and_trained(paper):
    config = StudyConfig(epochs=400, schedulers=("step",))
    planned = planning.requested_trials(paper, config)
    rate_checks.check_rates(config, planned)
    assert rate_checks.list_without_effect(config, planned) == [
        f"scheduler step at {rate}: the paper's decay brings the rate below 1e-38 at step {step} of 187600, and no "
        "weight changes after that"
        for rate, step in (("0.6", 171000), ("6e-4", 157500), ("6e-6", 148500))
    ]
    assert (
        rate_checks.list_without_effect(
            StudyConfig(epochs=300), planning.requested_trials(paper, StudyConfig(epochs=300))
        )
        == []
    )


SMALL = ("--train-size", "640", "--epochs", "2")  # ten steps
AT_MOST, AT_LEAST = ("above the 1e+38 that float32 weights can be trained at",
                     "below the 1e-38 that float32 weights can be trained at")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--scheduler exponential --gamma 1e38 --decay-steps 1 --learning-rates 6e-4",
            "scheduler exponential at 6e-4: --gamma 1e+38 with --decay-steps 1 makes the rate 6e+72 at step 2 of 10, "
            f"{AT_MOST}: lower --gamma, or raise --decay-steps",
        ),
        (
            "--scheduler step --gamma 1e-38 --decay-steps 4 --learning-rates 0.5,1e-3",
            "scheduler step at 0.5: --gamma 1e-38 with --decay-steps 4 makes the rate 5e-39 at step 4 of 10, "
            f"{AT_LEAST}: raise --gamma or --decay-steps",
        ),
        (
            "--scheduler step --gamma 1e-38 --decay-steps 4 --learning-rates 100,1e-3",  # only some of them
            "scheduler step at 100: --gamma 1e-38 with --decay-steps 4 makes the rate 1e-74 at step 8 of 10, "
            f"{AT_LEAST}: raise --gamma or --decay-steps",
        ),
        (
            "--decay-steps 3 --learning-rates 1e-38",  # of all schedules, the first that cannot be
            "scheduler step at 1e-38: the paper's --gamma 0.1 with --decay-steps 3 makes the rate 1e-39 at step 3 of "
            f"10, {AT_LEAST}: raise --gamma or --decay-steps",
        ),
        (
            "--scheduler multistep --gamma 1e20 --milestones 1,2,3,4,5,6 --learning-rates 6e-4",
            "scheduler multistep at 6e-4: --gamma 1e+20 with --milestones 1,2,3,4,5,… makes the rate 6e+56 at step 3 "
            f"of 10, {AT_MOST}: lower --gamma, or give fewer --milestones",
        ),
        (
            "--scheduler onecycle --div-factor 1e38 --final-div-factor 1e38 --learning-rates 6e-4",
            f"scheduler onecycle at 6e-4: --div-factor 1e+38 makes the rate 0 at step 0 of 10, {AT_LEAST}: "
            "lower --div-factor, or raise the rate",
        ),
        (
            "--scheduler onecycle --div-factor 1e-38 --learning-rates 10",
            f"scheduler onecycle at 10: --div-factor 1e-38 makes the rate 1e+39 at step 0 of 10, {AT_MOST}: "
            "raise --div-factor, or lower the rate",
        ),
        (
            "--scheduler onecycle --final-div-factor 1e38 --learning-rates 6e-4",
            "scheduler onecycle at 6e-4: PyTorch's --div-factor 25 with --final-div-factor 1e+38 makes the rate "
            f"2.4e-43 at step 9 of 10, {AT_LEAST}: lower --div-factor or --final-div-factor, or raise the rate",
        ),
        (
            "--scheduler onecycle --learning-rates 1e-38",
            f"scheduler onecycle at 1e-38: PyTorch's --div-factor 25 makes the rate 4e-40 at step 0 of 10, {AT_LEAST}: "
            "lower --div-factor, or raise the rate",
        ),
    ],
)
def test_a_rate_that_cannot_be_trained_at_is_refused_before_anything_is_recorded(
    monkeypatch, capsys, tmp_path, options, line
):
    monkeypatch.chdir(tmp_path)
    code, printed = typed(monkeypatch, capsys, "sweep", *SMALL, *options.split())
    assert (code, printed) == (2, f"error: {line}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--lr-start 1 --lr-end 1.0000000000000002",
            "--lr-end 1.0000000000000002 is so near to --lr-start 1 that the ramp's 10 steps would be at one rate: "
            "raise --lr-end",
        ),
        (
            "--lr-start 1.0000002 --lr-end 1.0000001",
            "--lr-end 1.0000001 must be above --lr-start 1.0000002",
        ),
        (
            "--validation-size 100 --batch-size 600",
            "--batch-size 600 is more than the 540 training images that --validation-size 100 leaves",
        ),
    ],
)
def test_a_ramp_that_cannot_be_is_refused_before_anything_is_recorded(monkeypatch, capsys, tmp_path, options, line):
    monkeypatch.chdir(tmp_path)
    code, printed = typed(monkeypatch, capsys, "range_test", *SMALL, *options.split())
    assert (code, printed) == (2, f"error: {line}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_flattest_ramp_that_is_taken_still_rises():
    ramp = Ramp(lr_end=math.exp(1.01e-11))
    rates = lr_schedulers.compute_rates(ramp, 1.0, 10)
    assert of(ramp, 1.0, 10).total_steps == 10
    assert all(rates[1:] > rates[:-1])


def propose(store, rate):
    """A finished range test of small config, as it is recorded, that proposes this rate."""
    params = {"dataset": "mnist", "train_size": 640, "optimizer": "adam", "batch_size": 128, "seed": 0}
    tags = {"kind": "range_test", "outcome": "finished", "specification": "its own", "seed": "0",
            "proposed_learning_rate": str(rate)}  # fmt: skip
    run_id = store.mlflow.create_run(store.experiment_id, tags=tags, run_name="its range test").info.run_id
    metrics = [Metric(name, 1.0, 0, 1) for name in ("train_loss", "learning_rate")]
    store.mlflow.log_batch(run_id, metrics, [Param(key, str(value)) for key, value in params.items()])
    store.mlflow.set_terminated(run_id)


@pytest.mark.parametrize(
    ("proposed", "line"),
    [
        (
            2.51e-38,
            "--learning-rates proposed makes the rate 2.51e-39 of what the range test of seed 0 proposes, "
            f"{AT_LEAST}: name rates instead, or have a range test with its --lr-start higher",
        ),
        (
            2.51e37,
            "--learning-rates proposed makes the rate 2.51e+38 of what the range test of seed 0 proposes, "
            f"{AT_MOST}: name rates instead, or have a range test with its --lr-end lower",
        ),
    ],
)
def test_proposed_rates_beyond_the_bounds_are_refused_and_leave_no_run(monkeypatch, capsys, store, proposed, line):
    propose(store, proposed)
    monkeypatch.setenv("REPRODUCE_HOME", str(store.home))
    options = ("--train-size", "640", "--epochs", "1", "--scheduler", "none", "--learning-rates", "proposed")
    for command in (("sweep", "--device", "cpu"), ("report",)):
        code, printed = typed(monkeypatch, capsys, *command, *options)
        assert (code, printed.splitlines()[-1]) == (2, f"error: {line}")
    assert [run.info.run_name for run in store.mlflow.search_runs([store.experiment_id])] == ["its range test"]


def test_proposed_rates_that_a_schedule_takes_beyond_are_refused_and_the_papers_own_are_not_looked_at(
    monkeypatch, capsys, store
):
    propose(store, 1e-3)
    monkeypatch.setenv("REPRODUCE_HOME", str(store.home))
    options = ("--scheduler", "step", "--gamma", "1e-19", "--decay-steps", "4", "--learning-rates", "proposed")
    code, printed = typed(monkeypatch, capsys, "sweep", *SMALL, "--device", "cpu", *options)
    assert (code, printed.splitlines()[-1]) == (
        2,
        "error: scheduler step at 1e-3: --gamma 1e-19 with --decay-steps 4 makes the rate 1e-41 at step 8 of 10, "
        f"{AT_LEAST}: raise --gamma or --decay-steps",
    )
    assert [run.info.run_name for run in store.mlflow.search_runs([store.experiment_id])] == ["its range test"]


def test_where_nothing_trains_at_a_derived_rate_there_is_no_trial_and_no_error(store, paper):
    collection = RunCollection(
        store.reader, paper, small_config(lr_start=1e-38, schedule_parameters={"gamma": 0.5}), 0.98
    )
    assert collection.trial_at("adam", 0, Proposal(2.51e-38, 3), 0.1) is None
    assert collection.trial_at("adam", 0, Proposal(2.51e37, 3), 10) is None
    assert collection.trial_at("adam", 0, Proposal(2.51e-38, 3)).learning_rate == 2.51e-38
    beside = planning.trials_beside_grid(paper, small_config(), {0: [2.51e-38, 2.51e-39, 2.5e38, 1e-3]})
    assert [trial.learning_rate for trial in beside] == [2.51e-38]


@pytest.mark.parametrize("reason", ["diverged at step 1: lower --lr-start", "the loss never fell"])
def test_a_range_test_without_a_proposal_says_why_where_its_rate_is_asked_for(monkeypatch, capsys, store, reason):
    propose(store, NoProposal(reason))
    options = ("--train-size", "640", "--epochs", "1", "--scheduler", "none", "--learning-rates", "proposed")
    monkeypatch.setenv("REPRODUCE_HOME", str(store.home))
    (run,) = store.mlflow.search_runs([store.experiment_id])
    code, printed = typed(monkeypatch, capsys, "sweep", *options, "--seeds", "0", "--device", "cpu")
    assert (code, printed.splitlines()[-1]) == (
        2,
        "error: --learning-rates proposed needs what a range test with adam, mnist, 640 images, batches of 128 and "
        f"seed 0 proposes, and run {run.info.run_id} has none: {reason} "
        "(run reproduce range_test --train-size 640 with that change, then this again)",
    )
