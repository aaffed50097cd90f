"""Get bytes from the network: bounded in time and in size, with progress, left at once when interrupted.

Nothing is written but into the folder of an attempt, which its owner removes. `requests` and pooch bound neither the
size nor the whole time of a download, and cannot be interrupted while a name server does not answer.
"""

import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from reproduce import progress
from reproduce.escaping import printable, short_line

# How long a server may send nothing, and a program, which has to start and may try several servers.
QUIET_SECONDS = 10
PROGRAM_QUIET_SECONDS = 20
# For all files of one source: 12 MB of MNIST at 20 kB/s.
TOTAL_SECONDS = 600
POLL_SECONDS = 0.2
PART_BYTES = 1 << 16
# What programs say of a failure, the most exact first.
REASONS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"(\[Errno -?\d+\] [^'\")\n]+)", r"reason: (.+)", r"(network timeout at: \S+)", r"\b(timed out)\b",
        r"Could not fetch URL \S+: (.+)", r"^npm error (?!code|errno|syscall)(.+)", r"^ERROR: (.+)",
    )
)  # fmt: skip


class SourceError(Exception):
    """The reason, in one line, why a source does not give the data."""


@dataclass(frozen=True)
class Attempt:
    """One try at a source: the files to get, a folder to work in, and `say`, which gets the lines of progress.

    It is given up once nothing comes for `quiet_seconds`, or after TOTAL_SECONDS.
    """

    title: str
    files: tuple[str, ...]
    folder: Path
    say: Callable[[str], None]
    quiet_seconds: float = QUIET_SECONDS
    started: float = field(default_factory=time.monotonic)

    def download(self, address: str, max_bytes: int) -> bytes:
        """Return what is at the address; SourceError where it is longer than so many bytes, or does not come."""
        download, proxy = _Download(address, max_bytes, self.quiet_seconds), _describe_proxy(address)
        download.start()
        self._wait(download.has_ended, lambda: len(download.content), address.rpartition("/")[2], proxy)
        if download.error is not None:
            raise SourceError(_reason(download.error) + proxy) from download.error
        return bytes(download.content)

    def run_program(self, command: list[str], name: str) -> None:
        """Run a program that downloads into the folder; SourceError where it fails.

        The program and all that it started are killed when the wait ends, whatever ends it.
        """
        temporary, printed = self.folder / "temporary", self.folder / "printed"
        temporary.mkdir()
        with printed.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    env=os.environ | {"TMPDIR": str(temporary)},
                )  # fmt: skip
            except OSError as error:
                raise SourceError(_reason(error)) from error
        try:
            self._wait(lambda seconds: _has_ended(process, seconds), lambda: _size(self.folder), self.title)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != 0:
            text = printed.read_text(encoding="utf-8", errors="replace")
            raise SourceError(f"{name} ended with {process.returncode} ({_find_reason(text)})")

    def _wait(
        self, has_ended: Callable[[float], bool], received: Callable[[], int], what: str, proxy: str = ""
    ) -> None:
        """Wait for the end; SourceError once nothing comes, or after the attempt's whole time.

        Args:
            has_ended: Waits for so many seconds at most, and returns whether the end has come.
            received: Returns how many bytes have come.
            what: What is downloaded, for the line of progress.
            proxy: The end of an error message that names the proxy.
        """
        size, last_received = received(), time.monotonic()
        with progress.show_wait(self.say) as show:
            while not has_ended(POLL_SECONDS):
                now, before, size = time.monotonic(), size, received()
                last_received = now if size != before else last_received
                if now - last_received > self.quiet_seconds:
                    raise SourceError(f"{_no_answer(self.quiet_seconds)}{proxy}")
                if now - self.started > TOTAL_SECONDS:
                    raise SourceError(f"not done after {TOTAL_SECONDS:g} s")
                show(f"{what}: {size / 1e6:.1f} MB so far, {now - self.started:.0f} of at most {TOTAL_SECONDS:g} s")


class _Download(threading.Thread):
    """The bytes at one address, as far as they have come. A thread, as the wait for a name server never ends."""

    def __init__(self, address: str, max_bytes: int, quiet_seconds: float) -> None:
        super().__init__(daemon=True)
        self.address, self.max_bytes, self.quiet_seconds = address, max_bytes, quiet_seconds
        self.content = bytearray()
        self.error: Exception | None = None

    def has_ended(self, seconds: float) -> bool:
        """Wait for so many seconds; return whether the download has ended by then."""
        self.join(seconds)
        return not self.is_alive()

    def run(self) -> None:
        """Read all there is."""
        try:
            request = urllib.request.Request(self.address, headers={"User-Agent": "lenet5-reproduction"})
            # An opener that is kept would keep the proxies of the first call.
            opener = urllib.request.build_opener()
            with opener.open(request, timeout=self.quiet_seconds) as response:
                while part := response.read1(PART_BYTES):
                    self.content += part
                    if len(self.content) > self.max_bytes:
                        raise ValueError(f"it holds more than {self.max_bytes} bytes")
                if response.length:
                    raise ValueError(f"cut off after {len(self.content)} bytes, {response.length} are missing")
        except TimeoutError:
            self.error = OSError(_no_answer(self.quiet_seconds))
        except (OSError, HTTPException, ValueError) as error:
            self.error = error


def _no_answer(seconds: float) -> str:
    return f"no answer for {seconds:g} s"


def _reason(error: BaseException) -> str:
    """Return what an error says, in one short line without passwords."""
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {printable(error.reason)}"
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return short_line(said)


def _find_reason(text: str) -> str:
    found = next((match[1] for pattern in REASONS if (match := pattern.search(text))), text.strip())
    return short_line(found)


def _describe_proxy(address: str) -> str:
    """Return which proxy is used, as it may be what does not answer."""
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return ""
    return f", through the proxy {short_line(proxy)}"


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _size(folder: Path) -> int:
    """Return the bytes of all files below the folder; those that are removed meanwhile do not count."""
    size = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += (Path(directory) / name).lstat().st_size
    return size
