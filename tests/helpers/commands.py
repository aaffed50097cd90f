"""Commands typed in this very process."""

import sys

import pytest

from reproduce.cli import main


def typed(monkeypatch, capsys, *arguments):
    """What a command typed prints to standard error, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
    with pytest.raises(SystemExit) as left:
        main.main()
    return left.value.code, capsys.readouterr().err
