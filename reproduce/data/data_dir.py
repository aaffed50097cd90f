"""Find a data set's four files in what a user named, by what they are, whatever they are called.

Looked at are a directory, the folders in it and in those, and the zip and tar archives there; or one archive alone. A
file is taken for its SHA-256. Nothing is written, nothing is unpacked to the disk, and all that is read is bounded.
"""

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from reproduce.data.datasets import SHA256
from reproduce.data.downloads import in_short
from reproduce.data.mirrors import FILES, idx
from reproduce.paths import GZ, HEAD_BYTES, ZIP, is_tar, why_unreadable

# Of either data set, in bytes: 60,000 and 10,000 images of 28×28 and their labels, each after its header.
SIZES = dict(zip(FILES, (47_040_016, 60_008, 7_840_016, 10_008), strict=True))
USUAL_FOLDERS = ("MNIST/raw", "FashionMNIST/raw", "raw")  # torchvision's, looked at before all others
FOLDERS_BELOW = 2
MAX_ENTRIES = 10_000  # files and folders looked at, and members of one archive
MAX_READ = 1 << 30  # bytes, unpacked, over all
PART = 1 << 20  # bytes read at once
NUMPY_HEADER = 128  # bytes that NumPy writes before a plain array
LONGEST = max(SIZES.values()) + NUMPY_HEADER + 1  # more than any file of use holds
LAYERS = 4  # of archives and compression in each other: a .gz that a server packed again, in a zip
PROBLEMS_TOLD = 6

IN_NAME = re.compile(r"(train|t10k|test)[^a-z0-9]{0,3}(image|label)")
OF_THE_DATA = re.compile(r"mnist|train|test|archive")
PACKED = re.compile(r"\.(gz|tgz|tar|zip|npz|npy)$")
OTHER_FORM = re.compile(r"\.(csv|parquet|arrow|pkl|pickle|pt|mat|h5|hdf5|png|jpe?g|bmp)$")
OTHER_ARCHIVE = re.compile(r"\.(7z|rar|xz|txz|bz2|tbz2?|zst|lz4)$")
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
ENCRYPTED = 1  # of a member's flags in a zip
LFS_POINTER = b"version https://git-lfs"
IDX_OF_BYTES = b"\0\0\x08"
CHOOSE = {"mnist": "leave out --dataset", "fashion-mnist": "add --dataset fashion-mnist"}

Opened = io.BufferedIOBase


@dataclass(frozen=True)
class Found:
    """The files that are there; and where one is not, why, a line each, and what the user can do."""

    files: dict[str, bytes]
    problems: tuple[str, ...]
    remedy: str


class UnfitError(Exception):
    """Why something cannot hold what is looked for."""


class CutOffError(Exception):
    """Something compressed is damaged, or ends before it should."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size  # bytes that it gave before


def find(name: str, place: Path) -> Found:
    """The data set's files in a directory or an archive that is there."""
    search = _Search(name, place)
    for path, _ in sorted(_Listing(search).files(), key=_first_the_likeliest):
        search.look_at(path)
    return Found(search.files, tuple(search.told()), search.remedy())


def file_meant(name: str) -> str | None:
    """Which of the four files something of that name is meant to be; None where the name tells of none."""
    found = IN_NAME.search(name.lower())
    if found is None or name.startswith("._"):  # a Mac puts one beside every file of an archive
        return None
    return FILES[2 * (found[1] != "train") + (found[2] == "label")]


