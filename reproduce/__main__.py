"""`python -m reproduce` is the console command `reproduce`, wherever the package is only a folder."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a traceback from within an import would tell nobody anything

from reproduce.cli import main

if __name__ == "__main__":
    main()
