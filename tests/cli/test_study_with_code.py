"""A study with Python of its own by the commands: trained, judged by its own measure, kept with its report."""

import json

import mlflow
import numpy as np
import pytest

from helpers.commands import typed
from helpers.own_study import OWN_FILES, write_parts

HERE = ("--device", "cpu", "--jobs", "1")


@pytest.fixture
def place(empty_place):
    """A directory with a study that has its own Python, and an empty store."""
    write_parts(empty_place / "parts")
    return empty_place


def runs(kind="trial"):
    mlflow.set_tracking_uri(None)
    found = mlflow.search_runs(search_all_experiments=True, output_format="list", filter_string=f"tags.kind = '{kind}'")
    return {run.data.tags["mlflow.runName"].partition(",")[0]: run for run in found}


def test_a_study_with_its_own_python_is_trained_judged_and_kept_with_its_report(place, monkeypatch, capsys):
    code, said = typed(monkeypatch, capsys, "main", "--study", "parts", *HERE, "--output", "out")
    assert (code, said.count(": trained, ")) == (0, 3)
    run = runs()["sgd cooled 0.2 seed 0"]
    shown = ("network", "loss", "schedule", "optimizer_momentum", "image_mean")
    assert {key: run.data.params[key] for key in shown} == {
        "network": "network.py:Net(hidden=16)", "loss": "losses.py:doubled()",
        "schedule": "schedules.py:cooled(factor=0.5)", "optimizer_momentum": "0.5", "image_mean": "image",
    }  # fmt: skip
    (claim,) = json.loads((place / "out" / "claims.json").read_text())["claims"]
    accuracies = [
        [metric.value for metric in mlflow.MlflowClient().get_metric_history(found.info.run_id, "test_accuracy")]
        for _, found in sorted(runs().items())
    ]
    assert list(claim["values"].values()) == pytest.approx([np.mean(values) for values in accuracies])
    assert claim["verdict"] == "reproduced"

    # The report has the study with it, and is judged by that, once its code is trusted.
    assert {path.name: path.read_text() for path in (place / "out").glob("*.py")} == OWN_FILES
    check = ("report", "--check", "--output", "out")
    assert typed(monkeypatch, capsys, *check) == (
        2, "error: out holds Python of the study that it is of, losses.py, measures.py, network.py, parts.py, "
        "schedules.py, and a check would run it: read it, and if you trust it, add --study out\n",
    )  # fmt: skip
    for trusted in ("out", "parts"):
        assert typed(monkeypatch, capsys, *check, "--study", trusted)[0] == 0
    (place / "out" / "measures.py").write_text("import os\n\nos.makedirs('run')\n\n\ndef mean_of(*_): ...\n")
    for words in ((), ("--study", "parts")):
        assert typed(monkeypatch, capsys, *check, *words)[0] == 1
    assert not (place / "run").exists()

    # What the code does decides what is reused.
    (place / "parts" / "network.py").write_text("# The same network.\n" + OWN_FILES["network.py"])
    code, said = typed(monkeypatch, capsys, "sweep", "--study", "parts", *HERE)
    assert (code, said.splitlines()[-1]) == (0, "3 reused")
    (place / "parts" / "parts.py").write_text(OWN_FILES["parts.py"].replace("0.2", "0.3"))
    code, said = typed(monkeypatch, capsys, "sweep", "--study", "parts", *HERE, "--seeds", "0")
    assert (code, said.splitlines()[-1]) == (0, "1 trained")

    # A sweep that is on demand is trained where it is asked for, for as long as it says.
    code, said = typed(monkeypatch, capsys, "sweep", "--study", "parts", *HERE, "--seeds", "0", "--scheduler", "none")
    assert (code, said.splitlines()[-1]) == (0, "1 trained")
    assert runs()["sgd none 0.1 seed 0"].data.params["epochs"] == "2"


def test_the_trained_network_is_an_mlflow_model_that_needs_nothing_else(place, monkeypatch, capsys):
    typed(monkeypatch, capsys, "sweep", "--study", "parts", *HERE, "--seeds", "0")
    run = runs()["sgd cooled 0.2 seed 0"]
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images[1437:, np.newaxis].astype(np.float32), found.target[1437:]
    logits = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model").predict(images)
    assert (logits.argmax(1) == labels).mean() == pytest.approx(run.data.metrics["test_accuracy"])
    # A process that has loaded it trains on, although MLflow has put a part of this package first on its path.
    code, said = typed(
        monkeypatch, capsys, "sweep", "--study", "parts", "--device", "cpu", "--jobs", "2", "--seeds", "1,2"
    )
    assert (code, said.splitlines()[-1]) == (0, "2 trained")


@pytest.mark.parametrize("error", ["ArithmeticError('too late')", "SystemExit('too late')"])
def test_an_error_in_a_studys_code_ends_its_trial_with_its_line_and_no_other(place, monkeypatch, capsys, error):
    (place / "parts" / "losses.py").write_text(
        OWN_FILES["losses.py"] + "\n\ncalls = []\n\n\ndef late(logits, labels):\n    calls.append(1)\n"
        f"    if len(calls) == 13:\n        raise {error}\n"
        "    return cross_entropy(logits, labels)\n"
    )  # fmt: skip
    text = (place / "parts" / "study.yaml").read_text()
    (place / "parts" / "study.yaml").write_text(text.replace("losses.py:doubled", "losses.py:late"))
    code, said = typed(monkeypatch, capsys, "sweep", "--study", "parts", *HERE)
    assert code == 1
    line = f"sgd cooled 0.2 seed 0: failed, losses.py:14: {error.partition('(')[0]}: too late"
    assert line in said.splitlines()
    assert "Traceback" not in said
    assert said.count(": trained, ") == 2
    assert runs()["sgd cooled 0.2 seed 0"].info.status == "FAILED"


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("network.py", "nn.Linear(hidden, 10)", "nn.Linear(hidden, 9)",
         "parts/study.yaml:7:3: protocol.network: gives 9 classes, and the labels have 10"),
        ("study.yaml", "hidden: 16", "hidden: sixteen",
         "parts/study.yaml:7:3: protocol.network: parts.py:5: TypeError: "),
    ],
)  # fmt: skip
def test_what_one_batch_shows_is_told_before_anything_is_trained(place, monkeypatch, capsys, file, before, after, said):
    path = place / "parts" / file
    path.write_text(path.read_text().replace(before, after))
    code, told = typed(monkeypatch, capsys, "main", "--study", "parts", *HERE)
    assert code == 2
    assert told.splitlines()[-1].startswith(f"error: {said}")
    assert runs() == runs("parent") == {}