@dataclass
class _Search:
    """What was found of one data set so far, and what was not what it should be."""

    name: str
    place: Path
    files: dict[str, bytes] = field(default_factory=dict)
    foreign: dict[str, set[str]] = field(default_factory=dict)  # by data set, its files that are here
    problems: list[tuple[str | None, str]] = field(default_factory=list)  # of which file, if that is known, and what
    other_forms: list[str] = field(default_factory=list)
    read: int = 0  # bytes

    def is_complete(self) -> bool:
        """Whether there is nothing more to look for."""
        return self.files.keys() == SHA256[self.name].keys()

    def look_at(self, path: Path) -> None:
        """Take what a file or an archive holds."""

        def opened() -> Opened:
            try:
                return path.open("rb")
            except OSError as error:
                raise UnfitError(why_unreadable(path, error)) from error

        self._take(opened, str(path), path.name)

    def _take(self, open_it: Callable[[], Opened], shown: str, name: str, layers: int = 0) -> None:
        if self.is_complete() or self.read > MAX_READ:
            return
        try:
            with open_it() as opened:
                self._look_into(opened, shown, name, layers)
        except Exception as error:  # a damaged archive makes its reader raise what it likes
            meant = file_meant(name)
            self.problems.append((meant, f"{shown} cannot be read ({_why(error, meant)})"))

    def _look_into(self, opened: Opened, shown: str, name: str, layers: int) -> None:
        head = _read(opened, HEAD_BYTES)
        opened.seek(0)
        if layers == LAYERS:
            return
        if head.startswith(GZ):
            with gzip.open(opened) as unpacked:
                self._look_into(_Counted(unpacked, self._count), shown, name, layers + 1)
        elif head.startswith(ZIP):
            with zipfile.ZipFile(_Counted(opened)) as archive:
                self._take_members(_of_zip(archive), shown, layers + 1)
        elif is_tar(head):
            with tarfile.open(fileobj=_Counted(opened), mode="r:") as archive:
                self._take_members(_of_tar(archive), shown, layers + 1)
        else:
            content = _read(opened, LONGEST)
            self._count(len(content))
            self._judge(shown, name, _as_idx(content))

    def _take_members(self, members: Iterator[tuple[str, int, Callable]], shown: str, layers: int) -> None:
        for inside, size, open_it in islice(members, MAX_ENTRIES):
            name = inside.rpartition("/")[2]
            if _is_likely(name, size):
                self._take(partial(self._in_memory, open_it), f"{shown}/{inside}", name, layers)

    def _in_memory(self, open_it: Callable[[], Opened]) -> Opened:
        """What is at the beginning of a member: going back in what is packed means to unpack it all again."""
        with open_it() as opened:
            content = _read(opened, LONGEST)
        self._count(len(content))
        return io.BytesIO(content)

    def _count(self, size: int) -> None:
        self.read += size
        if self.read > MAX_READ:
            raise UnfitError(f"it would take more than {MAX_READ >> 20:,} MiB to read")

    def _judge(self, shown: str, name: str, content: bytes) -> None:
        """Take a file of the data set, and keep what is wrong with one that is meant to be such a file."""
        meant, known = file_meant(name), _known(content)
        if known is None and meant:
            wrong = self._what_is_wrong(content, meant)
            self.problems.append((meant, f"{shown} is not the file it should be: {wrong}"))
        elif known and known[0] != self.name:
            self.foreign.setdefault(known[0], set()).add(known[1])
        elif known:
            self.files.setdefault(known[1], content)
            if meant != known[1]:
                self.problems.append((meant, f"{shown} holds {known[1]}"))

    def _what_is_wrong(self, content: bytes, meant: str) -> str:
        size, right = len(content), SIZES[meant]
        if (kind := _kind(content, right)) is not None:
            return kind
        if size < right:
            return f"it ends after {size:,} of {right:,} bytes, {right - size:,} are missing: download it again"
        if size > right:
            return f"it holds more than {right:,} bytes"
        return f"SHA-256 {hashlib.sha256(content).hexdigest()}, expected {SHA256[self.name][meant]}"

    def told(self) -> Iterator[str]:
        """What is wrong, a line each, as far as a file is missing."""
        missing = [file for file in SHA256[self.name] if file not in self.files]
        if not missing:
            return
        for other, files in self.foreign.items():
            what = "the files" if len(files) == len(FILES) else " and ".join(sorted(files))
            yield f"{self.place} holds {what} of {other}, and {self.name} was asked for"
        problems = [(file, problem) for file, problem in self.problems if self._explains(file, missing)]
        yield from (problem for _, problem in problems[:PROBLEMS_TOLD])
        if len(problems) > PROBLEMS_TOLD:
            yield f"{self.place} has {len(problems) - PROBLEMS_TOLD} more files that cannot be used"
        untold = [file for file in missing if file not in dict(problems)]
        if untold and not self.foreign:
            yield f"{self.place} has no {', '.join(untold)}: neither plain, nor as .gz, nor in a zip or tar"
            yield from map(self._other_form, self.other_forms[:1])

    def _explains(self, file: str | None, missing: list[str]) -> bool:
        """Whether what is wrong with something may be why a file is missing; of no file where that is not known."""
        return file in missing or (file is None and not self.foreign)

    def _other_form(self, name: str) -> str:
        if OTHER_ARCHIVE.search(name.lower()):
            return f"{self.place} has {name}, an archive of a kind that is not read here: unpack it"
        return f"{self.place} has {name}, which is not read here: the images are taken from the four IDX files"

    def remedy(self) -> str:
        """What to do where a file is missing."""
        for other in self.foreign:
            return f"{CHOOSE[other]} to use what {self.place} holds, or have --data-dir name where {self.name} is"
        if any("no permission" in problem for _, problem in self.problems):
            return f"ask for permission to read what is in {self.place}, or have --data-dir name a copy of your own"
        if self.place.is_file():
            return f"put them beside {self.place}, and have --data-dir name their directory"
        return f"put them into {self.place}"


