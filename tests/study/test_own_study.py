"""A study of a user's own: where it is found, what it may leave out, and what is said of one that cannot be."""

import pytest

from helpers.own_study import OWN, write_study
from reproduce.errors import UserError
from reproduce.results import verdicts
from reproduce.study import location, planning
from reproduce.study.config import StudyConfig, command_line
from reproduce.study.loading import load_paper


@pytest.fixture
def own(tmp_path):
    return load_paper(str(write_study(tmp_path / "two_rates")))


def test_the_default_study_comes_before_the_other_shipped_ones(tmp_path, monkeypatch):
    for name in ("zebra", location.DEFAULT, "ant"):
        write_study(tmp_path / name)
    (tmp_path / "no study").mkdir()
    monkeypatch.setattr(location, "SHIPPED", tmp_path)
    assert location.shipped() == ["lenet5_mnist", "ant", "zebra"]


def test_the_default_study_needs_no_option():
    assert load_paper().command("main") == "reproduce main"
    assert load_paper().slug == "lenet5-mnist"


def test_a_study_is_found_by_its_folder_its_file_and_its_name(tmp_path):
    folder = write_study(tmp_path / "mine")
    assert location.find(str(folder)) == location.find(str(folder / "study.yaml")) == folder / "study.yaml"
    assert location.find("lenet5_mnist") == location.SHIPPED / "lenet5_mnist" / "study.yaml"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("lenet5_mnst", "'lenet5_mnst', which is not there, did you mean lenet5_mnist?"),
        ("empty", "'empty', a folder that has no study.yaml"),
        ("a\0b", "'a\\x00b', which is not there"),
        ("~nobody-of-that-name/x", "'~nobody-of-that-name/x', which is not there"),
    ],
)
def test_a_study_that_is_not_there_is_one_line(tmp_path, monkeypatch, named, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as refused:
        load_paper(named)
    expected = "expected a folder with a study.yaml, or one of lenet5_mnist, digits, super_convergence"
    assert str(refused.value) == f"the study is {said}; {expected}"


def test_a_study_needs_no_range_test_no_grid_and_no_figures(own):
    assert (own.has_range_test, own.protocols, own.schedulers) == (False, ("each-step", "late"), ("exponential",))
    assert own.publication.citation == "A. Student, “A note on rates”, 2026"
    found = [
        (trial.learning_rate, trial.seed, trial.optimizer, trial.schedule.decay_steps, trial.total_steps)
        for trial in planning.trials(own, StudyConfig())
    ]
    assert found == [(rate, seed, "sgd", 50, 50) for rate in (0.1, 1e-5) for seed in (0, 1, 2)]
    late = planning.trials(own, StudyConfig(protocol="late", seeds=(0,)))
    assert [trial.schedule.decay_steps for trial in late] == [100, 100]


def test_commands_that_are_advised_name_the_study(own, tmp_path):
    named = f"--study {tmp_path}/two_rates"
    assert command_line("main", own, StudyConfig(engine="fused"), 0.98) == f"reproduce main {named}"
    assert verdicts.commands(own.claims[0].measure, "0-2", own) == [
        f"reproduce sweep {named} --scheduler exponential --learning-rates {rate} --seeds 0-2"
        for rate in ("0.1", "1e-5")
    ]


@pytest.mark.parametrize(
    ("before", "after", "at", "said"),
    [
        ("of: {scheduler: exponential, learning_rate: 1.0e-5}}", "of: {scheduler: step, learning_rate: 1.0e-5}}",
         "25:42", "claims.1.measure.of.scheduler: there is no sweep of step"),
        ("of: {scheduler: exponential, learning_rate: 1.0e-5}}", "of: {scheduler: exponential, learning_rate: 0.3}}",
         "25:66",
         "claims.1.measure.of.learning_rate: is in no sweep of exponential"),
        ("of: {scheduler: exponential, learning_rate: 0.1}",
         "of: {scheduler: exponential, learning_rate: 0.1, protocol: early}", "17:56",
         "claims.0.measure.of.protocol: there is no such protocol, expected one of each-step, late"),
        ("  late: {exponential: {decay_steps: 100, gamma: 0.5}}", "  late: {step: {decay_steps: 9, gamma: 0.5}}", "6:3",
         "schedules.late.exponential: is missing"),
        ("gamma: 0.5}}\nsweeps", "gama: 0.5}}\nsweeps", "6:10", "schedules.late.exponential.gamma: Field required"),
        ("  - scheduler: exponential", "  - schedule: exponential", "8:5", "sweeps.0.scheduler: Field required"),
        ("year: 2026}", "year: 2026, doi: x}", "2:74", "publication.doi: Extra inputs are not permitted, got 'x'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_study_is_named_with_its_line_and_column(tmp_path, before, after, at, said):
    assert OWN.count(before) == 1
    folder = write_study(tmp_path / "mine", OWN.replace(before, after))
    with pytest.raises(UserError) as refused:
        load_paper(str(folder))
    assert str(refused.value) == f"{folder}/study.yaml:{at}: {said}"


def test_a_schedule_that_the_study_does_not_have_wants_rates_or_is_refused(own):
    with pytest.raises(UserError, match="the study has no rates for scheduler none: give --learning-rates"):
        planning.trials(own, StudyConfig(schedulers=("none",)))
    assert len(planning.trials(own, StudyConfig(schedulers=("none",), learning_rates=(0.1,)))) == 3
    with pytest.raises(
        UserError, match="--scheduler step: the study has no such schedule, expected one of exponential"
    ):
        planning.trials(own, StudyConfig(schedulers=("step",), learning_rates=(0.1,)))
