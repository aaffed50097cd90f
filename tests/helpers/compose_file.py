"""What compose.yaml says, with its variables filled in, for the tests that hold it to something or run its server."""

import re
from typing import Any

import yaml

from helpers import ROOT

FILE = ROOT / "compose.yaml"
# ${NAME}, ${NAME:-what it is otherwise} and ${NAME:?why it is needed}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<sign>[-?])(?P<word>[^}]*))?\}")


def services(**variables: str) -> dict[str, Any]:
    """The services; KeyError for a variable that is needed and not given."""

    def fill(found: re.Match) -> str:
        return variables.get(found["name"], found["word"]) if found["sign"] == "-" else variables[found["name"]]

    return yaml.safe_load(VARIABLE.sub(fill, FILE.read_text()))["services"]
