"""Find a data set's four files in a directory or archive that the user names, by their SHA-256, under any name.

Looked at are the directory, the folders in it and in those, and the archives there. Nothing is written.
"""

import hashlib
import io
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from reproduce.data.archives import CutOffError, Member, Reader
from reproduce.data.datasets import FILES, SHA256, encode_idx
from reproduce.escaping import short_line
from reproduce.paths import why_unreadable

# Bytes of either data set's files: 60,000 and 10,000 images of 28×28 and their labels, each after its header.
SIZES = dict(zip(FILES, (47_040_016, 60_008, 7_840_016, 10_008), strict=True))
# More than any file of use has, with the header that NumPy writes before an array.
MAX_FILE_BYTES = max(SIZES.values()) + 128 + 1
# torchvision's, looked at before all others.
USUAL_FOLDERS = ("MNIST/raw", "FashionMNIST/raw", "raw")
MAX_DEPTH = 2
MAX_ENTRIES = 10_000
MAX_PROBLEMS = 6

NAME = re.compile(r"(train|t10k|test)[^a-z0-9]{0,3}(image|label)")
PACKED = re.compile(r"\.(gz|tgz|tar|zip|npz|npy)$")
DATA_NAME = re.compile(r"mnist|train|test|archive")
OTHER_FORM = re.compile(r"\.(csv|parquet|arrow|pkl|pickle|pt|mat|h5|hdf5|png|jpe?g|bmp)$")
OTHER_ARCHIVE = re.compile(r"\.(7z|rar|xz|txz|bz2|tbz2?|zst|lz4)$")
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
LFS_POINTER = b"version https://git-lfs"
IDX_OF_BYTES = b"\0\0\x08"
CHOOSE = {"mnist": "leave out --dataset", "fashion-mnist": "add --dataset fashion-mnist"}


@dataclass(frozen=True)
class FoundFiles:
    """The files that were found, by name. Where some are missing, `problems` has a line for each reason.

    `damage` is what is wrong with a missing file that is there, but cannot be used, and empty where none is. `remedy`
    is what the user can do.
    """

    files: dict[str, bytes]
    problems: tuple[str, ...]
    damage: str
    remedy: str


def find_files(dataset: str, place: Path) -> FoundFiles:
    """Return what a directory or archive has of the data set."""
    search = _Search(dataset, place)
    reader = Reader(MAX_FILE_BYTES, _is_likely)
    for path, _ in sorted(search.list_files(), key=_likelihood_rank):
        for member in reader.read(path):
            search.take(member)
            if not search.missing():
                break
    return FoundFiles(search.files, tuple(search.list_problems()), search.damage(), search.remedy())


def intended_file(name: str) -> str | None:
    """Return which of the four files something of that name is meant to be; None where the name does not say."""
    found = NAME.search(name.lower())
    # A Mac puts such a file beside every file of an archive.
    if found is None or name.startswith("._"):
        return None
    return FILES[2 * (found[1] != "train") + (found[2] == "label")]


