"""Commands typed in this very process."""

import sys

import pytest

from reproduce.cli import main
from reproduce.cli.request import read_config
from reproduce.study.loading import load_paper


def typed(monkeypatch, capsys, *arguments):
    """What a command typed prints to standard error, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
    with pytest.raises(SystemExit) as left:
        main.main()
    return left.value.code, capsys.readouterr().err


def parsed(name, options):
    """The configuration that these options of a command ask for."""
    with main.cli.commands[name].make_context(name, list(options)) as context:
        return read_config(load_paper(), context.params)


def one_line(printed):
    """What was printed is one error of a bearable length."""
    assert printed.startswith("error: ")
    assert printed.endswith("\n")
    assert printed[:-1].isprintable()
    assert len(printed) < 1020
    return printed[:-1]
