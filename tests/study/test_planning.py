from itertools import pairwise

import pytest

from helpers.small import small_config
from reproduce.cli.main import cli
from reproduce.cli.options import COMMANDS
from reproduce.cli.request import read_config
from reproduce.errors import UserError
from reproduce.study import planning
from reproduce.study.config import StudyConfig, option_words
from reproduce.study.departures import MAIN_FIELDS, fits_main, list_departures
from reproduce.study.fields import Code, Preparation, format_rate
from reproduce.study.loading import load_paper
from reproduce.study.schedules import SCHEDULERS, StepDecay


def test_the_paper_is_fifteen_models_in_its_order(paper):
    trials = planning.trials(paper, StudyConfig())
    assert [(trial.schedule.name, trial.learning_rate) for trial in trials] == [
        ("none", 0.06), ("none", 6e-5), ("none", 6e-6),
        *((name, rate) for name in ("step", "multistep", "onecycle", "exponential") for rate in (0.6, 6e-4, 6e-6)),
    ]  # fmt: skip
    assert {trial.total_steps for trial in trials} == {30 * 469}


def test_a_range_test_of_the_paper_has_2345_steps(paper):
    (trial,) = planning.range_tests(paper, StudyConfig())
    assert (trial.total_steps, trial.learning_rate, trial.schedule.lr_end) == (2345, 1e-6, 1.0)


def test_trainings_that_differ_in_length_or_images_differ_in_name(paper):
    configs = (StudyConfig(), StudyConfig(epochs=1), StudyConfig(epochs=1, train_size=10_000))
    assert [planning.trials(paper, config)[4].run_name for config in configs] == [
        "step 6e-4 seed 0, 30 epochs", "step 6e-4 seed 0, 1 epoch", "step 6e-4 seed 0, 1 epoch of 10000 images",
    ]  # fmt: skip


def test_the_two_protocols_differ_in_step_and_multistep_alone(paper):
    drawn, written = (
        {name: planning.trials(paper, StudyConfig(protocol=protocol, schedulers=(name,))) for name in SCHEDULERS}
        for protocol in ("as-drawn", "as-written")
    )
    assert [name for name in drawn if drawn[name] != written[name]] == ["step", "multistep"]
    assert [drawn["step"][0].schedule.decay_steps, written["step"][0].schedule.decay_steps] == [4500, 2345]
    assert written["multistep"][0].schedule.milestones == (5 * 469, 15 * 469, 20 * 469)


def test_a_model_of_the_paper_finds_what_the_paper_reports_of_it(paper):
    trial = planning.trials(paper, StudyConfig(schedulers=("step",), learning_rates=(6e-6,)))[0]
    assert paper.reported(trial).test_accuracy == 0.8168512658227848
    assert paper.reported(trial.model_copy(update={"learning_rate": 1e-6})) is None


def test_seed_zero_is_a_seed(paper):
    assert [trial.seed for trial in planning.trials(paper, StudyConfig(seeds=(0, 3), schedulers=("none",)))] == [
        0,
        3,
    ] * 3


def test_every_field_of_a_trial_changes_its_specification(small_trial):
    other = {
        "dataset": "fashion-mnist", "train_size": 641, "optimizer": "sgd", "learning_rate": 1e-3, "epochs": 3,
        "batch_size": 64, "seed": 1, "schedule": StepDecay(decay_steps=4500, gamma=0.2),
        "data_sha256": "f" * 64, "preparation": Preparation(), "loss": "mse", "optimizer_arguments": (("eps", 1e-6),),
        "network": Code(code="network.py:Net", sha256="f" * 64),
    }  # fmt: skip
    assert other.keys() | {"engine"} == type(small_trial).model_fields.keys()
    changed = [small_trial.model_copy(update={key: value}).config_hash for key, value in other.items()]
    assert len({small_trial.config_hash, *changed}) == len(other) + 1


