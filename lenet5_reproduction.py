"""The console command `reproduce`: start the package beside this file, and refuse another package of that name.

The package itself could not do this, because Python would run the other one instead.
"""

import os
import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command; one line and exit code 2 for a copied environment and for another package of the same name."""
    started = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
    is_environment = os.path.isfile(os.path.join(started, "pyvenv.cfg"))
    if is_environment and os.path.realpath(started) != os.path.realpath(sys.prefix):
        print(
            f"error: {started!a} is a copy of {sys.prefix!a} and would run the code that is installed there: make an "
            "environment here, for example with make env",
            file=sys.stderr,
        )
        sys.exit(2)
    own = os.path.join(os.path.dirname(os.path.realpath(__file__)), "reproduce")
    found = find_spec("reproduce")
    # A folder without an __init__.py has no origin.
    other = (found.origin or next(iter(found.submodule_search_locations))) if found else own
    if os.path.realpath(other) not in (own, os.path.join(own, "__init__.py")):
        print(
            f"error: {other!a} would be imported in place of the package reproduce, which is {own!a}: rename it, or "
            "remove its folder from PYTHONPATH",
            file=sys.stderr,
        )
        sys.exit(2)
    from reproduce.__main__ import main as start

    start()