class _Listing:
    """The files at a place that may be of use."""

    def __init__(self, search: _Search) -> None:
        self.search, self.place = search, search.place
        self.left = MAX_ENTRIES
        self.seen: set[Path] = set()

    def files(self) -> Iterator[tuple[Path, int]]:
        """Each with its size in bytes, those near the top first."""
        if self.place.is_file():
            yield self.place, self.place.stat().st_size
            return
        folders = [folder for name in USUAL_FOLDERS if (folder := self.place / name).is_dir()]
        yield from (file for folder in folders for file in self._in_folder(folder, []))
        level = [self.place]
        for _ in range(FOLDERS_BELOW + 1):
            below: list[Path] = []
            for folder in level:
                yield from self._in_folder(folder, below)
            level = below

    def _in_folder(self, folder: Path, below: list[Path]) -> Iterator[tuple[Path, int]]:
        if folder in self.seen or self.left < 0:
            return
        self.seen.add(folder)
        for path in self._entries(folder):
            try:
                status = path.stat()
            except OSError as error:
                self._unfit(path, partial(why_unreadable, path, error))
                continue
            if stat.S_ISDIR(status.st_mode):
                below.append(path)
            elif not stat.S_ISREG(status.st_mode):
                self._unfit(path, lambda: "it is no file")
            elif _is_likely(path.name, status.st_size):
                yield path, status.st_size
            else:
                self._keep_other_form(str(path.relative_to(self.place)))

    def _keep_other_form(self, inside: str) -> None:
        small = inside.lower()
        if OF_THE_DATA.search(small) and (OTHER_FORM.search(small) or OTHER_ARCHIVE.search(small)):
            self.search.other_forms.append(inside)

    def _entries(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in islice(entries, self.left + 1))
        except OSError as error:
            self.search.problems.append((None, f"{folder} cannot be read ({why_unreadable(folder, error)})"))
            return []
        self.left -= len(names)
        if self.left < 0:
            what = f"{self.place} holds more than {MAX_ENTRIES:,} files and folders, and not all were looked at"
            self.search.problems.append((None, f"{what}: have --data-dir name the folder that holds the four"))
        return [folder / name for name in names]

    def _unfit(self, path: Path, why: Callable[[], str]) -> None:
        if meant := file_meant(path.name):
            self.search.problems.append((meant, f"{path} cannot be read ({why()})"))


