"""A study from Python: docs/notebook.md is executed, its frames are what the store has, and wrong words are refused."""

import re

import mlflow
import pandas as pd
import pytest

from helpers import ROOT
from helpers.commands import typed
from helpers.own_study import write_parts
from reproduce.errors import TrialsFailedError, UserError
from reproduce.notebook import Study

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(), re.DOTALL)


def test_the_page_is_executed_and_its_frames_are_what_was_recorded(empty_place):
    names = {}
    for block in BLOCKS:
        exec(block.replace('study.run("sweep", ', 'study.run("sweep", device="cpu", jobs=1, '), names)
    models, curves, verdicts = names["models"], names["curves"], names["verdicts"]
    assert list(zip(models["learning_rate"], models["seed"], models["outcome"], strict=True)) == [
        (rate, seed, "finished") for rate in (0.03, 0.0003) for seed in (0, 1, 2)
    ]
    mlflow.set_tracking_uri(None)
    recorded = {run.info.run_id: run.data.metrics for run in
                mlflow.search_runs(search_all_experiments=True, output_format="list")}  # fmt: skip
    for row in models.itertuples():
        assert row.test_accuracy == recorded[row.run_id]["test_accuracy"]
    assert curves["epoch"].tolist() == [*range(1, 11)] * 6
    pd.testing.assert_series_equal(
        curves[curves["epoch"] == 10]["test_accuracy"], models["test_accuracy"], check_index=False
    )
    assert [(found.claim.id, found.verdict) for found in verdicts] == [("A", "reproduced"), ("B", "not reproduced")]
    assert repr(verdicts) == "A: reproduced\nB: not reproduced"
    assert verdicts.frame().loc["A", "says"] == "0.03 ends above 0.0003"


def test_what_a_frame_shows_of_a_claim_is_no_markup(empty_place):
    folder = write_parts(empty_place / "parts")
    text = (folder / "study.yaml").read_text()
    (folder / "study.yaml").write_text(text.replace("the mean of the accuracies", "<script>alert(1)</script>"))
    study = Study(str(folder))
    study.run("sweep", seeds=0, device="cpu", jobs=1)
    shown = study.verdicts()._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; is above 0.1" in shown
    assert "<script" not in shown


def test_range_tests_and_models_that_were_not_run(empty_place, monkeypatch, capsys):
    typed(monkeypatch, capsys, "range_test", "--study", "digits", "--seeds", "1", "--device", "cpu", "--jobs", "1")
    study = Study("digits")
    found = study.range_tests(seeds=[1])
    assert found.columns.tolist() == ["seed", "step", "learning_rate", "loss", "smoothed_loss"]
    assert found["step"].tolist() == list(range(len(found)))
    assert found["learning_rate"].iloc[0] == pytest.approx(1e-4)
    assert set(study.trials(seeds=[1])["outcome"]) == {"missing"}
    assert study.curves(seeds=[1]).empty


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Study("no_such"), "the study is 'no_such', which is not there"),
        (lambda: Study("digits").run("swep"), "there is no command 'swep', expected one of main, range_test"),
        (lambda: Study("digits").run("sweep", epochs=0), "Invalid value for '--epochs': got '0'"),
        (lambda: Study("digits").run("sweep", epoch=1), "No such option '--epoch'"),
        (lambda: Study("digits").trials(scheduler="cosine"), "Invalid value for '--scheduler': got 'cosine'"),
    ],
)
def test_a_wrong_word_is_a_user_error_before_anything_is_trained(empty_place, call, said):
    with pytest.raises(UserError) as refused:
        call()
    assert said in str(refused.value)
    assert not (empty_place / "mlflow.db").exists()


def test_a_trial_that_fails_is_raised(empty_place):
    folder = write_parts(
        empty_place / "parts", losses="from torch.nn.functional import cross_entropy\n\ncalls = []\n\n\n"
        "def doubled(logits, labels):\n    calls.append(1)\n    return cross_entropy(logits, labels) if len(calls) < 9 "
        "else 1 / 0\n",
    )  # fmt: skip
    with pytest.raises(TrialsFailedError, match=r"1 of 1 trials failed: sgd cooled 0\.2 seed 0"):
        Study(str(folder)).run("sweep", seeds=0, device="cpu", jobs=1)
