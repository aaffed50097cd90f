"""Get bytes from the network: bounded in time and in size, never silent for long, left at once when interrupted.

Nothing is written but into the folder that an attempt is given, which its owner removes.
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
from textwrap import shorten
from urllib.error import HTTPError
from urllib.parse import urlsplit

from reproduce import progress
from reproduce.escaping import printable, without_credentials

QUIET_SECONDS = 10  # without a byte from a server
PROGRAM_QUIET_SECONDS = 20  # from a program, which has to start, and may try several servers
TOTAL_SECONDS = 600  # for all that one source gives: 12 MB of MNIST at 20 kB/s
LOOK_SECONDS = 0.2
PART = 1 << 16  # bytes read at a time, at most
LONGEST_REASON = 200  # characters
# What programs say of a failure, the most telling first.
REASONS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"(\[Errno -?\d+\] [^'\")\n]+)", r"reason: (.+)", r"(network timeout at: \S+)", r"\b(timed out)\b",
        r"Could not fetch URL \S+: (.+)", r"^npm error (?!code|errno|syscall)(.+)", r"^ERROR: (.+)",
    )
)  # fmt: skip


class SourceError(Exception):
    """This source cannot give the data, and why, in one line."""


@dataclass(frozen=True)
class Attempt:
    """One try at the source of that title: what is wanted, a folder to work in, and who is told how far it is.

    It is over once nothing more comes for `quiet_seconds`.
    """

    title: str
    files: tuple[str, ...]
    folder: Path
    say: Callable[[str], None]
    quiet_seconds: float = QUIET_SECONDS
    started: float = field(default_factory=time.monotonic)

    def from_web(self, address: str, longest: int) -> bytes:
        """What is at the address, no longer than so many bytes; SourceError where it cannot be had."""
        download, proxy = _Download(address, longest, self.quiet_seconds), _through_proxy(address)
        download.start()
        self._wait(download.has_ended, lambda: len(download.content), address.rpartition("/")[2], proxy)
        if download.error is not None:
            raise SourceError(reason(download.error) + proxy) from download.error
        return bytes(download.content)

    def by_program(self, command: list[str], name: str) -> None:
        """Have the program of that name put what it fetches into the folder; SourceError where it fails.

        Whatever ends the wait ends it and all that it started. Its temporary files are in the folder too.
        """
        temporary, said = self.folder / "temporary", self.folder / "said"
        temporary.mkdir()
        with said.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    env=os.environ | {"TMPDIR": str(temporary)},
                )  # fmt: skip
            except OSError as error:
                raise SourceError(reason(error)) from error
        try:
            self._wait(lambda seconds: _has_ended(process, seconds), lambda: _size(self.folder), self.title)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != 0:
            text = said.read_text(encoding="utf-8", errors="replace")
            raise SourceError(f"{name} ended with {process.returncode} ({_said_reason(text)})")

    def _wait(
        self, has_ended: Callable[[float], bool], received: Callable[[], int], what: str, proxy: str = ""
    ) -> None:
        """Wait for the end; SourceError once nothing more comes, or this attempt has had its time."""
        size, heard = received(), time.monotonic()
        with progress.show_wait(self.say) as show:
            while not has_ended(LOOK_SECONDS):
                now, before, size = time.monotonic(), size, received()
                heard = now if size != before else heard
                if now - heard > self.quiet_seconds:
                    raise SourceError(f"{silence(self.quiet_seconds)}{proxy}")
                if now - self.started > TOTAL_SECONDS:
                    raise SourceError(f"not done after {TOTAL_SECONDS:g} s")
                show(f"{what}: {size / 1e6:.1f} MB so far, {now - self.started:.0f} of at most {TOTAL_SECONDS:g} s")


class _Download(threading.Thread):
    """The bytes at one address, as far as they have come.

    A daemon, as nothing can interrupt the wait for a name server.
    """

    def __init__(self, address: str, longest: int, quiet_seconds: float) -> None:
        super().__init__(daemon=True)
        self.address, self.longest, self.quiet_seconds = address, longest, quiet_seconds
        self.content, self.error = bytearray(), None

    def has_ended(self, seconds: float) -> bool:
        """Whether all is there, or nothing more comes, by so many seconds from now."""
        self.join(seconds)
        return not self.is_alive()

    def run(self) -> None:
        """Read all there is."""
        try:
            request = urllib.request.Request(self.address, headers={"User-Agent": "lenet5-reproduction"})
            opener = urllib.request.build_opener()  # with the proxies of now, not of the first call
            with opener.open(request, timeout=self.quiet_seconds) as response:
                while part := response.read1(PART):
                    self.content += part
                    if len(self.content) > self.longest:
                        raise ValueError(f"it holds more than {self.longest} bytes")
                if response.length:
                    raise ValueError(f"cut off after {len(self.content)} bytes, {response.length} are missing")
        except TimeoutError:
            self.error = OSError(silence(self.quiet_seconds))
        except (OSError, HTTPException, ValueError) as error:
            self.error = error


def silence(seconds: float) -> str:
    """What is said of a source that gives nothing for so long."""
    return f"no answer for {seconds:g} s"


def reason(error: BaseException) -> str:
    """What an error says, in one short line, with no credentials in it."""
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {printable(error.reason)}"
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return reason(inner)
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return in_short(said)


def in_short(text: str) -> str:
    """The text in one line, cut between words where it is long."""
    return shorten(printable(without_credentials(text)), LONGEST_REASON, placeholder=" …")


def _said_reason(text: str) -> str:
    found = next((match[1] for pattern in REASONS if (match := pattern.search(text))), text.strip())
    return in_short(found)


def _through_proxy(address: str) -> str:
    """The proxy that stands between, as it may well be what does not answer."""
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return ""
    return f", through the proxy {in_short(proxy)}"


def _has_ended(process: subprocess.Popen, seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _size(folder: Path) -> int:
    """Bytes in all files below the folder; those that go away meanwhile do not count."""
    size = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += (Path(directory) / name).lstat().st_size
    return size
