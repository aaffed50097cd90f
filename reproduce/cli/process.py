"""How a command begins and ends: signals and streams, the word that was typed, one line and an exit code.

Exit codes: 0 done, 1 something failed, 2 something to put right, 3 claims that could not be judged, 130 and 143
interrupted, 141 nobody reads the output.
"""

import codecs
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import click
from click.shell_completion import shell_complete

from reproduce.cli import interpreter
from reproduce.cli.options import COMMANDS
from reproduce.errors import ClusterLostError, TrackingError, TrialsFailedError, UserError, nearest, shown
from reproduce.escaping import printable, without_credentials
from reproduce.execution import interruption
from reproduce.tracking.remedies import suggest_after
from reproduce.training import launcher

EXIT_FAILED, EXIT_USER, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED = 1, 2, 3, 130, 141, 143
# The variable by which click's shell completion asks.
COMPLETION = "_REPRODUCE_COMPLETE"
# Another rank waits so long for rank 0 to end with the same error.
WORD_SECONDS = 60
# The longest line, in characters.
LONGEST = 1000
PLAIN = {"±": "+-", "×": "x", "≈": "~", "…": "...", "–": "-", "—": "-", "³": "^3"}


def run(commands: click.Group) -> None:
    """Run the command that was typed, and turn every expected error into one line and an exit code."""
    _terminated.clear()
    signal.signal(signal.SIGTERM, _terminate)
    # `__main__` set it for the imports.
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interruption.resend_swallowed({Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT})
    if launcher.is_launched():
        # A rank whose launcher is gone would wait for the other ranks for ever.
        interruption.end_with(os.getppid())
    have_streams()
    command = next((word for word in sys.argv[1:] if word in commands.commands), "")
    try:
        interpreter.settle()
        code = _invoke(commands)
        # An output that nobody reads is detected here, not when Python itself ends.
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
    except (TrialsFailedError, TrackingError, ClusterLostError) as error:
        _leave(f"{error}: {suggest_after(error, command)}", EXIT_FAILED)
    except (UserError, click.ClickException) as error:
        _leave(error.format_message() if isinstance(error, click.ClickException) else str(error), EXIT_USER)
    except KeyboardInterrupt as stop:
        # The terminal has written ^C.
        click.echo(err=True)
        _leave(f"interrupted: {suggest_after(stop, command)}", EXIT_INTERRUPTED)
    except SystemExit as stop:
        # Ray raises one of its own in place of ours, where the signal comes while it waits.
        if not _terminated.is_set():
            raise
        _leave(f"terminated: {suggest_after(stop, command)}", EXIT_TERMINATED)
    # This happens in `reproduce verify | head -1`, for example.
    except BrokenPipeError:
        let_go_of_output()
        sys.exit(EXIT_NO_READER)
    # The disk is full, or a file has disappeared, for example.
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _leave(f"{what}: {suggest_after(error, command)}", EXIT_FAILED)
    else:
        sys.exit(code)


def _invoke(commands: click.Group) -> int:
    """Run the command, and return its exit code.

    Not by click's own `main`, for which an output that nobody reads is a failure like any other.
    """
    # The shell asks what could be typed next.
    if request := os.environ.get(COMPLETION):
        return shell_complete(commands, {}, "reproduce", COMPLETION, request)
    try:
        with commands.make_context("reproduce", sys.argv[1:]) as context:
            return commands.invoke(context) or 0
    except click.exceptions.Exit as done:
        return done.exit_code


class Terminated(SystemExit):
    """The arrival of SIGTERM."""


_terminated = threading.Event()


def _terminate(signum: int, frame: object) -> None:
    _terminated.set()
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
        line = one_line(without_credentials(said))
        click.echo(f"error: {line}" if is_error else line, err=True)
    sys.exit(code)


class Commands(click.Group):
    """The commands by name. The error for a wrong name suggests the nearest, `range_test` for `range-test`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the help shows them."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of that name. Of several ranks, all but rank 0 leave here if it does not train.

        UsageError for a wrong name.
        """
        if args and args[0] not in self.commands:
            expected = f"expected one of {', '.join(self.commands)}{nearest(args[0], self.commands)}"
            raise click.UsageError(f"there is no command {shown(args[0])}, {expected}")
        if not launcher.is_main_process() and args and "jobs" not in COMMANDS.get(args[0], ()):
            raise click.exceptions.Exit
        return super().resolve_command(ctx, args)


def have_streams() -> None:
    """Make both outputs take every letter: a closed one drops it, one whose encoding lacks it writes it plainly."""
    codecs.register_error("plain", plainly)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        # A test may put an object without this method there.
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="plain")


def plainly(error: UnicodeError) -> tuple[str, int]:
    """Return the nearest letters in ASCII, or their numbers, as a handler of errors of an encoding does."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters), error.end


def let_go_of_output() -> None:
    """Let Python's last flush go nowhere instead of fail, once nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        # The stream has no file descriptor, as in a test.
        except (OSError, ValueError):
            continue


def one_line(message: str) -> str:
    """Return the message as one line, shortened, without characters that control a terminal."""
    line = printable(message)
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"
