import subprocess
import sys

import pytest

from helpers.commands import typed
from reproduce.cli import main
from reproduce.errors import nearest
from reproduce.study.trial import format_rate

PAPER_OR = "or the word paper"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sweeep"],
            "there is no command 'sweeep', expected one of main, range_test, sweep, grid, report, verify, data, "
            "studies, new-study, check-study, ui",
        ),
        (["sweep", "--scheduler", "multistp"], "did you mean multistep?"),
        (["sweep", "--x", "1"], "No such option '--x'."),
        (["range_test", "--gamma", "0.1"], "No such option '--gamma'."),
        (["sweep", "--epochs", "0"], f"'--epochs': got '0', expected a whole number from 1 to 10000, {PAPER_OR}"),
        (["sweep", "--epochs", "1.5"], f"'--epochs': got '1.5', expected a whole number from 1 to 10000, {PAPER_OR}"),
        (
            ["sweep", "--learning-rates", "1e-3,nan"],
            "got '1e-3,nan', expected numbers from 1e-38 to 1e+38 separated by commas",
        ),
        (["sweep", "--learning-rates", "inf"], "got 'inf'"),
        (["sweep", "--learning-rates", ""], "got ''"),
        (["sweep", "--learning-rates", "-1"], "got '-1'"),
        (["sweep", "--learning-rates", "0"], "got '0'"),
        (["sweep", "--learning-rates", "1e-3,0.001"], "--learning-rates: 1e-3 is given twice"),
        (["sweep", "--seeds", "4-2"], "got '4-2', in which the range 4-2 runs backwards; expected at most 1000"),
        (["sweep", "--seeds", "4294967296"], "got '4294967296'"),
        (
            ["sweep", "--milestones", "5,3", "--scheduler", "multistep"],
            "--milestones: got (5, 3), milestones must rise, each one once",
        ),
        (["sweep", "--train-size", "60001"], "--train-size': got '60001', expected a whole number from 1 to 60000"),
        (["range_test", "--smoothing", "1"], "got '1', expected a number from 0 to below 1"),
        (["range_test", "--lr-start", "1", "--lr-end", "0.1"], "--lr-end 0.1 must be above --lr-start 1"),
        (["report", "--protocol", "as-run"], "expected one of as-drawn, as-written"),
        (["main", "--optimizer", "adm"], "did you mean adam?"),
        (["sweep", "--optimizer", "hybridadam", "--device", "cpu"], "optimizer hybridadam needs a CUDA device"),
        (
            ["sweep", "--data-dir", "/nowhere/at/all", "--device", "cpu"],
            "got '/nowhere/at/all', but it is not there; expected a directory, or a zip or tar, that exists, or the "
            "word none",
        ),
        (["sweep", "--force", "perhaps"], "'--force': got 'perhaps', expected true or false"),
    ],
)
def test_what_a_user_gets_wrong_ends_in_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed = typed(monkeypatch, capsys, *arguments)
    assert code == 2
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0,1,2", (0, 1, 2)), ("0-4", (0, 1, 2, 3, 4)), ("7,1-2", (7, 1, 2))]
)
def test_seeds_are_a_list_or_a_span(text, seeds):
    from reproduce.cli.option_types import SEEDS

    assert SEEDS.convert(text, None, None) == seeds


def test_the_word_paper_is_no_wish():
    from reproduce.cli.option_types import IMAGES, JOBS, RATES

    assert [kind.convert("paper", None, None) for kind in (IMAGES, RATES)] == [None, None]
    assert JOBS.convert("auto", None, None) is None
    assert RATES.convert("1e-3, 3e-4", None, None) == (1e-3, 3e-4)


def test_a_wrong_tracking_uri_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    code, printed = typed(monkeypatch, capsys, "report")
    assert (code, printed.count("\n")) == (2, 1)
    assert printed.startswith("error: MLFLOW_TRACKING_URI is 'nonsense://x', whose kind MLflow does not know, expected")


