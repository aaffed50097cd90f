"""Where a study is: the folder of one that is shipped with the package, by its name, or a user's own."""

from __future__ import annotations

from pathlib import Path

from reproduce.errors import nearest

FILE = "study.yaml"
DEFAULT = "lenet5_mnist"
VARIABLE = "REPRODUCE_STUDY"
SHIPPED = Path(__file__).parent.parent / "studies"


def shipped() -> list[str]:
    """Return the names of the studies that are shipped, the default first."""
    names = sorted(path.parent.name for path in SHIPPED.glob(f"*/{FILE}"))
    return sorted(names, key=lambda name: name != DEFAULT)


class NoStudyError(ValueError):
    """The reason why there is no study of that name."""


def expected() -> str:
    """Return what names a study, for an error message."""
    return f"a folder with a {FILE}, or one of {', '.join(shipped())}"


def find(text: str) -> Path:
    """Return the study.yaml that a text names: a shipped study's name, a folder, or the file itself.

    NoStudyError where there is none.
    """
    if text in shipped():
        return SHIPPED / text / FILE
    try:
        place = Path(text).expanduser()
        if place.is_dir() and not (place / FILE).exists():
            raise NoStudyError(f"a folder that has no {FILE}")
        if place.exists():
            return place / FILE if place.is_dir() else place
    # This is the home of an unknown user, or a text that no path can have.
    except (OSError, RuntimeError):
        pass
    raise NoStudyError(f"which is not there{nearest(text, shipped())}")
