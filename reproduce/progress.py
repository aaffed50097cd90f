"""Progress of a wait, and of many trials at once with the time left: a bar in a terminal, plain lines in a log.

Whoever trains saves a checkpoint an epoch; how far everything is can be read off those, whichever process writes them.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from reproduce.escaping import printable

LOOK_SECONDS = 0.5
SILENT_SECONDS = 4  # that something may take before a line says what is waited for
LINE_SECONDS = 30  # between two plain lines when no trial ends
WAIT_LINE_SECONDS = 5  # between two plain lines while something is waited for


def say(line: str) -> None:
    """Print a line above the bar, or as it is where there is none."""
    tqdm.write(printable(line), file=sys.stderr)


@contextmanager
def said_if_slow(line: str, said: threading.Event | None = None) -> Iterator[None]:
    """Say the line once the block has taken a few seconds, unless that was `said` before."""

    def say_now() -> None:
        if said is None or not said.is_set():
            say(line)
            if said is not None:
                said.set()

    timer = threading.Timer(SILENT_SECONDS, say_now)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def waiting(tell: Callable[[str], None] = say) -> Iterator[Callable[[str], None]]:
    """Give what shows how far a wait is: one line that changes in a terminal, else a line told every few seconds.

    It may be called as often as there is news. Only what is said to the user himself is shown in the terminal.
    """
    if tell is say and _has_room():
        with tqdm(bar_format="{desc}", leave=False, file=sys.stderr) as line:
            yield lambda text: line.set_description_str(printable(text))
        return
    told_at = time.monotonic()

    def show(text: str) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= WAIT_LINE_SECONDS:
            told_at = time.monotonic()
            tell(text)

    yield show


@contextmanager
def watch(total_epochs: int, epochs_done: Callable[[], int]) -> Iterator[None]:
    """Show how many of `total_epochs` are done, as `epochs_done` says, until the block ends."""
    ended = threading.Event()
    show = _bar if _has_room() else _lines
    thread = threading.Thread(target=show, args=(total_epochs, epochs_done, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _has_room() -> bool:
    """Whether the error output is a terminal that has a size: in one without, tqdm shows nothing."""
    return sys.stderr.isatty() and min(os.get_terminal_size(sys.stderr.fileno())) > 1


def _bar(total: int, epochs_done: Callable[[], int], ended: threading.Event) -> None:
    first = epochs_done()
    form = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} epochs, {elapsed} gone, {remaining} left"
    with tqdm(total=total, initial=first, bar_format=form, smoothing=0.05, leave=False, file=sys.stderr) as bar:
        while not ended.wait(LOOK_SECONDS):
            bar.update(max(0, epochs_done() - bar.n))  # never back, though finished trials drop their checkpoints
            bar.refresh()


def _lines(total: int, epochs_done: Callable[[], int], ended: threading.Event) -> None:
    started, first = time.monotonic(), epochs_done()
    while not ended.wait(LINE_SECONDS):
        now = epochs_done()
        if now > first:
            seconds = (time.monotonic() - started) / (now - first) * (total - now)
            say(f"{now} of {total} epochs, {tqdm.format_interval(seconds)} left")
