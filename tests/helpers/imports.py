"""What the package's modules import, read from their text."""

import ast

from helpers import ROOT

PACKAGE = ROOT / "reproduce"


def modules():
    """The package's modules by name, as `training.loop`."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports_of(module):
    """The top-level packages and our own modules that a module imports, wherever in it."""
    known, packages, own = modules(), set(), set()
    for node in ast.walk(ast.parse(known[module].read_text())):
        if isinstance(node, ast.Import):
            packages |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add(node.module.split(".")[0])
            if node.module.split(".")[0] == "reproduce":
                below = node.module.removeprefix("reproduce").removeprefix(".")
                inside = {f"{below}.{name.name}".removeprefix(".") for name in node.names}
                own |= {name if name in known else below for name in inside}
    return packages, own