def test_help_and_errors_load_neither_torch_nor_mlflow():
    probe = (
        "import sys; from reproduce.cli.main import cli; cli.main(['sweep', '--help'], standalone_mode=False);"
        "sys.exit(bool({'torch', 'mlflow', 'matplotlib', 'colossalai', 'ray'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", probe], stdout=subprocess.DEVNULL).returncode == 0


def test_a_failed_trial_ends_with_exit_code_1_and_its_name(monkeypatch, capsys, tmp_path, store):
    from reproduce.training import loop

    def fail(*arguments):
        raise RuntimeError("no room left")

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.setenv("REPRODUCE_HOME", str(store.home))
    code, printed = typed(
        monkeypatch,
        capsys,
        "sweep",
        "--scheduler",
        "none",
        "--learning-rates",
        "1e-3",
        "--jobs",
        "1",
        "--device",
        "cpu",
    )
    assert code == 1
    after = "what is done is recorded; the same command tries the failed trials again"
    assert printed.splitlines()[-1] == f"error: 1 of 1 trials failed: none 1e-3 seed 0: {after}"


def test_the_help_tells_the_papers_values(paper):
    drawn, written = paper.schedules["as-drawn"], paper.schedules["as-written"]
    protocol, ramp, of_onecycle = paper.protocol, paper.range_test, drawn["onecycle"]

    def listed(values):
        return ",".join(map(format_rate if isinstance(values[0], float) else str, values))

    expected = {
        "epochs": f"trains models for {protocol.epochs} and the range test for {ramp.epochs}.",
        "batch_size": f"The paper uses {protocol.batch_size}.",
        "seeds": f"by default {listed(protocol.seeds)}. ",
        "train_size": f"The paper trains on all {protocol.train_size:,}.",
        "learning_rates": f"The paper uses {listed(paper.sweep('step').learning_rates)}, and without a schedule "
                          f"{listed(paper.sweep('none').learning_rates)}",
        "decay_steps": f"{drawn['step']['decay_steps']} and {drawn['exponential']['decay_steps']} as drawn, "
                       f"{written['step']['decay_steps']} and {written['exponential']['decay_steps']} as written",
        "milestones": f"{listed(drawn['multistep']['milestones'])} as drawn, "
                      f"{listed(written['multistep']['milestones'])} as written",
        "gamma": f"The paper uses {drawn['step']['gamma']}.",
        "pct_start": f"by default {of_onecycle['pct_start']}, as in PyTorch",
        "div_factor": f"by default max_lr / {of_onecycle['div_factor']:g}, as in PyTorch",
        "final_div_factor": f"by default the first rate / {of_onecycle['final_div_factor']:g}, as in PyTorch",
        "range_test_epochs": f"The paper uses {ramp.epochs}.",
        "lr_start": f"The paper uses {format_rate(ramp.lr_start)}.",
        "lr_end": f"The paper uses {ramp.lr_end:g}.",
        "smoothing": f"By default {ramp.smoothing}, because the paper gives none.",
    }  # fmt: skip
    options = {option.name: option for option in main.cli.commands["report"].params}
    unsaid = {"validation_interval", "dataset", "optimizer", "protocol"}
    assert {name for name, option in options.items() if option.default == "paper"} - expected.keys() == unsaid
    for name, words in expected.items():
        assert words in options[name].help
    for of_protocol in (drawn, written):
        assert {of_protocol[name]["gamma"] for name in ("step", "multistep", "exponential")} == {drawn["step"]["gamma"]}
        assert of_protocol["onecycle"] == of_onecycle


@pytest.mark.parametrize(
    ("typed", "suggestion"), [("cosine", ""), ("onecyle", ", did you mean onecycle?"), ("non", ", did you mean none?")]
)
def test_only_a_word_that_is_near_is_suggested(typed, suggestion):
    assert nearest(typed, ["none", "step", "multistep", "onecycle", "exponential"]) == suggestion
