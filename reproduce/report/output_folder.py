"""The folder that a report is written to: checked before any work, held by one command at a time, filled at once."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from reproduce import paths
from reproduce.errors import UserError, shown
from reproduce.files import file_sha256
from reproduce.progress import say
from reproduce.study.location import FILE as STUDY
from reproduce.study.yaml_lines import Document

PAGE = "index.html"
METADATA = "ro-crate-metadata.json"
# What each file of a report is.
DESCRIPTIONS = {
    STUDY: "The study: what it trains, and what the paper reports and claims",
    "runs.json": "Every run behind the report, from which it can be made again",
    "index.html": "The report, as a page",
    "report.md": "The report: tables, figures and what they say of the paper's claims",
    "claims.json": "The verdict on each of the paper's claims, with the rule and the runs behind it",
    "summary.csv": "The final values of every training run",
    "summary.md": "The paper's final values and those measured, side by side",
    "summary.json": "Every training run and range test with its parameters, and the paper's values beside",
    "range-test.csv": "Rate, loss and smoothed loss at every step of every range test",
    "environment.json": "The code, versions and hardware that the runs were made with",
    "figure": "A figure of the report",
}
FIGURE_FORMATS = ("svg", "png")
# How long to wait for another command that writes a report to the same folder.
LOCK_SECONDS = 300
# The folder inside the output in which the next report is put together.
UNFINISHED = ".writing"


def check_output(output: Path) -> None:
    """Raise UserError unless a report can be written to `output`, without loss. Nothing is made there yet.

    It has to be new or empty, or to hold a report and nothing else: a report takes the place of the one before.
    """
    try:
        folder = output.resolve()
        exists = folder.exists()
    except (OSError, RuntimeError) as error:
        # These are links that lead to each other.
        raise UserError(f"--output {output} leads nowhere: name a directory") from error
    nearest = folder if exists else next((parent for parent in folder.parents if parent.exists()), folder)
    why = paths.why_unwritable(nearest) if nearest.is_dir() else os.strerror(errno.ENOTDIR)
    if why is not None:
        raise UserError(f"--output {output}: {nearest} cannot be written to ({why}): name another directory")
    foreign = sorted(path.name for path in _contents(folder) if not _is_of_report(path)) if exists else []
    if foreign:
        raise UserError(
            f"--output {output} holds {foreign[0]!r}, which is no part of a report: "
            "name a directory that is new or empty, or holds a report only"
        )


def _contents(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != UNFINISHED]


def _is_of_report(path: Path) -> bool:
    is_figure = path.name.startswith("figure-") and path.suffix.removeprefix(".") in FIGURE_FORMATS
    if path.name == STUDY:
        # A folder with a study alone is a user's own study.
        return holds_report(path.parent)
    if path.suffix == ".py":
        # A report has a copy of the study's own code. Any other is the user's.
        sha256 = file_sha256(path)
        return sha256 is not None and described_files(path.parent).get(path.name) == sha256
    return not path.is_dir() and (path.name in (*DESCRIPTIONS, METADATA) or is_figure)


def described_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the report in a folder, as its crate has it; empty where that is none."""
    try:
        graph = json.loads((folder / METADATA).read_bytes())["@graph"]
        files = [entity for entity in graph if entity["@type"] == "File" and not entity["@id"].startswith("#")]
        return {unquote(entity["@id"]): entity["sha256"] for entity in files}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def holds_report(output: Path) -> bool:
    """Return whether there is a report in `output`."""
    return (output / "report.md").exists()


def say_what_is_replaced(output: Path, title: str) -> None:
    """Say so where the report that the next one replaces is of another study than the one of that title."""
    if not holds_report(output):
        return
    # A file that cannot be read is no study's.
    with suppress(UserError, OSError, AttributeError):
        other = Document(output / STUDY).data.get("title")
        if other not in (None, title):
            say(f"{output} holds the report of {shown(other)}, which this one replaces; --output writes it elsewhere")


@contextmanager
def hold(output: Path) -> Iterator[Path]:
    """Lock `output`, and give an empty folder in it for the next report; what a killed command left there is removed.

    UserError where another command holds it for too long.
    """
    output.mkdir(parents=True, exist_ok=True)
    directory = os.open(output, os.O_RDONLY)
    try:
        _lock(directory, f"another command is writing a report to {output}")
        unfinished = output / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    finally:
        os.close(directory)


def _lock(directory: int, why: str) -> None:
    """Lock a directory, once no other process has locked it. UserError after LOCK_SECONDS, which says `why`."""
    for second in range(LOCK_SECONDS + 1):
        with suppress(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if second == 0:
            say(f"{why}; waiting for it, for up to {LOCK_SECONDS} s")
        if second < LOCK_SECONDS:
            time.sleep(1)
    raise UserError(f"{why}, and has been for {LOCK_SECONDS} s: end it if it is suspended")


def replace_report(unfinished: Path) -> None:
    """Put a finished report in the place of the one before.

    The page goes first and comes back last: where the page is, all of one report is. What tells a report's files
    from a user's goes last and comes back first, so that a kill leaves nothing that is taken for a user's.
    """
    output = unfinished.parent

    def rank(path: Path) -> int:
        return {PAGE: 0, METADATA: 2, "report.md": 2}.get(path.name, 1)

    for earlier in sorted(_contents(output), key=rank):
        earlier.unlink()
    for path in sorted(_contents(unfinished), key=rank, reverse=True):
        path.rename(output / path.name)
    unfinished.rmdir()
