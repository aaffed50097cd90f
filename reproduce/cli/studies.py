"""What is done with studies themselves: list those that are shipped, begin one, check one."""

from __future__ import annotations

import shutil
from pathlib import Path

from reproduce.errors import UserError
from reproduce.study import location, planning
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.study.rate_checks import check_rates

SKELETON = Path(location.__file__).with_name("skeleton.yaml")


def list_shipped() -> list[str]:
    """Return a line for each shipped study, the default first."""
    return [f"{name}: {load_paper(name).publication.citation}" for name in location.shipped()]


def begin(folder: Path) -> Path:
    """Write a commented study that runs as it is into a folder, which may be new, and return its file.

    UserError where the folder has a study already, or cannot be written to.
    """
    file = folder / location.FILE
    if file.exists():
        raise UserError(f"{file} is there already: name another folder, or edit that file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SKELETON, file)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): name another folder") from error
    return file


def check(named: str) -> str:
    """Return in one line what a study trains. UserError where something is wrong with it."""
    paper, config = load_paper(named), StudyConfig()
    tests = planning.own_range_tests(paper, config)
    check_rates(config, planning.trials(paper, config) + tests)
    models = f"{_count(paper.model_count, 'model')} of {_count(paper.protocol.epochs, 'epoch')}"
    seeds = _count(len(paper.protocol.seeds), "seed")
    rest = f"{_count(len(tests), 'range test')}, {_count(len(paper.claims), 'claim')}"
    return f"{paper.file}: {models} with {seeds}, {rest}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
