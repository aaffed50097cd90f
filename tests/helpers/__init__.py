"""What the tests share: where things are, and what they need."""

import os
import shutil
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("REPRODUCE_HOME", ROOT / ".reproduce")).resolve()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def needs(*programs):
    """The container's image has not all that a checkout's machine has."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")
