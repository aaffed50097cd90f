import subprocess
import sys

import pytest

from helpers.commands import typed
from reproduce.cli import main, study_values
from reproduce.cli.options import OPTION
from reproduce.errors import nearest

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


def test_the_help_tells_the_values_of_the_study_that_is_chosen(paper, monkeypatch, capsys):
    drawn, protocol = paper.schedules["as-drawn"], paper.protocol
    expected = {
        "dataset": protocol.dataset, "optimizer": protocol.optimizer, "epochs": "30", "batch_size": "128", "seeds": "0",
        "train_size": "60000", "protocol": "as-drawn",
        "learning_rates": "none 0.06,6e-5,6e-6; step 0.6,6e-4,6e-6; multistep 0.6,6e-4,6e-6; onecycle 0.6,6e-4,6e-6; "
                          "exponential 0.6,6e-4,6e-6",
        "decay_steps": "as-drawn step 4500, exponential 4690; as-written step 2345, exponential 4690",
        "milestones": "as-drawn multistep 2500,7500,10000; as-written multistep 2345,7035,9380",
        "gamma": "0.1", "pct_start": "0.3", "div_factor": "25.0", "final_div_factor": "10000.0",
        "range_test_epochs": "5", "lr_start": "1e-6", "lr_end": "1", "smoothing": "0.98",
    }  # fmt: skip
    assert study_values.values(paper) == expected
    assert str(drawn["step"]["decay_steps"]) in expected["decay_steps"]
    of_study = {name for name, option in OPTION.items() if option.default == "paper"}
    assert of_study - expected.keys() == {"grid_rates", "validation_interval"}

    def shown(*words):
        monkeypatch.setattr("sys.argv", ["reproduce", *words, "--help"])
        with pytest.raises(SystemExit):
            main.main()
        return " ".join(capsys.readouterr().out.split())

    assert "Images per step. [default: paper: 128]" in shown("sweep")
    assert "[default: paper: 30]" in shown("sweep")
    assert "[default: paper: 5]" in shown("range_test")
    assert "Images per step. [default: paper: 32]" in shown("--study", "digits", "sweep")
    monkeypatch.setenv("REPRODUCE_STUDY", "no_such")
    assert "Images per step. [default: paper]" in shown("sweep")


@pytest.mark.parametrize(
    ("typed", "suggestion"), [("cosine", ""), ("onecyle", ", did you mean onecycle?"), ("non", ", did you mean none?")]
)
def test_only_a_word_that_is_near_is_suggested(typed, suggestion):
    assert nearest(typed, ["none", "step", "multistep", "onecycle", "exponential"]) == suggestion
