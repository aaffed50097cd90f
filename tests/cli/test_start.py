"""The short way in: what `reproduce` alone prints, and what a shell completes."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

from helpers import PYPROJECT, ROOT, needs
from helpers.commands import parsed
from reproduce.cli import interpreter, main
from reproduce.cli.options import COMMANDS
from reproduce.errors import UserError


@pytest.fixture
def printed(monkeypatch, capsys):
    """What the command prints to standard output."""

    def run(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        with suppress(SystemExit):
            main.main()
        return capsys.readouterr().out

    return run


def complete(printed, line, shell="bash"):
    """What the shell is told that may follow."""
    count = len(line.split()) if line.endswith(" ") else len(line.split()) - 1
    where = {"COMP_WORDS": line, "COMP_CWORD": str(count)}
    return printed(**where, _REPRODUCE_COMPLETE=f"{shell}_complete").split()


def test_alone_it_lists_the_commands_in_the_order_of_work_and_five_examples(printed):
    shown = printed()
    listed = re.findall(r"^  ([\w-]+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert listed == ["main", "range_test", "sweep", "grid", "report", "verify", "data", "studies", "new-study",
                      "check-study", "ui"]  # fmt: skip
    assert "..." not in shown.partition("Commands:")[2]
    examples = re.findall(r"^ +reproduce (\S+)(.*?)  ", shown.partition("Examples:")[2], re.MULTILINE)
    assert [name for name, _ in examples] == ["main", "range_test", "sweep", "report", "ui"]
    for name, options in examples:
        if name in COMMANDS:
            parsed(name, shlex.split(options))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reproduce sw", ["plain,sweep"]),
        ("reproduce sweep --learn", ["plain,--learning-rates"]),
        ("reproduce sweep --scheduler m", ["plain,multistep"]),
        ("reproduce sweep --optimizer ad", ["plain,adam", "plain,adamw"]),
        ("reproduce sweep --seeds pa", ["plain,paper"]),
        ("reproduce report --output rep", ["dir,rep"]),
        ("reproduce sweep --epochs 3", []),
    ],
)
def test_a_shell_completes_commands_options_words_and_directories(printed, line, expected):
    assert complete(printed, line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_variable_gives_each_shell_its_script(printed, shell):
    assert f"_REPRODUCE_COMPLETE={shell}_complete" in printed(_REPRODUCE_COMPLETE=f"{shell}_source")


@needs("bash")
def test_the_documented_line_makes_bash_complete_a_command(tmp_path):
    (line,) = re.findall(r'^eval ".*"$', (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    (tmp_path / "reproduce").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reproduce "$@"\n')
    (tmp_path / "reproduce").chmod(0o755)
    typed = f"{line}\nCOMP_WORDS=(reproduce veri); COMP_CWORD=1; _reproduce_completion reproduce; echo $COMPREPLY"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", typed], env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)  # fmt: skip
    assert (done.stdout, done.stderr) == ("verify\n", "")


@pytest.mark.parametrize(
    ("system", "python", "message"),
    [
        ("darwin", (3, 11, 7), "this needs Linux; on another system use the container: docs/container.md"),
        ("win32", (3, 12, 1), "this needs Linux; on another system use the container: docs/container.md"),
        ("linux", (3, 13, 0), "this is Python 3.13, and the study's libraries need 3.10 to 3.12: type make env"),
        ("linux", (3, 9, 2), "this is Python 3.9, and the study's libraries need 3.10 to 3.12: type make env"),
    ],
)
def test_another_system_and_another_python_are_refused_in_a_line(monkeypatch, system, python, message):
    monkeypatch.setattr(interpreter, "sys", SimpleNamespace(platform=system, version_info=python))
    with pytest.raises(UserError) as refused:
        interpreter.check_system()
    assert str(refused.value) == message


def test_the_pythons_that_are_refused_are_those_that_pip_refuses():
    oldest, newest = interpreter.OLDEST, interpreter.NEWEST
    assert PYPROJECT["project"]["requires-python"] == f">=3.{oldest[1]},<3.{newest[1] + 1}"


@pytest.fixture
def make(tmp_path):
    """Calls make, where these programs are shell scripts."""

    def call(*arguments, **programs):
        for name, script in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = ["make", "--no-print-directory", f"VENV={tmp_path / 'environment'}", *arguments]
        # A make that runs these tests may have been told which Python to take.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"} | {"PATH": path}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return call


PYTHONS = ("python3.12", "python3.11", "python3.10", "python3")


@needs("make")
@pytest.mark.parametrize(
    ("programs", "told"),
    [
        (
            dict.fromkeys(PYTHONS, "exit 1"),
            "error: this needs Python 3.10, 3.11 or 3.12: install one, or name its path",
        ),
        ({"uname": "echo Darwin"}, "error: this needs Linux; on another system use the container"),
    ],
    ids=["no Python", "another system"],
)
def test_make_says_what_it_needs_before_it_installs_anything(make, tmp_path, programs, told):
    done = make("env", **programs)
    assert (done.returncode, done.stderr.splitlines()[0][: len(told)]) == (2, told)
    assert not (tmp_path / "environment").exists()


@needs("make")
@pytest.mark.parametrize(
    ("runs", "taken"), [(PYTHONS, "python3.12"), (PYTHONS[1:], "python3.11"), (PYTHONS[3:], "python3"), ((), "python3")]
)
def test_make_takes_the_newest_python_that_runs(make, runs, taken):
    scripts = {name: "exit 0" if name in runs else "exit 127" for name in PYTHONS}
    done = make("--eval", "show: ; @basename $(PYTHON)", "show", **scripts)
    assert done.stdout == f"{taken}\n"
