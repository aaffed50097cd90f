"""What a user types, sets or points at that cannot be: one line that names it, before any work."""

import click
import pytest

from helpers.commands import one_line, typed
from helpers.small import small_config
from reproduce.cli import main, option_types, proposals, run_command
from reproduce.cli.options import COMMANDS
from reproduce.errors import UserError
from reproduce.execution import local
from reproduce.study import planning, rate_checks

# Of a command's options: all but --help, which is click's.
EVERY_OPTION = [
    (command, option)
    for command in main.cli.commands
    for option in main.cli.commands[command].params
    if isinstance(option, click.Option)
]
ANY_KIND = ["", " ", "\udcff\udcfe", "a\0b"]
LONG = "x" * 100_000
NO_NUMBERS = [
    "-1",
    "-0.0",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "0x10",
    "٣",
    "³",
    "½",
    "true",
    "None",
    "1;2",
    ",",
    LONG,
]
NO_COUNTS = [*NO_NUMBERS, "0", "-0", "+1", "1.0", "1.5", "1e3", "1" * 400, "9" * 5000, "1,2", "10" * 6]
NO_RATES = [*NO_NUMBERS, "0", "0.0", "1e-39", "1e39", "1" * 400, "e5", ".", "1e", "0x1p-3", "1 000"]
BEYOND_RATES = ["1e-3,,2e-3", ",1e-3", "1e-3,", "1e-3 2e-3", "1e-3;2e-3", "propose", ",".join(["1e-3"] * 1001)]
NO_SEEDS = ["-1", ",", LONG, "0-", "-", "0--1", "1.5", "1e3", "٣", "4294967296", "1" * 400, "0,,1", "3-1", "0-99999999",
            "0-1000", "0-999,1000", ",".join(["1"] * 1001)]  # fmt: skip
BAD = {
    option_types.EPOCHS: [*NO_COUNTS, "10001"],
    option_types.IMAGES: [*NO_COUNTS, "60001"],
    option_types.HELD_OUT: [*NO_COUNTS, "60000", "paper"],
    option_types.INTERVAL: [*NO_COUNTS, "600000001"],
    option_types.JOBS: [*NO_COUNTS, "1001", "paper"],
    option_types.PORT: [*NO_COUNTS, "65536", "paper"],
    option_types.RATE: NO_RATES,
    option_types.RATES: [*NO_RATES, *BEYOND_RATES, "proposed"],
    option_types.OWN_RATES: [*NO_RATES, *BEYOND_RATES],
    option_types.FRACTION: [*NO_NUMBERS, "0", "1", "1.5", "1e-400"],
    option_types.SMOOTHING: [*NO_NUMBERS[:1], *NO_NUMBERS[2:], "1", "0.98,0.9"],
    option_types.FACTOR: [*NO_RATES, "1", "0.5", "paper"],
    option_types.STEPS: [
        *(text for text in NO_COUNTS if text != "1,2"), "1,,2", "600000001", ",".join(["1"] * 1001),
    ],
    option_types.RAY_ADDRESS: ["10.0.0.1", "10.0.0.1:", ":6379", "10.0.0.1:0", "10.0.0.1:99999",
                               "me@10.0.0.1:6379", "a b:1",
                          "10.0.0.1:6379/x", "ray://10.0.0.1:10001", "http://10.0.0.1:8265", "paper", ",", LONG],
    option_types.PART_OF_GPU: [*NO_NUMBERS, "0", "1.5", "2", "paper"],
    option_types.SEEDS: NO_SEEDS,
    option_types.EVERY_SEED: NO_SEEDS,
    option_types.DATA_DIR: ["nowhere", "/dev/null", "/etc/passwd", "paper", ",", LONG],
    option_types.PLACE: ["/dev/null", "/etc/passwd", LONG],
    option_types.HOST: ["two\nlines", "two words"],
    option_types.STUDY: ["nowhere", ",", "lenet5", "~nobody/x", "/", LONG],
    option_types.VARIANT: ["two words", ",", "As-Drawn", "-", "x" * 41],
}  # fmt: skip
BAD_NAMES = [LONG, ",", "nothing", "ALL", "mnist,mnist", "1", "auto ", "Torch"]
BAD_SWITCHES = [LONG, ",", "yes", "1", "TRUE", "perhaps"]
BAD_ADDRESSES = ["localhost:5000", "ftp://x", "http://", "http://:5000", "http://[x", "http://x:0", "http://x:99999",
                 "javascript:1", "http://x/\"onload", "http://x y", "paper", ",", LONG]  # fmt: skip


