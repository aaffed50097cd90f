"""What stops a process: its parent's end, and signals, which come again where Python has swallowed them."""

import os
import signal
import sys
import threading
import time
from typing import Any

CHECK_SECONDS = 1
AGAIN_SECONDS = 0.1
WATCH = "parent-watch"


def end_with(parent_pid: int) -> None:
    """Do not outlive that parent: nobody would know of what is done then."""
    if any(thread.name == WATCH for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name=WATCH, daemon=True).start()


def have_come_again(numbers: dict[type[BaseException], int]) -> None:
    """Have signals sent again whose exceptions, of these types, were raised where nothing can be.

    A signal's handler runs wherever the program just is. In a weak reference's callback, say, Python only prints what
    it raises, and goes on.
    """

    def again(unraisable: Any) -> None:
        number = next((numbers[kind] for kind in numbers if issubclass(unraisable.exc_type, kind)), None)
        if number is None:
            sys.__unraisablehook__(unraisable)
        else:  # once this hook, out of which nothing can be raised either, is done
            threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (threading.main_thread().ident, number)).start()

    sys.unraisablehook = again
