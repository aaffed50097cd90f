"""How a command begins and ends: signals and streams, the word that was typed, one line and an exit code.

Exit codes: 0 done, 1 something failed, 2 something to put right, 3 claims that could not be judged, 130 and 143
interrupted, 141 nobody reads the output.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from reproduce.cli import interpreter, terminal
from reproduce.cli.option_types import nearest
from reproduce.cli.options import COMMANDS
from reproduce.errors import ClusterLostError, TrackingError, TrialsFailedError, UserError, shown
from reproduce.escaping import without_credentials
from reproduce.execution import interruption
from reproduce.tracking.remedies import suggest_after
from reproduce.training import launcher

EXIT_FAILED, EXIT_USER, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED = 1, 2, 3, 130, 141, 143
# Another rank waits so long for rank 0 to end with the same error.
WORD_SECONDS = 60


def run(commands: click.Group) -> None:
    """Run the command that was typed, and turn every expected error into one line and an exit code."""
    _told_to_stop.clear()
    signal.signal(signal.SIGTERM, _terminate)
    # `__main__` set it for the imports.
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interruption.resend_swallowed({Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT})
    if launcher.is_launched():
        # A rank whose launcher is gone would wait for the other ranks for ever.
        interruption.end_with(os.getppid())
    terminal.have_streams()
    command = next(iter(sys.argv[1:]), "")
    try:
        interpreter.settle()
        code = commands.main(standalone_mode=False) or 0
        # An output that nobody reads is detected here, not when Python itself ends.
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
    except (TrialsFailedError, TrackingError, ClusterLostError) as error:
        _leave(f"{error}: {suggest_after(error, command)}", EXIT_FAILED)
    except (UserError, click.ClickException) as error:
        _leave(error.format_message() if isinstance(error, click.ClickException) else str(error), EXIT_USER)
    except (KeyboardInterrupt, click.Abort) as stop:
        _leave(f"interrupted: {suggest_after(stop, command)}", EXIT_INTERRUPTED)
    except SystemExit as stop:
        # Ray raises one of its own in place of ours, where the signal comes while it waits.
        if not _told_to_stop.is_set():
            raise
        _leave(f"terminated: {suggest_after(stop, command)}", EXIT_TERMINATED)
    # This happens in `reproduce verify | head -1`, for example.
    except (NoReaderError, BrokenPipeError):
        terminal.let_go_of_output()
        sys.exit(EXIT_NO_READER)
    # The disk is full, or a file has disappeared, for example.
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _leave(f"{what}: {suggest_after(error, command)}", EXIT_FAILED)
    else:
        sys.exit(code)


class NoReaderError(Exception):
    """Whoever read the output has left."""


class Terminated(SystemExit):
    """SIGTERM came."""


_told_to_stop = threading.Event()


def _terminate(signum: int, frame: object) -> None:
    _told_to_stop.set()
    raise Terminated


def _leave(message: str, code: int) -> None:
    is_error = code in (EXIT_USER, EXIT_FAILED)
    said = launcher.error_message(message) if is_error else message if launcher.is_main_process() else None
    if said is None and is_error:
        # The launcher ends all ranks when the first one ends. Rank 0 should print its error before that.
        with suppress(Terminated, KeyboardInterrupt):
            time.sleep(WORD_SECONDS)
            # Rank 0 did not print it.
            said = launcher.with_rank(message)
    if said is not None:
        line = terminal.one_line(without_credentials(said))
        click.echo(f"error: {line}" if is_error else line, err=True)
    sys.exit(code)


class Commands(click.Group):
    """Answers a wrong name with the nearest, as `range-test` with `range_test`.

    Tells an output that nobody reads from a failure, for which click would leave with the same code.
    """

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        """Parse the words; --help prints while it does."""
        with _reader_wanted():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _reader_wanted():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of that name; where several ranks are to run it, those other than 0 only help to train."""
        if args and args[0] not in self.commands:
            expected = f"expected one of {', '.join(self.commands)}{nearest(args[0], self.commands)}"
            raise click.UsageError(f"there is no command {shown(args[0])}, {expected}")
        if not launcher.is_main_process() and args and "jobs" not in COMMANDS.get(args[0], ()):
            raise click.exceptions.Exit
        return super().resolve_command(ctx, args)


@contextmanager
def _reader_wanted() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NoReaderError from error