def bad_values(option):
    """What an option of that type cannot be. KeyError for a type that nobody has thought about here."""
    if isinstance(option.type, option_types.Named):
        return BAD_NAMES
    if option.type is option_types.SWITCH:
        return BAD_SWITCHES
    if option.name == "ui_url":
        return BAD_ADDRESSES
    return BAD[option.type]


@pytest.mark.parametrize(
    ("command", "option"), EVERY_OPTION, ids=[f"{command} {option.opts[0]}" for command, option in EVERY_OPTION]
)
def test_every_option_names_itself_what_it_got_and_what_it_expected(monkeypatch, capsys, tmp_path, command, option):
    monkeypatch.chdir(tmp_path)
    for worker in ("run", "open_store"):  # what is let through by mistake does no work
        monkeypatch.setattr(run_command, worker, None)
    for value in (*ANY_KIND, *bad_values(option)):
        code, printed = typed(monkeypatch, capsys, command, option.opts[0], value)
        assert code == 2, value[:100]
        line = one_line(printed)
        assert line.startswith(f"error: Invalid value for '{option.opts[0]}': got "), line
        assert "expected " in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "value", "said"),
    [
        (
            "check-study",
            "nowhere",
            "'STUDY': got 'nowhere', which is not there; expected a folder with a study.yaml, or ",
        ),
        (
            "check-study",
            "",
            "'STUDY': got '', a folder that has no study.yaml; expected a folder with a study.yaml, or ",
        ),
        ("new-study", "", "'FOLDER': got '', expected a directory, existing or new"),
        ("new-study", "/dev/null", "'FOLDER': got '/dev/null', which is a file; expected a directory, existing or new"),
    ],
)
def test_the_argument_of_a_command_names_itself(monkeypatch, capsys, tmp_path, command, value, said):
    monkeypatch.chdir(tmp_path)
    code, printed = typed(monkeypatch, capsys, command, value)
    assert code == 2
    assert one_line(printed).startswith(f"error: Invalid value for {said}")