class _Counted(Opened):
    """A file in the hands of an archive's reader, which no size that is written in it can have read far at once.

    What is passed is counted, where it had to be unpacked.
    """

    def __init__(self, opened: Opened, count: Callable[[int], None] = lambda size: None) -> None:
        self.opened, self.count = opened, count

    def seekable(self) -> bool:
        """As what is behind it."""
        return self.opened.seekable()

    def tell(self) -> int:
        """Where the next byte is read."""
        return self.opened.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes; UnfitError for more of them at once than PART."""
        content = _read(self.opened, PART + 1 if size < 0 else min(size, PART + 1))
        if len(content) > PART:
            raise UnfitError("its list of contents is too long")
        self.count(len(content))
        return content

    def read1(self, size: int) -> bytes:
        """Some of the next bytes."""
        content = self.opened.read1(size)
        self.count(len(content))
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go there, which may take unpacking all that is between."""
        if whence == os.SEEK_SET:
            self.count(max(0, offset - self.opened.tell()))
        return self.opened.seek(offset, whence)


def _of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, Callable]]:
    def open_it(member: zipfile.ZipInfo) -> Opened:
        if member.flag_bits & ENCRYPTED:
            raise UnfitError("it is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # whose unpacking is not bounded
            raise UnfitError("it is compressed in a way that is not read here")
        return archive.open(member)

    for member in archive.infolist():
        if not member.is_dir():
            yield member.filename, member.file_size, partial(open_it, member)


def _of_tar(archive: tarfile.TarFile) -> Iterator[tuple[str, int, Callable]]:
    for member in archive:
        if member.isreg():
            yield member.name, member.size, partial(archive.extractfile, member)


def _read(opened: Opened, most: int) -> bytes:
    """The next bytes, up to so many; CutOffError where what is compressed is damaged or ends."""
    parts, left = [], most
    try:
        # What is compressed and cut off still gives what comes before, a part at a time.
        while left > 0 and (part := opened.read1(min(left, PART))):
            parts.append(part)
            left -= len(part)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CutOffError(opened.tell()) from error
    return b"".join(parts)


def _is_likely(name: str, size: int) -> bool:
    return size in SIZES.values() or file_meant(name) is not None or PACKED.search(name.lower()) is not None


def _first_the_likeliest(file: tuple[Path, int]) -> tuple[int, bool]:
    """What to look at first: what has the size, then what has the name, then the rest, with mnist in its name."""
    path, size = file
    rank = 0 if size in SIZES.values() else 1 if file_meant(path.name) else 2
    return rank, "mnist" not in path.name.lower()


def _known(content: bytes) -> tuple[str, str] | None:
    """The data set that this is of, and which of its files."""
    if len(content) not in SIZES.values():
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    return next(((name, file) for name in SHA256 for file in FILES if SHA256[name][file] == sha256), None)


def _as_idx(content: bytes) -> bytes:
    """An array that NumPy wrote, as in Keras' mnist.npz, as the IDX file of it; all else as it is."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):  # more than was read of it, say
        return content
    return idx(array) if array.dtype == np.uint8 else content


def _kind(content: bytes, right: int) -> str | None:
    """What something is that is no part of such a file of `right` bytes; None where it may be."""
    if not content:
        return "it is empty"
    if WEB_PAGE.match(content):
        return "it is a web page, not the file: download it again"
    if content.startswith(LFS_POINTER):
        return "it only points to the file: git lfs pull gets that"
    if content[:3] != IDX_OF_BYTES[: len(content)]:
        return f"it is no IDX file of bytes, as it begins with {content[:4].hex()}"
    header = 4 + 4 * content[3] if len(content) > 3 else right
    shape = np.frombuffer(content[4:header], ">u4").tolist() if header <= min(len(content), 16) else []
    if shape and header + int(np.prod(shape, dtype=object)) != right:
        return f"it is an IDX file of {'×'.join(map(str, shape))}, of another data set"
    return None


def _why(error: Exception, meant: str | None) -> str:
    if isinstance(error, CutOffError):
        of = f" of {SIZES[meant]:,}" if meant else ""
        return f"damaged or not downloaded whole, it unpacks to {error.size:,}{of} bytes: download it again"
    return in_short(str(error) or type(error).__name__)
