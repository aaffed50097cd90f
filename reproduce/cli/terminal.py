"""What can be printed anywhere: on a terminal without the letters, to a pipe that nobody reads, to nothing at all."""

import codecs
import os
import sys

from reproduce.escaping import printable

# The longest line, in characters.
LONGEST = 1000
PLAIN = {"±": "+-", "×": "x", "≈": "~", "…": "...", "–": "-", "—": "-", "³": "^3"}


def have_streams() -> None:
    """Have both outputs take every letter: closed ones to nowhere, those whose encoding has none for it plainly."""
    codecs.register_error("plain", plainly)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        # A test may put an object without this method there.
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="plain")


def plainly(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encodings: the nearest in ASCII, or the letter's number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters), error.end


def let_go_of_output() -> None:
    """Have Python's last flush go nowhere instead of fail, once nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        # The stream has no file descriptor, as in a test.
        except (OSError, ValueError):
            continue


def one_line(message: str) -> str:
    """The message as one line of bearable length that does nothing to a terminal."""
    line = printable(message)
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"
