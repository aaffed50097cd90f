"""Progress of a wait, and of many trials with the time left: a bar in a terminal, plain lines in a log."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from reproduce.escaping import printable

LOOK_SECONDS = 0.5
# What takes longer than this is announced.
SILENT_SECONDS = 4
# Between two plain lines, of training and of a wait.
LINE_SECONDS = 30
WAIT_LINE_SECONDS = 5


def say(line: str) -> None:
    """Print a line to the error output, above the bar if there is one."""
    tqdm.write(printable(line), file=sys.stderr)


@contextmanager
def say_if_slow(line: str, said: threading.Event | None = None, patience: float = 1) -> Iterator[None]:
    """Say the line once the block has taken `patience` × SILENT_SECONDS, unless `said` is set; then set it."""
    event = said or threading.Event()

    def say_once() -> None:
        if not event.is_set():
            event.set()
            say(line)

    timer = threading.Timer(patience * SILENT_SECONDS, say_once)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def show_wait(tell: Callable[[str], None] = say) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows how far a wait is, to be called as often as there is news.

    In a terminal one line changes. Without a terminal, or where another function than `say` takes the lines, there is a
    line every few seconds.
    """
    if tell is say and _is_terminal():
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
def show_progress(total_epochs: int, epochs_done: Callable[[], int]) -> Iterator[None]:
    """Show how many of `total_epochs` are done, as `epochs_done` returns, until the block ends."""
    ended = threading.Event()
    show = _show_bar if _is_terminal() else _say_lines
    thread = threading.Thread(target=show, args=(total_epochs, epochs_done, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_terminal() -> bool:
    """Return whether the error output is a terminal that has a size. In one without, tqdm shows nothing."""
    return sys.stderr.isatty() and min(os.get_terminal_size(sys.stderr.fileno())) > 1


def _show_bar(total: int, epochs_done: Callable[[], int], ended: threading.Event) -> None:
    first = epochs_done()
    form = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} epochs, {elapsed} gone, {remaining} left"
    with tqdm(total=total, initial=first, bar_format=form, smoothing=0.05, leave=False, file=sys.stderr) as bar:
        while not ended.wait(LOOK_SECONDS):
            # Never back, though a finished trial drops its checkpoints.
            bar.update(max(0, epochs_done() - bar.n))
            bar.refresh()


def _say_lines(total: int, epochs_done: Callable[[], int], ended: threading.Event) -> None:
    """Say every while how far it is. The time left is reckoned from the first epoch on, not from the workers' start."""
    before, first, first_at, told_at = epochs_done(), 0, 0.0, time.monotonic()
    while not ended.wait(LOOK_SECONDS):
        now, moment = epochs_done(), time.monotonic()
        if now > before and not first:
            first, first_at = now, moment
        if first and moment - told_at >= LINE_SECONDS:
            told_at = moment
            line = f"{now} of {total} epochs"
            if now > first:
                left = (moment - first_at) / (now - first) * (total - now)
                line += f", {tqdm.format_interval(left)} left"
            say(line)
