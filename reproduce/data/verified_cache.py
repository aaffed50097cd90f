"""Have the data's files in the cache: found or fetched, held to their SHA-256 whichever way they came, resized once.

`prepare` is the only writer of the cache. Every file in it appears whole or not at all, with the rights that the umask
leaves. A cache in which all is as it should be is only read, so that it may be somebody else's.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from reproduce.data import data_dir as named
from reproduce.data import downloads, mirrors
from reproduce.data.datasets import RESIZED, SHA256, read_idx, resize
from reproduce.errors import UserError
from reproduce.paths import DATA_EXPECTED, HOME, remove, why_no_data

LOCK_SECONDS = 1800  # to wait for another command that has the data made ready: it may fetch them from each source
NOTHING = named.Found({}, (), "put the files into a directory and name it with --data-dir")


def prepare(name: str, home: Path, data_dir: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Have the data set whole in the cache under `home`, or raise UserError saying what was tried.

    Looked for, in this order: `data_dir`, which may be an archive, the cache, then the sources of `mirrors.py`. Files
    that are not what they should be are named with what is wrong; those in the cache are set aside, those in `data_dir`
    left alone.
    """
    brought = _brought(name, data_dir, say)
    cache = home / "data" / name
    try:
        ready = _is_ready(cache, name)
        if ready and not any(_leftovers(cache, name)):
            return
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone_in(cache, say):
                for left_over in _leftovers(cache, name):
                    remove(left_over)
                _have_files(name, cache, brought, say)
                _resize(cache, SHA256[name], say)
        except PermissionError:
            if not ready:
                raise
    except OSError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else cache
        raise UserError(
            f"{place}, in the cache of {name}, cannot be had ({error.strerror}): "
            f"put that right, or have {HOME} name another directory"
        ) from error


def _brought(name: str, data_dir: Path | None, say: Callable[[str], None]) -> named.Found:
    if data_dir is None:
        return NOTHING
    if (why := why_no_data(data_dir)) is not None:
        raise UserError(f"the data directory is {data_dir}, but {why}; expected {DATA_EXPECTED}: correct it")
    brought = named.find(name, data_dir)
    for problem in brought.problems:
        say(f"{problem}; looking elsewhere")
    return brought


def _is_ready(cache: Path, name: str) -> bool:
    """Whether all is there and as it should be."""
    files = all(_sha256_if_file(cache / file) == sha256 for file, sha256 in SHA256[name].items())
    return files and all(_is_resized(cache, file, SHA256[name][file]) for file in RESIZED)


@contextmanager
def _alone_in(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(cache / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        at_work = f"another command is at work in {cache}"
        say(f"{at_work}; waiting for it, for up to {LOCK_SECONDS} s")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise UserError(f"{at_work}, and has been for {LOCK_SECONDS} s: end it, as it may be suspended") from error
    try:
        yield
    finally:
        lock.release()


def _leftovers(cache: Path, name: str) -> Iterator[Path]:
    """What a preparation that was killed had half written, or one that is at work has."""
    files = (*SHA256[name], *RESIZED.values(), *(f"{resized}.json" for resized in RESIZED.values()))
    for start in (".fetch-", ".resize-", *(f".{file}-" for file in files)):
        yield from cache.glob(f"{start}*")


def write_atomically(path: Path, content: bytes) -> None:
    """Write so that `path` holds all of `content` or what it held before, whatever interrupts.

    The file has the rights that `open` gives, those that the umask leaves.
    """
    whole = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with whole.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    except BaseException:
        whole.unlink(missing_ok=True)
        raise


def _have_files(name: str, cache: Path, brought: named.Found, say: Callable[[str], None]) -> None:
    missing = []
    for file, sha256 in SHA256[name].items():
        if _in_cache(cache / file, sha256, say):
            continue
        if file in brought.files:
            write_atomically(cache / file, brought.files[file])
        else:
            missing.append(file)
    if missing:
        _fetch(name, missing, cache, brought.remedy, say)


def _in_cache(path: Path, sha256: str, say: Callable[[str], None]) -> bool:
    if not os.path.lexists(path):
        return False
    found = _sha256_if_file(path)
    if found == sha256:
        return True
    aside = path.with_name(f"{path.name}.wrong-{found[:8] if found else 'kind'}")
    remove(aside)  # of an earlier time: the same bytes, or what was no file either
    path.rename(aside)
    what = f"SHA-256 {found}, expected {sha256}" if found else "it is no file"
    say(f"{path} is not the file it should be: {what}; set aside as {aside.name}")
    return False


def _fetch(name: str, missing: list[str], cache: Path, remedy: str, say: Callable[[str], None]) -> None:
    """Have the missing files from the first sources that give them; UserError where none does."""
    for title, source in mirrors.SOURCES[name].items():
        say(
            f"fetching {name} from {title}, for at most {downloads.TOTAL_SECONDS:g} s, "
            f"and {source.quiet_seconds:g} s without an answer"
        )
        try:
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
                attempt = downloads.Attempt(title, tuple(missing), Path(folder), say, source.quiet_seconds)
                for file, content in source.fetch(attempt):
                    found = hashlib.sha256(content).hexdigest()
                    if found != SHA256[name][file]:
                        say(f"{file} from {title}: SHA-256 {found}, expected {SHA256[name][file]}; not used")
                    elif file in missing:
                        write_atomically(cache / file, content)
                        missing.remove(file)
        except downloads.SourceError as error:
            say(f"{title}: {error}")
        if not missing:
            return
    raise UserError(f"{name}: {', '.join(missing)} could not be had from {', '.join(mirrors.SOURCES[name])}: {remedy}")


def _resize(cache: Path, hashes: dict[str, str], say: Callable[[str], None]) -> None:
    """Have the resized images in the cache. What they were made from and what they hash to is written beside them."""
    for file, name in RESIZED.items():
        target, note = cache / name, _note_of(cache / name)
        if _is_resized(cache, file, hashes[file]):
            continue
        is_damaged = target.is_file() and note.is_file()
        say(f"{target} is damaged; making it again" if is_damaged else f"making {target}, once")
        images = resize(read_idx((cache / file).read_bytes(), file))
        with tempfile.TemporaryDirectory(dir=cache, prefix=".resize-") as folder:
            whole = Path(folder) / name
            np.save(whole, images, allow_pickle=False)
            for earlier in (note, target):
                remove(earlier)
            sha256 = _sha256_if_file(whole)
            whole.replace(target)
        write_atomically(note, _note(hashes[file], sha256))


def _is_resized(cache: Path, file: str, sha256: str) -> bool:
    target = cache / RESIZED[file]
    note = _note_of(target)
    return target.is_file() and note.is_file() and note.read_bytes() == _note(sha256, _sha256_if_file(target))


def _note_of(resized: Path) -> Path:
    return resized.with_name(f"{resized.name}.json")


def _note(source: str, sha256: str | None) -> bytes:
    return json.dumps({"source": source, "sha256": sha256}).encode()


def _sha256_if_file(path: Path) -> str | None:
    if not path.is_file():  # a pipe would be waited at for ever
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
