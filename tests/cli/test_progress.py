"""How far a command says it is, in a log."""

import threading

import pytest

from reproduce import progress


@pytest.fixture
def said(monkeypatch):
    """The lines that are said with epochs done at each look, ten seconds from one look to the next."""

    def lines(total, done):
        looks, moments, found = iter(done), iter(range(0, 10_000, 10)), []
        ended = threading.Event()
        monkeypatch.setattr(ended, "wait", lambda seconds: next_is_last())
        left = [len(done) - 1]

        def next_is_last():
            left[0] -= 1
            return left[0] < 0

        monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
        monkeypatch.setattr(progress, "say", found.append)
        progress._say_lines(total, lambda: next(looks), ended)
        return found

    return lines


def test_the_time_left_is_that_of_the_epochs_and_not_of_the_start(said):
    # Workers start for 60 s, then an epoch takes 10 s: nothing is said before the first, and 6 epochs are left at last.
    assert said(12, [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]) == ["1 of 12 epochs", "4 of 12 epochs, 01:20 left"]


def test_epochs_of_an_earlier_command_took_no_time(said):
    assert said(100, [50, 50, 51, 52, 53]) == ["52 of 100 epochs, 08:00 left"]
