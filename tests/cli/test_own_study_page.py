"""docs/own-study.md followed word for word: its commands and their answers, its Python, and the faults it shows."""

import re

import pytest

from helpers import ROOT
from helpers.commands import typed
from reproduce.cli import studies

PAGE = (ROOT / "docs" / "own-study.md").read_text()
ANSWERS = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
PYTHON = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
YAML = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
HEAD = "title: Odd or even\npublication: {title: A note, authors: [A. Student], year: 2026}\n"


@pytest.fixture
def begun(empty_place):
    """What `new-study` writes."""
    studies.begin(empty_place / "my_study")
    return empty_place / "my_study"


def replaced(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def test_the_studys_own_python_is_right_once_its_hash_is_stated(begun, monkeypatch, capsys):
    assert set(PYTHON) == {"data.py", "network.py", "losses.py", "schedules.py", "measures.py"}
    for name, text in PYTHON.items():
        (begun / name).write_text(text)
    (begun / "study.yaml").write_text(HEAD + YAML.replace("  data_sha256: {sha256}\n", ""))
    code, said = typed(monkeypatch, capsys, "check-study", "my_study")
    assert code == 2
    told = re.fullmatch(
        r"error: my_study/study.yaml:3:1: protocol.data_sha256: is missing; that of data.py:odd_or_even is "
        r"([0-9a-f]{64})\n", said,
    )  # fmt: skip
    assert told, said
    (begun / "study.yaml").write_text(HEAD + YAML.replace("{sha256}", told[1]))
    assert studies.check("my_study") == (
        "my_study/study.yaml: 1 model of 4 epochs with 3 seeds, 0 range tests, 1 claim", []
    )  # fmt: skip
    code, said = typed(monkeypatch, capsys, "main", "--study", "my_study", "--jobs", "1", "--device", "cpu")
    assert (code, said.count(": trained, ")) == (0, 3)
    code, said = typed(monkeypatch, capsys, "verify", "--study", "my_study")
    assert code in (0, 3)


def test_the_faults_that_are_shown_are_those_of_the_study(begun, monkeypatch, capsys):
    momentum, classes = ANSWERS[2].splitlines()
    replaced(begun / "study.yaml", "momentum: 0.9", "momentum: -0.9")
    assert typed(monkeypatch, capsys, "check-study", "my_study") == (2, f"error: {momentum}\n")
    replaced(begun / "study.yaml", "momentum: -0.9", "momentum: 0.9")
    replaced(begun / "network.py", "nn.Linear(hidden, 10)", "nn.Linear(hidden, 9)")
    assert typed(monkeypatch, capsys, "check-study", "my_study") == (2, f"error: {classes}\n")


@pytest.mark.system
def test_the_commands_answer_as_the_page_says(empty_place, monkeypatch, capsys):
    said = []
    for command in COMMANDS:
        words = command.removeprefix(".venv/bin/reproduce ").split()
        more = ("--jobs", "1", "--device", "cpu") if words[0] == "main" else ()
        monkeypatch.setattr("sys.argv", ["reproduce", *words])
        code, _ = typed(monkeypatch, capsys, *words, *more)
        assert code == 0, command
        said.append(words[0])
    assert said == ["new-study", "check-study", "main", "verify"]
    assert studies.check("my_study") == (ANSWERS[0].strip(), [])
    from reproduce.cli import main

    monkeypatch.setattr("sys.argv", ["reproduce", *COMMANDS[-1].split()[1:]])
    with pytest.raises(SystemExit):
        main.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("     ")]
    assert lines == ANSWERS[1].splitlines()
