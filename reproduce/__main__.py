"""`python -m reproduce` is the console command `reproduce`, wherever the package is only a folder."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A traceback from within an import would help nobody.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from reproduce import escaping
from reproduce.cli import interpreter
from reproduce.errors import UserError


def main() -> None:
    """Run the command, once nothing is in the way of what it imports."""
    try:
        interpreter.check_system()
        interpreter.check_names()
    except UserError as error:
        print(f"error: {escaping.printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    interpreter.read_text_as_utf8()
    from reproduce.cli import main as commands

    commands.main()


if __name__ == "__main__":
    main()
