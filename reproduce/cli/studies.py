"""What is done with studies themselves: list those that are shipped, begin one, check one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from reproduce.errors import UserError
from reproduce.study import location, planning
from reproduce.study.config import StudyConfig, describe_lengths
from reproduce.study.loading import Fault, find_faults, load_paper
from reproduce.study.rate_checks import check_rates
from reproduce.study.schema import Paper

# The shipped study that a new one begins as.
SKELETON = "digits"


def list_shipped() -> list[str]:
    """Return a line for each shipped study, the default first."""
    return [f"{name}: {load_paper(name).publication.citation}" for name in location.shipped()]


def begin(folder: Path) -> Path:
    """Write a commented study that runs as it is into a folder, which may be new, and return its file.

    UserError where the folder has one of its files already, or cannot be written to.
    """
    skeleton = load_paper(SKELETON)
    names = [location.FILE, *(name for name, _ in skeleton.code.files)]
    for name in names:
        if (folder / name).exists():
            raise UserError(f"{folder / name} is there already: name another folder, or edit that file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(skeleton.file.with_name(name), folder / name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error
    return folder / location.FILE


def check(named: str) -> tuple[str, list[str]]:
    """Return in one line what a study trains, and in one line each what is wrong with it.

    One batch is tried with its network, and all steps with its schedules. UserError where it cannot be planned.
    """
    paper, faults = find_faults(named, _try_out)
    if paper is None or faults:
        return "", faults
    return _describe(paper), []


def _try_out(paper: Paper) -> Iterator[Fault]:
    # It takes seconds to import, and most faults are found before.
    from reproduce.training import trial_run

    yield from trial_run.find_faults(paper)


def _describe(paper: Paper) -> str:
    config = StudyConfig()
    tests = planning.own_range_tests(paper, config)
    check_rates(config, planning.trials(paper, config) + tests)
    models = f"{_count(paper.model_count, 'model')} of {describe_lengths(paper.lengths())}"
    seeds = _count(len(paper.protocol.seeds), "seed")
    rest = f"{_count(len(tests), 'range test')}, {_count(len(paper.claims), 'claim')}"
    return f"{paper.file}: {models} with {seeds}, {rest}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