def test_every_parameter_of_mlproject_is_among_them():
    tried = {(command, option.name) for command, option in EVERY_OPTION}
    named = {"every_seed": "seeds", "grid_rates": "learning_rates"}
    assert {(command, named.get(name, name)) for command in COMMANDS for name in COMMANDS[command]} <= tried


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["sweep", "--epochs", "1000000000000"],
            "Invalid value for '--epochs': got '1000000000000', expected a whole number from 1 to 10000, "
            "or the word paper",
        ),
        (
            ["sweep", "--seeds", "3-1"],
            "Invalid value for '--seeds': got '3-1', in which the range 3-1 runs backwards; "
            "expected at most 1000 whole numbers from 0 to 4294967295, such as 0,1,2 or 0-4, or the word paper",
        ),
        (
            ["sweep", "--seeds", "0-99999999"],
            "Invalid value for '--seeds': got '0-99999999', which has more than 1000 seeds; "
            "expected at most 1000 whole numbers from 0 to 4294967295, such as 0,1,2 or 0-4, or the word paper",
        ),
        (["sweep", "--learning-rate", "1e-3"], "No such option '--learning-rate'. Did you mean '--learning-rates'?"),
        (["sweep", "--learning_rate", "1e-3"], "No such option '--learning-rate'. Did you mean '--learning-rates'?"),
        (["range-test"], "there is no command 'range-test', expected one of main, range_test, sweep, grid, report, "
                         "verify, data, studies, new-study, check-study, ui, did you mean range_test?"),
        (["sweep", "--scheduler", "multistep", "--milestones", "5,3"],
         "--milestones: got (5, 3), milestones must rise, each one once"),
        (["sweep", "--learning-rates", "0.1,1e-1"], "--learning-rates: 0.1 is given twice; give each value once"),
        (["sweep", "--seeds", "4294967295,4294967295"], "--seeds: 4294967295 is given twice; give each value once"),
        (["sweep", "--batch-size", "641", "--train-size", "640"],
         "--batch-size 641 is more than the 640 training images"),
        (["range_test", "--validation-size", "640", "--train-size", "640"],
         "--validation-size 640 leaves none of the 640 training images"),
        (["range_test", "--lr-start", "1", "--lr-end", "1"], "--lr-end 1 must be above --lr-start 1"),
        (["range_test", "--validation-interval", "5"],
         "--validation-interval has no effect without --validation-size: give both, or neither"),
        (["sweep", "--scheduler", "onecycle", "--epochs", "1", "--train-size", "128"],
         "onecycle rises over --pct-start 0.3 of 1 steps, which must be more than one step: train for longer, "
         "or raise --pct-start"),
        (["sweep", "--scheduler", "none", "--gamma", "0.5"], "--gamma has no effect on scheduler none: leave it out"),
        (
            ["sweep", "--seeds", "0-999", "--learning-rates", ",".join(f"{n}e-4" for n in range(1, 12))],
            "--seeds and --learning-rates make 11000 trials of every schedule, in all more than 10000: "
            "give fewer seeds or rates",
        ),
    ],
)  # fmt: skip
def test_a_message_says_what_was_typed_and_what_would_do(monkeypatch, capsys, tmp_path, arguments, line):
    monkeypatch.chdir(tmp_path)
    code, printed = typed(monkeypatch, capsys, *arguments)
    assert (code, printed) == (2, f"error: {line}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 100_000, "\udcff", "\x1b[2J", "two\nlines", ""])
def test_what_is_no_command_and_no_option_is_told_in_one_line(monkeypatch, capsys, name):
    for arguments in ([name], ["sweep", f"--{name}x"], ["sweep", name]):
        code, printed = typed(monkeypatch, capsys, *arguments)
        assert code == 2
        one_line(printed)


def test_what_comes_after_the_end_is_told_once_and_only_if_it_was_asked_for(paper):
    def told(plan, **config):
        asked = small_config(**config)  # 2 epochs of 5 steps
        return rate_checks.list_without_effect(asked, plan(paper, asked))

    assert told(planning.trials, schedulers=("multistep",), schedule_parameters={"milestones": (3, 9, 10, 4000)}) == [
        "--milestones 10,4000 comes after the last step, 9, and has no effect"
    ]
    assert told(planning.trials, schedulers=("multistep",), schedule_parameters={"milestones": (3, 9)}) == []
    assert told(planning.trials, schedulers=("step", "exponential"), schedule_parameters={"decay_steps": 10}) == [
        "--decay-steps 10 comes after the last step, 9, and has no effect"
    ]
    assert told(planning.trials, schedulers=("step",), schedule_parameters={"decay_steps": 9}) == []
    assert told(planning.range_tests, validation_size=64, validation_interval=10) == [
        "--validation-interval 10 comes after the last step, 9, and has no effect"
    ]
    assert told(planning.trials) == []  # the paper's own milestones come after the end of so short a run, unasked


def test_more_jobs_than_cores_are_taken_and_told(monkeypatch, capsys):
    monkeypatch.setattr("reproduce.training.provenance.cores", lambda: 2)
    assert [local.jobs_at_once(wanted) for wanted in (None, 2)] == [2, 2]
    assert capsys.readouterr().err == ""
    assert local.jobs_at_once(3) == 3
    assert capsys.readouterr().err == ("--jobs 3: there are 2 cores, which the trials share\n")


def test_without_a_range_test_to_propose_rates_the_command_for_it_is_given(store, paper):
    config = small_config(optimizer="sgd", seeds=(3, 5), batch_size=64, engine="torch", proposed_rates=True)
    with pytest.raises(UserError) as refused:
        proposals.with_proposed_rates(store, paper, config)
    assert str(refused.value) == (
        "--learning-rates proposed needs what a range test with sgd, mnist, 640 images, batches of 64 and seed 3 "
        "proposes, and there is no such range test: "
        "run reproduce range_test --optimizer sgd --batch-size 64 --seeds 3,5 --train-size 640 first"
    )


def test_the_bounds_admit_what_the_paper_and_its_readers_want():
    with click.Context(main.cli.commands["sweep"]) as context:
        main.cli.commands["sweep"].parse_args(
            context,
            ["--epochs", "10000", "--train-size", "60000", "--batch-size", "1", "--seeds", "0-998,4294967295",
             "--learning-rates", "1e-38,1E+38, .5,1.", "--milestones", "1,600000000", "--jobs", "1000"],
        )  # fmt: skip
        assert context.params["seeds"] == (*range(999), 4294967295)
        assert context.params["learning_rates"] == (1e-38, 1e38, 0.5, 1.0)
        assert (context.params["epochs"], context.params["milestones"]) == (10_000, (1, 600_000_000))
