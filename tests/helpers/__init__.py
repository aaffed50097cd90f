"""What the tests share: where things are, and what they need."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("REPRODUCE_HOME", ROOT / ".reproduce")).resolve()


def needs(*programs):
    """The container's image has not all that a checkout's machine has."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")
