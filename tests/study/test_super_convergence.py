"""The second study is what was run: network, rates, momentum and lengths as the repetition's code has them."""

from collections import Counter

import numpy as np
import pytest
import torch

from reproduce.report import wording
from reproduce.results import verdicts
from reproduce.studies.super_convergence import schedules
from reproduce.studies.super_convergence.measures import epochs_to
from reproduce.studies.super_convergence.network import LeNet
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.training.lr_schedulers import Now, compute_rates

STEPS = 118


@pytest.fixture(scope="module")
def study():
    return load_paper("super_convergence")


def at(epoch, epochs, rate):
    return Now(round(epoch * STEPS), epochs * STEPS, STEPS, rate)


def test_main_trains_three_models_five_times_and_the_long_cycles_are_on_demand(study):
    planned = Counter((trial.schedule.name, trial.learning_rate, trial.epochs) for trial in
                      planning.trials(study, StudyConfig()))  # fmt: skip
    assert planned == {("inv", 0.01, 85): 5, ("1cycle-12", 0.1, 12): 5, ("1cycle-25", 0.1, 25): 5}
    (long,) = planning.trials(study, StudyConfig(schedulers=("1cycle-85",), seeds=(0,)))
    assert (long.learning_rate, long.epochs, long.steps_per_epoch, long.total_steps) == (0.2, 85, STEPS, 85 * STEPS)


def test_the_network_has_the_layers_sizes_and_first_weights_of_keras():
    torch.manual_seed(0)
    network = LeNet()
    assert [sum(parameter.numel() for parameter in layer.parameters()) for layer in network] == [
        520, 0, 25_050, 0, 0, 400_500, 0, 5_010
    ]  # fmt: skip
    assert network(torch.zeros(2, 1, 28, 28)).tolist() == [[0.0] * 10] * 2  # no bias is anything else
    bound = (6 / (20 * 25 + 50 * 25)) ** 0.5  # Glorot's, from the fan in and the fan out
    assert network[2].weight.abs().max().item() == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(
    ("epoch", "rate", "momentum"),
    [
        (0, 0.01, 0.95), (2.5, 0.055, 0.875), (5, 0.1, 0.8), (7.5, 0.055, 0.875), (10, 0.01, 0.95),
        (11, 0.00500005, 0.95),
    ],
)  # fmt: skip
def test_a_cycle_of_twelve_epochs_in_worked_numbers(epoch, rate, momentum):
    found = schedules.one_cycle(at(epoch, 12, 0.1), lowest=0.01, up=5, tail=2)
    assert found == pytest.approx((rate, momentum))


def test_the_last_step_of_a_cycle_is_near_a_hundred_thousandth_of_its_lowest_rate():
    rate, _ = schedules.one_cycle(Now(12 * STEPS, 12 * STEPS, STEPS, 0.1), lowest=0.01, up=5, tail=2)
    assert rate == pytest.approx(0.01 * 1e-5)


def test_a_shorter_training_keeps_the_proportions():
    found = [schedules.one_cycle(Now(step, 240, 20, 0.1), lowest=0.01, up=5, tail=2) for step in (0, 100, 200)]
    assert found == [pytest.approx(value) for value in ((0.01, 0.95), (0.1, 0.8), (0.01, 0.95))]


def test_the_decaying_rate_and_keras_decay_in_worked_numbers():
    step = 85 * STEPS
    now = Now(step, step, STEPS, 0.01)
    assert schedules.inverse(now, gamma=1e-4, power=0.75) == pytest.approx((0.01 * (1 + 1.003) ** -0.75, 0.9))
    assert schedules.inverse(now, gamma=0, power=1, decay=5e-4)[0] == pytest.approx(0.01 / 6.015)
    assert schedules.one_cycle(at(5, 12, 0.1), lowest=0.01, up=5, tail=2, decay=5e-4)[0] == pytest.approx(0.1 / 1.295)


def test_what_was_written_has_a_weight_decay_and_what_was_run_divides_the_rate(study):
    def trial(protocol):
        return planning.trials(study, StudyConfig(protocol=protocol, schedulers=("inv",), seeds=(0,)))[0]

    run, written = trial("as-run"), trial("as-written")
    assert (dict(run.optimizer_arguments), dict(written.optimizer_arguments)) == (
        {"momentum": 0.95}, {"momentum": 0.95, "weight_decay": 5e-4}
    )  # fmt: skip
    rates = [
        compute_rates(found.schedule, 0.01, found.total_steps, STEPS, study.code) for found in (run, written)
    ]  # fmt: skip
    np.testing.assert_allclose(rates[1] / rates[0], 1 + 5e-4 * np.arange(85 * STEPS))


def test_reported_means_are_those_of_their_runs(study):
    means = {sweep.scheduler: round(np.mean(sweep.reported[0].runs), 4) for sweep in study.sweeps}
    assert means == {"inv": 0.9892, "1cycle-12": 0.9905, "1cycle-25": 0.9901, "1cycle-50": 0.9902, "1cycle-85": 0.9907}
    assert {len(sweep.reported[0].runs) for sweep in study.sweeps} == {5}


def test_the_ramp_is_at_the_cycles_highest_rate_at_the_step_that_the_claim_names(study):
    (ramp,) = planning.range_tests(study, StudyConfig(seeds=(0,)))
    (claim,) = [claim for claim in study.claims if claim.id == "R2"]
    rates = compute_rates(ramp.schedule, ramp.learning_rate, ramp.total_steps)
    assert claim.expected[0] == int(np.searchsorted(rates, 0.1 * (1 - 1e-9)))


def test_how_soon_a_model_is_as_good_as_asked_for():
    assert epochs_to({"test_accuracy": [0.9, 0.98, 0.97]}, 0.98) == 2
    assert epochs_to({"test_accuracy": [0.9]}, 0.98) == float("inf")


def test_what_is_on_demand_is_told_beside_main(study):
    measures = {claim.id: claim.measure for claim in study.claims}

    def is_beyond_main(name):
        (command,) = verdicts.commands(measures[name], "0-4", study)
        return any(words in command for words in wording.beyond_main(study))

    assert {name: is_beyond_main(name) for name in ("T1", "T2", "T3", "T4", "T5", "R1")} == {
        "T1": False, "T2": False, "T3": False, "T4": True, "T5": True, "R1": False,
    }  # fmt: skip
