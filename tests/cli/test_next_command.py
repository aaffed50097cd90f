"""What follows a command: report and verify take the same options, and find just the trials that it trained.

The store of most tests here only says which trials are finished, as hundreds of studies are planned; some are trained.
"""

import shlex
from contextlib import nullcontext
from itertools import combinations, product

import pytest

from helpers.commands import parsed
from reproduce.cli import main, proposals, run_command
from reproduce.cli.options import COMMANDS, WITHOUT_EFFECT
from reproduce.errors import UserError
from reproduce.results import verdicts
from reproduce.study import planning, rate_checks
from reproduce.study.config import StudyConfig, command_line, option_words, seed_spans
from reproduce.study.departures import list_departures, main_trains
from reproduce.study.fields import OPTIMIZERS
from reproduce.study.schedules import SCHEDULERS
from reproduce.tracking.reader import RecordedProposal

TRAINING = ("main", "range_test", "sweep", "grid")
# One value each that is not the default; the train size is one that OneCycle rises in, with two epochs.
VALUES = {
    "dataset": "fashion-mnist", "optimizer": "sgd", "batch_size": "64", "seeds": "0,3-5", "train_size": "640",
    "engine": "torch", "epochs": "2", "protocol": "as-written", "learning_rates": "1e-3,3e-3", "decay_steps": "4",
    "milestones": "3,7", "gamma": "0.5", "pct_start": "0.4", "div_factor": "10", "final_div_factor": "100",
    "range_test_epochs": "3", "lr_start": "1e-5", "lr_end": "10", "validation_size": "64", "validation_interval": "5",
    "stop_factor": "4", "smoothing": "0.9",
}  # fmt: skip
COMMON = ("dataset", "optimizer", "batch_size", "seeds", "train_size", "engine", "epochs")
RAMP = ("lr_start", "lr_end", "validation_size", "validation_interval", "stop_factor", "smoothing")
PARAMETERS = ("decay_steps", "milestones", "gamma", "pct_start", "div_factor", "final_div_factor")


def words(*names, **own):
    """The options of these names, each with its value, and further ones."""
    given = {name: VALUES[name] for name in names} | own
    return [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]


def subsets(names):
    """Every choice among the names."""
    return [chosen for size in range(len(names) + 1) for chosen in combinations(names, size)]


def pairs(names):
    """None of the names, each, each two, and all."""
    return [chosen for chosen in subsets(names) if len(chosen) in (0, 1, 2, len(names))]


def studies():
    """A command and its options: each schedule with all choices of parameters, and all else by pairs."""
    for number, (scheduler, names) in enumerate(product((*SCHEDULERS, "all"), subsets(PARAMETERS))):
        common = ("learning_rates", "seeds", "train_size", "epochs") * (number % 2)
        yield "sweep", words(*common, *names, scheduler=scheduler)
    for names in pairs((*COMMON, "protocol")):
        yield "sweep", words(*names)
        yield "sweep", words(*names, scheduler="step", learning_rates="proposed")
    for optimizer, scheduler in product(OPTIMIZERS, SCHEDULERS):
        yield "sweep", words(optimizer=optimizer, scheduler=scheduler, learning_rates="proposed")
    for names in pairs(COMMON):
        yield "range_test", words(*names)
        yield "grid", words(*names)
        yield "main", words(*names, "protocol", "range_test_epochs")
    for names in pairs((*RAMP, "epochs")):
        yield "range_test", words(*names)
        yield "grid", words(*names, "learning_rates")
        yield "grid", words(*names, "range_test_epochs", "train_size")
    yield from (
        ("range_test", words(train_size="256", epochs="1")),  # too short for OneCycle
        ("grid", words(train_size="256", epochs="1", range_test_epochs="1")),
        ("sweep", words(train_size="256", epochs="1", scheduler="none")),
        ("grid", words(learning_rates="1e-38,1e-37")),  # OneCycle would start below what is trained at
        ("sweep", words(scheduler="none", learning_rates="0.0010000001,1e-3")),
    )


