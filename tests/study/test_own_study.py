"""A study of a user's own: where it is found, what it may leave out, and what is said of one that cannot be."""

import pytest

from helpers.own_study import OWN, PARTS, write_parts, write_study
from reproduce.errors import UserError
from reproduce.results import verdicts
from reproduce.study import location, planning
from reproduce.study.config import StudyConfig, command_line
from reproduce.study.fault_words import FORMS
from reproduce.study.loading import find_faults, load_paper
from reproduce.study.schema import Paper


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
        ("gamma: 0.5}}\nsweeps", "gama: 0.5}}\nsweeps", "6:42",
         "schedules.late.exponential.gama: there is no such key, did you mean gamma?"),
        ("  - scheduler: exponential", "  - schedule: exponential", "8:5",
         "sweeps.0.schedule: there is no such key, did you mean scheduler?"),
        ("year: 2026}", "year: 2026, doi: x}", "2:74",
         "publication.doi: there is no such key, expected one of authors, publisher, title, url, year"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_study_is_named_with_its_line_and_column(tmp_path, before, after, at, said):
    assert OWN.count(before) == 1
    folder = write_study(tmp_path / "mine", OWN.replace(before, after))
    with pytest.raises(UserError) as refused:
        load_paper(str(folder))
    assert str(refused.value) == f"{folder}/study.yaml:{at}: {said}"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("loss: losses.py:doubled", "loss: mae",
         ["8:3: protocol.loss: expected 'cross_entropy' or 'mse', or FILE.py:NAME of a file beside study.yaml, got "
          "'mae', did you mean mse?"]),
        ("loss: losses.py:doubled", "loss: {code: losses.py}",
         ["8:10: protocol.loss.code: expected FILE.py:NAME of a file beside study.yaml, got 'losses.py'"]),
        ("mean: image}", "mean: images, sise: 3}",
         ["5:28: protocol.preparation.mean: expected a number, or a list, or 'image', got 'images', did you mean "
          "image?",
          "5:42: protocol.preparation.sise: there is no such key, did you mean size?"]),
        ("seeds: [0, 1, 2]", "seeds: []", ["13:3: protocol.seeds: expected a list of at least 1, got []"]),
        ("seeds: [0, 1, 2]", "seed: 3", ["13:3: protocol.seed: there is no such key, did you mean seeds?"]),
        ("authors: [A. Student]", "authors: A. Student",
         ["2:30: publication.authors: expected a list, got 'A. Student'"]),
        ("expected: [0.1, .inf]", "expected: [0.1]", ["32:5: claims.0.expected.1: is missing"]),
        ("    of: {", "    off: {",
         ["28:5: claims.0.measure.0: expected text as a key; on, off, yes and no are truth values in YAML, got False"]),
        ("cooled: {code: schedules.py:cooled, factor: 0.5}", "cooled: schedules.py:cooled",
         ["16:5: schedules.as-stated.cooled: expected keys with values, got 'schedules.py:cooled'"]),
        ("    cooled: {code: schedules.py:cooled, factor: 0.5}",
         "    cooled: {code: schedules.py:cooled, factor: 0.5}\n    multistp: {gamma: 0.5}",
         ["17:5: schedules.as-stated.multistp: there is no such schedule; expected one of none, step, multistep, "
          "onecycle, exponential, or a name of your own with code: FILE.py:NAME, did you mean multistep?"]),
        ("  - scheduler: cooled", "  - scheduler: Cooled",
         ["18:5: sweeps.0.scheduler: expected small letters, digits, - and _, got 'Cooled'"]),
        ("on_demand: true", "on_demand: maybe", ["22:5: sweeps.1.on_demand: expected true or false, got 'maybe'"]),
        ("dataset: digits", "dataset: data.py:load\n  data_sha256: abc",
         ["5:3: protocol.data_sha256: expected the 64 digits, 0 to 9 and a to f, of a SHA-256, got 'abc'"]),
        ("seeds: [0, 1, 2]", "seeds: [4294967296]",
         ["13:11: protocol.seeds.0: expected at most 4294967295, got 4294967296"]),
        ("epochs: 3", "epochs: 1.5", ["11:3: protocol.epochs: expected a whole number, got 1.5"]),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_told_in_plain_words(tmp_path, before, after, said):
    assert PARTS.count(before) == 1
    folder = write_parts(tmp_path / "bad", PARTS.replace(before, after))
    faults = find_faults(str(folder), lambda paper: [])[1]
    assert [fault.removeprefix(f"{folder}/study.yaml:") for fault in faults] == said


def test_every_form_that_a_text_has_to_have_is_told_in_words():
    def patterns(schema):
        if isinstance(schema, dict):
            yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from patterns(part)

    assert set(patterns(Paper.model_json_schema())) == FORMS.keys()


def test_a_schedule_that_the_study_does_not_have_wants_rates_or_is_refused(own):
    with pytest.raises(UserError, match="the study has no rates for scheduler none: give --learning-rates"):
        planning.trials(own, StudyConfig(schedulers=("none",)))
    assert len(planning.trials(own, StudyConfig(schedulers=("none",), learning_rates=(0.1,)))) == 3
    with pytest.raises(
        UserError, match="--scheduler step: the study has no such schedule, expected one of exponential"
    ):
        planning.trials(own, StudyConfig(schedulers=("step",), learning_rates=(0.1,)))