@dataclass
class _Search:
    """The files of one data set found so far, and the problems. A problem has the file's name, where it is known."""

    dataset: str
    place: Path
    files: dict[str, bytes] = field(default_factory=dict)
    foreign: dict[str, set[str]] = field(default_factory=dict)
    problems: list[tuple[str | None, str]] = field(default_factory=list)
    other_forms: list[str] = field(default_factory=list)

    def missing(self) -> list[str]:
        return [file for file in FILES if file not in self.files]

    def take(self, member: Member) -> None:
        """Keep a file of the data set, or what is wrong with one that is meant to be such a file."""
        intended = intended_file(member.name)
        if member.error is not None:
            self.problems.append((intended, f"{member.path} cannot be read ({_explain(member.error, intended)})"))
            return
        content = _decode_numpy(member.content)
        known = _identify(content)
        if known is None:
            if intended:
                wrong = self._what_is_wrong(content, intended)
                self.problems.append((intended, f"{member.path} is not the right file: {wrong}"))
            return
        dataset, file = known
        if dataset != self.dataset:
            self.foreign.setdefault(dataset, set()).add(file)
            return
        self.files.setdefault(file, content)
        if intended != file:
            self.problems.append((intended, f"{member.path} holds {file}"))

    def _what_is_wrong(self, content: bytes, intended: str) -> str:
        size, right = len(content), SIZES[intended]
        if kind := _describe_kind(content, right):
            return kind
        if size < right:
            return f"it ends after {size:,} of {right:,} bytes, {right - size:,} are missing: download it again"
        if size > right:
            return f"it holds more than {right:,} bytes"
        return f"SHA-256 {hashlib.sha256(content).hexdigest()}, expected {SHA256[self.dataset][intended]}"

    def list_files(self) -> Iterator[tuple[Path, int]]:
        """Yield the files at the place that may be of use, with their bytes, those near the top first."""
        if self.place.is_file():
            yield self.place, self.place.stat().st_size
            return
        usual = [(folder, MAX_DEPTH) for name in USUAL_FOLDERS if (folder := self.place / name).is_dir()]
        folders, seen, entries_left = deque([*usual, (self.place, 0)]), set[Path](), MAX_ENTRIES
        while folders:
            folder, depth = folders.popleft()
            if folder in seen:
                continue
            seen.add(folder)
            paths = self._list_folder(folder, entries_left)
            entries_left -= len(paths)
            for path in paths:
                status = self._stat(path)
                if status and stat.S_ISDIR(status.st_mode):
                    folders += [(path, depth + 1)] if depth < MAX_DEPTH else []
                elif status and _is_likely(path.name, status.st_size):
                    yield path, status.st_size
                elif status:
                    self._keep_other_form(str(path.relative_to(self.place)))
            if entries_left < 0:
                what = f"{self.place} holds more than {MAX_ENTRIES:,} files and folders, and not all were looked at"
                self.problems.append((None, f"{what}: set --data-dir to the folder that holds the four"))
                return

    def _list_folder(self, folder: Path, limit: int) -> list[Path]:
        """Return what is in a folder, in order; where that is more than `limit`, one more than it."""
        try:
            with os.scandir(folder) as entries:
                return sorted(Path(entry.path) for entry in islice(entries, limit + 1))
        except OSError as error:
            self.problems.append((None, f"{folder} cannot be read ({why_unreadable(folder, error)})"))
            return []

    def _stat(self, path: Path) -> os.stat_result | None:
        """Return the status of a file or folder, None where it is neither."""
        try:
            status = path.stat()
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                return status
            why = "it is no file"
        except OSError as error:
            why = why_unreadable(path, error)
        if intended := intended_file(path.name):
            self.problems.append((intended, f"{path} cannot be read ({why})"))
        return None

    def _keep_other_form(self, inside: str) -> None:
        name = inside.lower()
        if DATA_NAME.search(name) and (OTHER_FORM.search(name) or OTHER_ARCHIVE.search(name)):
            self.other_forms.append(inside)

    def list_problems(self) -> Iterator[str]:
        """Yield what is wrong, a line each, where a file is missing."""
        missing = self.missing()
        if not missing:
            return
        for other, files in self.foreign.items():
            what = "the files" if len(files) == len(FILES) else " and ".join(sorted(files))
            yield f"{self.place} holds {what} of {other}, and {self.dataset} was asked for"
        # What is wrong with a file of unknown name may be why one is missing.
        problems = [(file, line) for file, line in self.problems if file in missing or not (file or self.foreign)]
        yield from (line for _, line in problems[:MAX_PROBLEMS])
        if len(problems) > MAX_PROBLEMS:
            yield f"{self.place} has {len(problems) - MAX_PROBLEMS} more files that cannot be used"
        unexplained = [file for file in missing if file not in dict(problems)]
        if unexplained and not self.foreign:
            yield f"{self.place} has no {', '.join(unexplained)}: neither plain, nor as .gz, nor in a zip or tar"
            yield from map(self._explain_other_form, self.other_forms[:1])

    def damage(self) -> str:
        """Return what is wrong with a missing file that is there: damaged, unreadable, or of another data set."""
        missing = self.missing()
        if missing and self.foreign:
            return next(self.list_problems())
        for file, line in self.problems:
            if file is None and missing and self.place.is_file():
                return line
            if file in missing:
                sha256 = SHA256[self.dataset][file]
                return line if sha256 in line else f"{line}; expected SHA-256 {sha256}"
        return ""

    def _explain_other_form(self, name: str) -> str:
        if OTHER_ARCHIVE.search(name.lower()):
            return f"{self.place} has {name}, an archive of a kind that this command cannot read: unpack it"
        return f"{self.place} has {name}, which this command cannot read: it reads only the four IDX files"

    def remedy(self) -> str:
        """Return what to do where a file is missing."""
        for other in self.foreign:
            return (
                f"{CHOOSE[other]} to use what {self.place} holds, or set --data-dir to the place of {self.dataset} is"
            )
        if any("no permission" in problem for _, problem in self.problems):
            return f"ask for permission to read what is in {self.place}, or set --data-dir to a copy of your own"
        if self.place.is_file():
            return f"put the right files beside {self.place}, and set --data-dir to their directory"
        return f"put the right files into {self.place}"


def _is_likely(name: str, size: int) -> bool:
    return size in SIZES.values() or intended_file(name) is not None or PACKED.search(name.lower()) is not None


def _likelihood_rank(file: tuple[Path, int]) -> tuple[int, bool]:
    """Return what to look at first: what has the size, then what has the name, then what has mnist in its name."""
    path, size = file
    rank = 0 if size in SIZES.values() else 1 if intended_file(path.name) else 2
    return rank, "mnist" not in path.name.lower()


def _identify(content: bytes) -> tuple[str, str] | None:
    """Return the data set that a file belongs to, and its name there."""
    if len(content) not in SIZES.values():
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    return next(((dataset, file) for dataset in SHA256 for file in FILES if SHA256[dataset][file] == sha256), None)


def _decode_numpy(content: bytes) -> bytes:
    """Return the IDX file of an array that NumPy wrote, as in Keras' mnist.npz; anything else as it is."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    # It may be longer than what was read of it.
    except (ValueError, EOFError):
        return content
    return encode_idx(array) if array.dtype == np.uint8 else content


def _describe_kind(content: bytes, right: int) -> str | None:
    """Return what something is that is no part of an IDX file of `right` bytes; None where it may be."""
    if not content:
        return "it is empty"
    if WEB_PAGE.match(content):
        return "it is a web page, not the file: download it again"
    if content.startswith(LFS_POINTER):
        return "it only points to the file: type git lfs pull to get it"
    if content[:3] != IDX_OF_BYTES[: len(content)]:
        return f"it is no IDX file of bytes, as it begins with {content[:4].hex()}"
    header = 4 + 4 * content[3] if len(content) > 3 else right
    shape = np.frombuffer(content[4:header], ">u4").tolist() if header <= min(len(content), 16) else []
    if shape and header + int(np.prod(shape, dtype=object)) != right:
        return f"it is an IDX file of {'×'.join(map(str, shape))}, of another data set"
    return None


def _explain(error: Exception, intended: str | None) -> str:
    if isinstance(error, CutOffError):
        whole = f" of {SIZES[intended]:,}" if intended else ""
        return f"damaged or not completely downloaded, it unpacks to {error.size:,}{whole} bytes: download it again"
    return short_line(str(error) or type(error).__name__)
