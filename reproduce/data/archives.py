"""The files in an archive, read one by one into memory: plain, compressed, in a zip or tar, and in each other.

Archives are not trusted. Nothing is unpacked to the disk, where a member's name could lead anywhere
(`shutil.unpack_archive` would do that), no size that an archive claims is read at once, and what is unpacked over all
is bounded, so that a small archive which unpacks to terabytes is given up.
"""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

from reproduce.paths import GZ, HEAD_BYTES, ZIP, is_archive, is_tar, why_unreadable

MAX_MEMBERS = 10_000
MAX_READ_BYTES = 1 << 30
PART_BYTES = 1 << 20
# A .gz that a server compressed again, in a zip in a zip.
MAX_LAYERS = 4
ENCRYPTED_FLAG = 1

Opener = Callable[[], io.BufferedIOBase]


class UnreadableError(Exception):
    """The reason why a file cannot be read."""


class CutOffError(Exception):
    """Compressed data that is damaged or ends early. `size` is the number of bytes that it unpacks to."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


@dataclass(frozen=True)
class Member:
    """A file with its first bytes, or the error where it cannot be read. `path` continues inside an archive."""

    path: str
    content: bytes = b""
    error: Exception | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class Reader:
    """A reader of files and archives: at most `max_file_bytes` of a file, and MAX_READ_BYTES over all.

    Of an archive's members only those are read whose name and size in bytes `is_needed` takes.
    """

    def __init__(self, max_file_bytes: int, is_needed: Callable[[str, int], bool]) -> None:
        self.max_file_bytes = max_file_bytes
        self.is_needed = is_needed
        self.read_bytes = 0

    def read(self, path: Path) -> Iterator[Member]:
        """Yield the file itself, or the files in it where it is an archive."""

        def open_file() -> io.BufferedIOBase:
            try:
                return path.open("rb")
            except OSError as error:
                raise UnreadableError(why_unreadable(path, error)) from error

        return self._read(open_file, str(path), 0)

    def _read(self, open_file: Opener, shown: str, layer: int) -> Iterator[Member]:
        if self.read_bytes > MAX_READ_BYTES:
            return
        try:
            with open_file() as opened:
                yield from self._look_into(opened, shown, layer)
        # The readers of damaged archives raise errors of any kind.
        except Exception as error:
            yield Member(shown, error=error)

    def _look_into(self, opened: io.BufferedIOBase, shown: str, layer: int) -> Iterator[Member]:
        head = opened.read(HEAD_BYTES)
        opened.seek(0)
        if layer == MAX_LAYERS:
            return
        if head.startswith(GZ):
            with gzip.open(opened) as unpacked:
                yield from self._look_into(self._in_memory(unpacked), shown, layer + 1)
        elif head.startswith(ZIP):
            with zipfile.ZipFile(_PartwiseReader(opened)) as archive:
                yield from self._read_members(_list_zip(archive), shown, layer + 1)
        elif is_tar(head):
            with tarfile.open(fileobj=_PartwiseReader(opened), mode="r:") as archive:
                yield from self._read_members(_list_tar(archive), shown, layer + 1)
        else:
            yield Member(shown, self._read_counted(opened, self.max_file_bytes))

    def _read_members(self, members: Iterator[tuple[str, int, Opener]], shown: str, layer: int) -> Iterator[Member]:
        for name, size, open_member in islice(members, MAX_MEMBERS):
            if self.is_needed(name.rpartition("/")[2], size):
                yield from self._read(partial(self._open_in_memory, open_member), f"{shown}/{name}", layer)

    def _open_in_memory(self, open_member: Opener) -> io.BufferedIOBase:
        with open_member() as opened:
            return self._in_memory(opened)

    def _in_memory(self, opened: io.BufferedIOBase) -> io.BufferedIOBase:
        """Return what is unpacked, as going back in a compressed file means to unpack it again: archives whole."""
        content = self._read_counted(opened, self.max_file_bytes)
        if is_archive(content[:HEAD_BYTES]):
            content += self._read_counted(opened, MAX_READ_BYTES)
        return io.BytesIO(content)

    def _read_counted(self, opened: io.BufferedIOBase, limit: int) -> bytes:
        content = _read_parts(opened, min(limit, MAX_READ_BYTES - self.read_bytes + 1))
        self.read_bytes += len(content)
        if self.read_bytes > MAX_READ_BYTES:
            raise UnreadableError(f"it would take more than {MAX_READ_BYTES >> 20:,} MiB to read")
        return content


class _PartwiseReader(io.BufferedReader):
    """A file for a reader of archives, which would otherwise read as much at once as an archive claims to have."""

    def __init__(self, opened: io.BufferedIOBase) -> None:
        super().__init__(cast(io.RawIOBase, opened))

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; UnreadableError for more than PART_BYTES at once."""
        content = super().read(PART_BYTES + 1 if size is None or size < 0 else min(size, PART_BYTES + 1))
        if len(content) > PART_BYTES:
            raise UnreadableError("its list of contents is too long")
        return content


def _list_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, Opener]]:
    def open_member(member: zipfile.ZipInfo) -> io.BufferedIOBase:
        if member.flag_bits & ENCRYPTED_FLAG:
            raise UnreadableError("it is encrypted")
        # The other methods unpack without a bound.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableError("it is compressed in a way that this command cannot read")
        return cast(io.BufferedIOBase, archive.open(member))

    for member in archive.infolist():
        if not member.is_dir():
            yield member.filename, member.file_size, partial(open_member, member)


def _list_tar(archive: tarfile.TarFile) -> Iterator[tuple[str, int, Opener]]:
    for member in archive:
        if member.isreg():
            yield member.name, member.size, cast(Opener, partial(archive.extractfile, member))


def _read_parts(opened: io.BufferedIOBase, limit: int) -> bytes:
    """Return the next bytes, up to `limit`; CutOffError where what is compressed is damaged or ends."""
    content = bytearray()
    try:
        # Read in one piece, what is compressed and cut off would not give what comes before.
        while len(content) < limit and (part := opened.read1(min(limit - len(content), PART_BYTES))):
            content += part
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CutOffError(len(content)) from error
    return bytes(content)
