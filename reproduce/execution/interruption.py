"""What stops a process: the end of its parent, and signals, also those that Python swallows."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PARENT_CHECK_SECONDS = 1
RESEND_SECONDS = 0.1
WATCH = "parent-watch"
LIBC = ctypes.CDLL(None)
# As prctl(2) numbers it.
PR_SET_PDEATHSIG = 1


def end_with(parent_pid: int) -> None:
    """End this process once its parent has ended: nobody would use its result."""
    if any(thread.name == WATCH for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name=WATCH, daemon=True).start()


def stop_with_parent() -> None:
    """Have Linux send SIGTERM to this process, and to the program that it becomes, once its parent has ended."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def blocked_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started in the block, from their first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def resend_swallowed(signals: dict[type[BaseException], int]) -> None:
    """Send a signal again where its exception, a key of `signals`, was raised where Python cannot raise.

    A signal's handler runs wherever the program just is. What it raises in a weak reference's callback, say, Python
    only prints, and continues.
    """

    def resend(unraisable: "sys.UnraisableHookArgs") -> None:
        number = next((signals[kind] for kind in signals if issubclass(unraisable.exc_type, kind)), None)
        main_thread = threading.main_thread().ident
        if number is None or main_thread is None:
            sys.__unraisablehook__(unraisable)
        else:
            # Nothing can be raised out of this hook either: the signal has to come after it.
            threading.Timer(RESEND_SECONDS, signal.pthread_kill, (main_thread, number)).start()

    sys.unraisablehook = resend