class Trained:
    """A store that knows which trials are finished, and what every range test proposes."""

    shown_uri = source = "a store"

    def __init__(self, trials=()):
        self.finished = {trial.config_hash: trial for trial in trials}
        self.reader = self.heartbeat = self

    def finished_runs(self):
        return self.finished

    def seeds(self):
        return tuple(sorted({trial.seed for trial in self.finished.values()}))

    def newest_proposal(self, test):
        return RecordedProposal("a run", 1.23e-3 * (test.seed + 1))

    def end_stale_runs(self):
        pass

    def check_artifacts(self):
        pass


@pytest.fixture
def commands(monkeypatch, tmp_path, paper):
    """Runs a command from its words to what it would train or look for, on a store where these trials are finished."""
    monkeypatch.chdir(tmp_path)
    seen = {}
    monkeypatch.setattr(run_command, "run", lambda request, plan, *_: seen.update(request=request, plan=plan))
    monkeypatch.setattr(run_command, "open_store", lambda name: seen["store"])
    monkeypatch.setattr("reproduce.tracking.parent_run.open_parent_run", lambda *_: nullcontext("a parent"))
    monkeypatch.setattr(run_command, "say_where_to_compare", lambda *_: None)
    monkeypatch.setattr(main, "_write_report", lambda store, parent_id, found, options: seen.update(found=found))
    monkeypatch.setattr(verdicts, "judge_all", lambda *_, about: seen.update(about=about) or [])
    monkeypatch.setattr(verdicts, "seeds_studied", lambda collection, every: every)

    def command(name, options, finished=()):
        seen["store"] = Trained(finished)
        main.cli.commands[name].main(list(options), standalone_mode=False)
        if name not in TRAINING:
            return seen["about"] if name == "verify" else seen["found"]
        request, plan = seen["request"], seen["plan"]
        config = proposals.with_proposed_rates(seen["store"], paper, request.config)
        engine = "fused" if request.options.engine == "auto" else request.options.engine
        planned = plan(config.model_copy(update={"engine": engine}))
        rate_checks.check_rates(config, planned)
        return planned

    return command


def on_the_page(found):
    """Which of the trials that a report looks for there are, the grid's included; and all that it names."""
    wanted = planning.range_tests(found.paper, found.config) + planning.trials(found.paper, found.config)
    return {trial for trial in wanted + planning.grid_trials(found.paper, found.config) if found.has(trial)}, wanted


def advised(name, found):
    """The options of the command that the page of these runs gives."""
    program, command, *options = shlex.split(command_line(name, found.paper, found.config, found.smoothing))
    assert (program, command) == ("reproduce", name)
    return options


def test_whatever_a_command_was_given_report_and_verify_take_and_find_its_trials(commands, capsys, paper):
    tried = 0
    for name, options in studies():
        try:
            trained = commands(name, options)
        except UserError:
            continue  # what a command refuses nobody follows
        tried += 1
        found = commands("report", options, trained)
        there, wanted = on_the_page(found)
        assert there == set(trained), (name, options)
        if name == "sweep":
            assert [trial for trial in wanted if not trial.is_range_test] == trained, (name, options)
        if name == "main" or (name == "grid" and list_departures(paper, found.config)):
            assert set(wanted) == set(trained), (name, options)
        # The page's own command gives the same page, and that for training it, where there is one, trains just that.
        again = commands("report", advised("report", found), trained)
        assert on_the_page(again) == (there, wanted), (name, options)
        assert again.smoothing == found.smoothing
        if main_trains(paper, found.config, found.smoothing):
            whole = commands("main", advised("main", found))
            assert {trial.model_copy(update={"engine": found.config.engine}) for trial in whole} == set(wanted)
        about = commands("verify", options, trained)
        own = not option_words(paper, found.config.model_copy(update={"seeds": None}))
        assert about is None if own and "proposed" not in options else about >= set(trained), (name, options)
    assert tried == 347  # the others are refused, as --gamma without a schedule that has one


