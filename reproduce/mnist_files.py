"""Have the data's files in the cache: found or fetched, held to their SHA-256 whichever way they came, resized once.

`prepare` is the only writer of the cache. Every file in it appears whole or not at all. No more is read of what may be
wrong than a right one holds.
"""

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from reproduce import sources
from reproduce.errors import UserError
from reproduce.mnist import RESIZED, SHA256, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, read_idx, resize
from reproduce.places import remove

# Of either data set, in bytes: 60,000 and 10,000 images of 28×28 and their labels, each after its header.
SIZES = {TRAIN_IMAGES: 47_040_016, TRAIN_LABELS: 60_008, TEST_IMAGES: 7_840_016, TEST_LABELS: 10_008}
# Where people keep these files below the directory they name: there, or as torchvision lays them out.
SUBFOLDERS = {"mnist": ("", "raw", "MNIST/raw"), "fashion-mnist": ("", "raw", "FashionMNIST/raw")}


def prepare(name: str, home: Path, data_dir: Path | None = None, say: Callable[[str], None] = print) -> None:
    """Have the data set whole in the cache under `home`, or raise UserError saying what was tried.

    Looked for, in this order: `data_dir`, the cache, then the sources of `sources.py`. Files that are not what they
    should be are named with both hashes; those in the cache are set aside, those in `data_dir` left alone.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"data directory {data_dir} is not there: name the directory that holds {TRAIN_IMAGES}")
    cache = home / "data" / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock"):
            _clear_leftovers(cache, name)
            missing = {}
            for file, sha256 in SHA256[name].items():
                content = _from_directory(name, file, data_dir, say) if data_dir else None
                if not _in_cache(cache / file, sha256, say):
                    if content is None:
                        missing[file] = sha256
                    else:
                        write_atomically(cache / file, content)
            if missing:
                _fetch(name, missing, cache, say)
            _resize(cache, SHA256[name], say)
    except OSError as error:
        raise UserError(
            f"{error.filename or cache}, in the cache of {name}, cannot be had: {error.strerror}"
        ) from error


def _clear_leftovers(cache: Path, name: str) -> None:
    """Remove what a preparation that was killed had half written. The lock is held, so nobody is at it."""
    files = (*SHA256[name], *RESIZED.values(), *(f"{resized}.json" for resized in RESIZED.values()))
    for start in (".fetch-", ".resize-", *(f".{file}-" for file in files)):
        for left_over in cache.glob(f"{start}*"):
            remove(left_over)


def write_atomically(path: Path, content: bytes) -> None:
    """Write so that `path` holds all of `content` or what it held before, whatever interrupts."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _from_directory(name: str, file: str, directory: Path, say: Callable[[str], None]) -> bytes | None:
    sha256, tried = SHA256[name][file], False
    for folder in SUBFOLDERS[name]:
        plain = directory / folder / file
        for path in (plain, plain.with_name(plain.name + ".gz")):
            try:
                if not os.path.lexists(path):
                    continue
                tried = True
                if not path.is_file():
                    raise OSError("it is no file")
                with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
                    content = opened.read(SIZES[file] + 1)
            except (OSError, EOFError, zlib.error) as error:
                say(f"{path} cannot be read ({error}); looking elsewhere")
                continue
            found = hashlib.sha256(content).hexdigest()
            if found == sha256:
                return content
            if len(content) > SIZES[file]:
                say(f"{path} is not the file it should be: it holds more than {SIZES[file]} bytes; looking elsewhere")
            else:
                say(f"{path} is not the file it should be: SHA-256 {found}, expected {sha256}; looking elsewhere")
    if not tried:
        say(f"{directory} has no {file}, plain or as .gz; looking elsewhere")
    return None


def _in_cache(path: Path, sha256: str, say: Callable[[str], None]) -> bool:
    if not os.path.lexists(path):
        return False
    found = _sha256_of(path) if path.is_file() else None
    if found == sha256:
        return True
    aside = path.with_name(f"{path.name}.wrong-{found[:8] if found else 'kind'}")
    remove(aside)  # of an earlier time: the same bytes, or what was no file either
    path.rename(aside)
    what = f"SHA-256 {found}, expected {sha256}" if found else "it is no file"
    say(f"{path} is not the file it should be: {what}; set aside as {aside.name}")
    return False


def _fetch(name: str, missing: dict[str, str], cache: Path, say: Callable[[str], None]) -> None:
    tried = []
    for title, fetch in sources.SOURCES[name].items():
        say(f"fetching {name} from {title}")
        try:
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
                for file, content in fetch(Path(folder)).items():
                    found = hashlib.sha256(content).hexdigest()
                    if found == SHA256[name][file]:
                        write_atomically(cache / file, content)
                        missing.pop(file, None)
                    else:
                        say(f"{file} from {title}: SHA-256 {found}, expected {SHA256[name][file]}; not used")
        except sources.SourceError as error:
            say(f"{title}: {error}")
        tried.append(title)
        if not missing:
            return
    raise UserError(
        f"{name}: {', '.join(missing)} could not be had from {', '.join(tried)}: "
        "put the files into a directory and name it with --data-dir"
    )


def _resize(cache: Path, hashes: dict[str, str], say: Callable[[str], None]) -> None:
    """Have the resized images in the cache. What they were made from and what they hash to is written beside them."""
    for file, name in RESIZED.items():
        target, note = cache / name, cache / f"{name}.json"
        if target.is_file() and note.is_file():
            if note.read_bytes() == _note(hashes[file], _sha256_of(target)):
                continue
            say(f"{target} is damaged; making it again")
        images = resize(read_idx((cache / file).read_bytes(), file))
        with tempfile.TemporaryDirectory(dir=cache, prefix=".resize-") as folder:
            whole = Path(folder) / name
            np.save(whole, images, allow_pickle=False)
            for earlier in (note, target):
                remove(earlier)
            sha256 = _sha256_of(whole)
            whole.replace(target)
        write_atomically(note, _note(hashes[file], sha256))


def _note(source: str, sha256: str) -> bytes:
    return json.dumps({"source": source, "sha256": sha256}).encode()


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