def test_the_fingerprint_depends_on_the_surroundings_and_the_specification_does_not(small_trial):
    assert small_trial.cache_key({"code": "a"}) != small_trial.cache_key({"code": "b"})
    assert small_trial.cache_key({"code": "a"}) == small_trial.model_copy().cache_key({"code": "a"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_size": 60_001}, "--train-size 60001 is more than the 60000 images there are"),
        ({"train_size": 100, "batch_size": 101}, "--batch-size 101 is more than the 100 training images"),
        ({"learning_rates": (0.1, 0.1)}, "--learning-rates: 0.1 is given twice; give each value once"),
        ({"seeds": (2, 2)}, "--seeds: 2 is given twice; give each value once"),
        (
            {"schedulers": ("none",), "schedule_parameters": {"gamma": 0.5}},
            "--gamma has no effect on scheduler none: leave it out",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(paper, config, message):
    with pytest.raises(UserError) as refused:
        planning.requested_trials(paper, StudyConfig(**config))
    assert str(refused.value) == message


def test_data_of_another_study_is_refused(paper):
    with pytest.raises(
        UserError, match=r"--dataset data\.py:load is not of this study; expected one of mnist, fashion"
    ):
        planning.trials(paper, StudyConfig(dataset="data.py:load"))


def test_a_ramp_that_does_not_rise_is_refused(paper):
    with pytest.raises(UserError, match=r"--lr-end 0\.1 must be above --lr-start 0\.1"):
        planning.range_tests(paper, StudyConfig(lr_start=0.1, lr_end=0.1))


def test_a_onecycle_too_short_to_rise_is_refused(paper):
    with pytest.raises(UserError, match="more than one step"):
        planning.trials(paper, small_config(epochs=1, train_size=128, schedulers=("onecycle",)))


def test_the_papers_own_study_departs_in_nothing_and_a_quick_one_says_in_what(paper):
    assert list_departures(paper, StudyConfig()) == []
    assert list_departures(paper, StudyConfig(epochs=1, train_size=10_000, protocol="as-written")) == [
        "10000 training images instead of 60000",
        "1 epoch instead of 30",
        "schedules as written instead of as drawn",
    ]


def test_a_study_whose_schedules_differ_in_length_departs_where_one_of_them_does():
    paper = load_paper("super_convergence")

    def told(**fields):
        config = StudyConfig(**fields)
        return list_departures(paper, config), option_words(paper, config)

    assert told(epochs=12) == (["12 epochs instead of 12, 25 or 85"], ["--epochs 12"])
    assert told(epochs=1) == (["1 epoch instead of 12, 25 or 85"], ["--epochs 1"])
    assert told(epochs=12, schedulers=("1cycle-12",)) == ([], ["--scheduler 1cycle-12"])
    assert told(epochs=25, schedulers=("1cycle-12",))[0] == ["25 epochs instead of 12"]
    assert told(optimizer="adam")[0] == ["adam optimizer instead of sgd"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", True),
        ("--epochs 1 --train-size 10000", True),
        ("--dataset fashion-mnist --optimizer sgd --batch-size 64 --seeds 0,1,7 --protocol as-written "
         "--range-test-epochs 2", True),
        ("--learning-rates 0.001,3e-05 --scheduler step --decay-steps 100 --gamma 0.5", False),
        ("--scheduler multistep --milestones 10,20", False),
        ("--lr-start 1e-05 --lr-end 0.5 --validation-size 100 --validation-interval 5 --stop-factor 4.0", False),
    ],
)  # fmt: skip
def test_wishes_are_told_as_the_options_that_make_them(paper, options, expected):
    config = wishes_of(options)
    told = option_words(paper, config)
    assert sorted(" ".join(told).split()) == sorted(options.split())
    assert wishes_of(" ".join(told)) == config
    assert fits_main(config) is expected


def wishes_of(options):
    with cli.commands["report"].make_context("report", options.split()) as context:
        return read_config(load_paper(), context.params)


def test_a_length_that_is_that_of_the_models_is_still_another_for_a_range_test(paper):
    own = read_config(paper, {"epochs": 30, "range_test_epochs": None})
    (test,) = planning.range_tests(paper, own.model_copy(update={"range_test_epochs": own.epochs, "epochs": None}))
    assert test.epochs == 30
    assert list_departures(paper, own) == []


def test_what_is_the_papers_and_what_the_store_knows_is_not_told(paper):
    config = StudyConfig(epochs=30, seeds=(0,), engine="fused", rates_by_seed={0: (1e-3,)})
    assert option_words(paper, config) == ["--learning-rates proposed"]
    assert not fits_main(config)


def test_main_can_be_asked_for_what_its_options_say():
    assert set(MAIN_FIELDS) == set(COMMANDS["main"]) & set(StudyConfig.model_fields)


def test_rates_are_written_as_the_field_writes_them():
    rates = [0.6, 0.06, 6e-4, 6.05e-5, 1e-6]
    assert [format_rate(rate) for rate in rates] == ["0.6", "0.06", "6e-4", "6.05e-5", "1e-6"]
    assert format_rate(8.009856e-05, 3) == "8.01e-5"
    assert all(float(format_rate(a)) > float(format_rate(b)) for a, b in pairwise(rates))