def test_as_many_seeds_as_a_range_test_may_have_are_reported_on_though_no_sweep_has_them(paper):
    many = StudyConfig(seeds=tuple(range(1000)))
    with pytest.raises(UserError, match="make 3000 trials of every schedule, in all more than 10000"):
        planning.requested_trials(paper, many)
    planning.refuse_what_never_ran(paper, many)
    with pytest.raises(UserError, match="make 11000 trials of every schedule"):
        planning.refuse_what_never_ran(paper, planning.grid_config(paper, many))


def test_every_option_of_a_command_that_trains_is_one_of_those_that_follow():
    for follower in ("report", "verify"):
        taken = {option.name for option in main.cli.commands[follower].params}
        for name in TRAINING:
            assert {option.name for option in main.cli.commands[name].params} <= taken
        hidden = {option.name for option in main.cli.commands[follower].params if option.hidden}
        assert hidden == {*WITHOUT_EFFECT[follower]}
        assert hidden.isdisjoint(COMMANDS[follower])


def test_what_only_trains_is_taken_and_told_to_have_no_effect(commands, capsys):
    commands("report", ["--jobs", "2", "--force", "true"])
    commands("verify", ["--device", "cpu"])
    assert capsys.readouterr().err.splitlines() == [
        "--jobs, --force have no effect on report, which trains nothing",
        "--device has no effect on verify, which trains nothing",
    ]


def test_every_command_that_a_verdict_advises_is_one_and_trains(commands, paper):
    for claim, seeds in product(paper.claims, ("0,1,2", "0-9")):
        for advised in verdicts.commands(claim.measure, seeds, paper):
            program, name, *options = shlex.split(advised)
            assert program == "reproduce"
            assert commands(name, options)


def test_the_range_test_that_proposed_rates_want_is_one_command_away(commands, paper):
    for names in subsets(COMMON):
        options = words(*names, learning_rates="proposed")
        wanted = commands("sweep", options)
        config = parsed("sweep", options)
        program, name, *advised = shlex.split(proposals.range_test_command(paper, config))
        assert (program, name) == ("reproduce", "range_test")
        tests = commands(name, advised)
        keys = ("dataset", "train_size", "optimizer", "batch_size", "seed")
        assert {tuple(getattr(trial, key) for key in keys) for trial in tests} == {
            tuple(getattr(trial, key) for key in keys) for trial in wanted
        }


def test_the_seeds_of_an_advised_command_are_spans():
    assert seed_spans((0, 1, 2, 3, 4)) == "0-4"
    assert seed_spans((0, 1, 7, 2**32 - 3, 2**32 - 2, 2**32 - 1)) == "0,1,7,4294967293-4294967295"
    assert seed_spans((2, 1, 0)) == "2,1,0"


def test_a_page_of_too_many_seeds_names_no_command_that_would_be_refused(paper):
    assert main_trains(paper, StudyConfig(seeds=tuple(range(600))), 0.98)
    assert not main_trains(paper, StudyConfig(seeds=tuple(range(700))), 0.98)


def test_verify_judges_only_what_its_options_choose(commands, paper, capsys):
    chosen = commands("verify", ["--scheduler", "step", "--seeds", "paper"])
    assert {(trial.schedule.name, trial.seed) for trial in chosen} == {("step", 0)}
    assert commands("verify", ["--seeds", "0-2"]) is None
    assert capsys.readouterr().out.splitlines()[0] == (
        "none of the paper's 42 statements depends on a run with --scheduler step: "
        "reproduce verify without options judges all statements"
    )
    commands("verify", ["--scheduler", "none", "--learning-rates", "proposed"])
    assert "depends on a run with --scheduler none --learning-rates proposed: " in capsys.readouterr().out
