"""The cache of a data set: its files found or fetched, verified by their SHA-256, the images resized once.

`prepare` is the only writer of the cache. Every file in it appears whole or not at all, with the permissions that the
umask leaves. A cache in which nothing is missing is only read, so that it may be somebody else's.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from reproduce.data import downloads, mirrors
from reproduce.data.data_dir import FoundFiles, find_files
from reproduce.data.datasets import RESIZED, SHA256, read_idx, resize
from reproduce.errors import UserError
from reproduce.files import file_sha256, write_atomically
from reproduce.paths import DATA_EXPECTED, HOME, remove, why_no_data

# For another command to prepare the data, which may try every source.
LOCK_SECONDS = 1800
NO_DATA_DIR = FoundFiles({}, (), "", "put the files into a directory and name it with --data-dir")
# Whatever a preparation that was killed has half written.
UNFINISHED = ".*-*"


def prepare(dataset: str, home: Path, data_dir: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Put the whole data set into the cache under `home`.

    Files in the cache that are damaged are set aside; those in `data_dir` are left alone.

    Args:
        dataset: `mnist` or `fashion-mnist`.
        home: The directory of data and checkpoints.
        data_dir: A directory or an archive. What it lacks comes from the cache, then from the sources of `mirrors.py`.
        say: Gets each line of progress.

    Raises:
        UserError: `data_dir` has a damaged file, or no source has a file, or the cache cannot be written.
    """
    found = _find(dataset, data_dir, say) if data_dir else NO_DATA_DIR
    cache = home / "data" / dataset
    try:
        is_complete = _is_complete(cache, dataset)
        if is_complete and not any(cache.glob(UNFINISHED)):
            return
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(cache, say):
                for unfinished in cache.glob(UNFINISHED):
                    remove(unfinished)
                _add_files(dataset, cache, found, say)
                _add_resized(cache, SHA256[dataset], say)
        except PermissionError:
            if not is_complete:
                raise
    except OSError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else cache
        raise UserError(
            f"{place}, in the cache of {dataset}, cannot be used ({error.strerror}): "
            f"correct that, or set {HOME} to another directory"
        ) from error


def _find(dataset: str, data_dir: Path, say: Callable[[str], None]) -> FoundFiles:
    if (why := why_no_data(data_dir)) is not None:
        raise UserError(f"the data directory is {data_dir}, but {why}; expected {DATA_EXPECTED}: correct it")
    found = find_files(dataset, data_dir)
    for problem in found.problems:
        if not found.damage.startswith(problem):
            say(problem if found.damage else f"{problem}; trying other sources")
    # A directory that the user names is there for its files. Others in their place would hide that these are damaged.
    if found.damage:
        raise UserError(f"{found.damage}: {found.remedy}, or name no data directory, to fetch them")
    return found


def _is_complete(cache: Path, dataset: str) -> bool:
    hashes = SHA256[dataset]
    files = all(file_sha256(cache / file) == sha256 for file, sha256 in hashes.items())
    return files and all(_is_resized(cache, file, hashes[file]) for file in RESIZED)


@contextmanager
def _locked(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock, busy = FileLock(cache / "lock"), f"another command is preparing the data in {cache}"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"{busy}; waiting for it, for up to {LOCK_SECONDS} s")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise UserError(f"{busy}, and has been for {LOCK_SECONDS} s: end it if it is suspended") from error
    try:
        yield
    finally:
        lock.release()


def _add_files(dataset: str, cache: Path, found: FoundFiles, say: Callable[[str], None]) -> None:
    missing = [file for file, sha256 in SHA256[dataset].items() if not _is_whole(cache / file, sha256, say)]
    for file in found.files.keys() & missing:
        write_atomically(cache / file, found.files[file])
        missing.remove(file)
    if missing:
        _fetch(dataset, missing, cache, found.remedy, say)


def _is_whole(path: Path, sha256: str, say: Callable[[str], None]) -> bool:
    """Return whether the file is in the cache; one that is damaged is set aside."""
    actual = file_sha256(path)
    if actual == sha256:
        return True
    if os.path.lexists(path):
        aside = path.with_name(f"{path.name}.wrong-{actual[:8] if actual else 'kind'}")
        # One that was set aside before is the same file, or no file either.
        remove(aside)
        path.rename(aside)
        what = f"SHA-256 {actual}, expected {sha256}" if actual else "it is no file"
        say(f"{path} is not the right file: {what}; set aside as {aside.name}")
    return False


def _fetch(dataset: str, missing: list[str], cache: Path, remedy: str, say: Callable[[str], None]) -> None:
    """Fetch the missing files from the first sources that have them; UserError where none does.

    Args:
        dataset: The name of the data set.
        missing: The names of the files; what is fetched is removed from this list.
        cache: The folder to put them into.
        remedy: What the user can do where no source has them.
        say: Gets the lines of progress.
    """
    sources = mirrors.SOURCES[dataset]
    for title, source in sources.items():
        say(
            f"fetching {dataset} from {title}, for at most {downloads.TOTAL_SECONDS:g} s, "
            f"and {source.quiet_seconds:g} s without an answer"
        )
        try:
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
                attempt = downloads.Attempt(title, tuple(missing), Path(folder), say, source.quiet_seconds)
                for file, content in source.fetch(attempt):
                    actual, expected = hashlib.sha256(content).hexdigest(), SHA256[dataset][file]
                    if actual != expected:
                        say(f"{file} from {title}: SHA-256 {actual}, expected {expected}; not used")
                    elif file in missing:
                        write_atomically(cache / file, content)
                        missing.remove(file)
        except downloads.SourceError as error:
            say(f"{title}: {error}")
        if not missing:
            return
    raise UserError(f"{dataset}: no source has {', '.join(missing)} (tried {', '.join(sources)}): {remedy}")


def _add_resized(cache: Path, hashes: dict[str, str], say: Callable[[str], None]) -> None:
    """Put the resized images into the cache, with a note of what they were made from and their own SHA-256."""
    for file, name in RESIZED.items():
        target = cache / name
        if _is_resized(cache, file, hashes[file]):
            continue
        is_damaged = target.is_file() and _note_path(target).is_file()
        say(f"{target} is damaged; making it again" if is_damaged else f"making {target}, once")
        images = resize(read_idx((cache / file).read_bytes(), file))
        with tempfile.TemporaryDirectory(dir=cache, prefix=".resize-") as folder:
            whole = Path(folder) / name
            np.save(whole, images, allow_pickle=False)
            for earlier in (_note_path(target), target):
                remove(earlier)
            note = _note(hashes[file], whole)
            whole.replace(target)
        write_atomically(_note_path(target), note)


def _is_resized(cache: Path, file: str, sha256: str) -> bool:
    target = cache / RESIZED[file]
    note = _note_path(target)
    return target.is_file() and note.is_file() and note.read_bytes() == _note(sha256, target)


def _note_path(resized: Path) -> Path:
    return resized.with_name(f"{resized.name}.json")


def _note(source_sha256: str, resized: Path) -> bytes:
    return json.dumps({"source": source_sha256, "sha256": file_sha256(resized)}).encode()
