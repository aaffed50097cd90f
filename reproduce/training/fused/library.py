"""Have lenet5.cpp compiled by the system's compiler, once, and call it. Standard library only.

The compiled kernel has its SHA-256 beside it, and is compiled anew where that does not fit: a damaged one would crash,
or compute something else.

`python library.py DIRECTORY x86-64-v4 x86-64-v3` compiles it ahead: there is no compiler in the container's image.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("lenet5.cpp")
PARAMETERS = 10  # five layers, weight and bias each, in PyTorch's order
# The best that the CPU has is taken. Each with the instruction sets it needs, as /proc/cpuinfo names them.
V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
X86_TARGETS = {"x86-64-v4": V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "x86-64-v3": V3}
COMPILERS = ("g++", "clang++", "c++")
HALF_BUILT = ".build-"
LOCK_SECONDS = 120  # to wait for another process that compiles the kernel, which takes some ten seconds


class UnavailableError(Exception):
    """Why the kernel cannot be used here."""


def ready(home: Path) -> Path:
    """The compiled kernel: found whole in `home` or where REPRODUCE_FUSED_DIR says, else compiled now, in seconds.

    UnavailableError where this CPU cannot run it, or it is not there and no compiler is.
    """
    target = best_target()
    brought = os.environ.get("REPRODUCE_FUSED_DIR")
    directories = [home / "fused", *([Path(brought)] if brought else [])]
    for directory in directories:
        if _is_whole(directory / file_name(target)):
            return directory / file_name(target)
    return build(directories[0], target)


def best_target() -> str:
    """What to compile for here: the kernel would be killed for an instruction that this CPU does not have."""
    if platform.machine() != "x86_64":
        return "native"
    flags = _cpu_lines("flags")
    has = set(flags[0].split()) if flags else set()
    for target, needs in X86_TARGETS.items():
        if needs <= has:
            return target
    raise UnavailableError(f"this CPU has no {', '.join(sorted(V3 - has))}")


def build(directory: Path, target: str) -> Path:
    """Compile the kernel into `directory`, unless it is there. It appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / file_name(target)
    with _alone_in(directory):
        if not _is_whole(library):
            _compile(library, target)
    return library


def _compile(library: Path, target: str) -> None:
    named = os.environ.get("CXX")
    compiler = next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)
    if compiler is None:
        wanted = f"the compiler that CXX names, {named!r}," if named else "a C++ compiler (g++ or clang++)"
        raise UnavailableError(f"{wanted} is not installed")
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=HALF_BUILT) as folder:
        made = Path(folder).resolve() / "made.so"  # the compiler runs in another directory
        command = [compiler, *_flags(target), "-o", str(made), SOURCE.name]
        # A compiler's complaints are in the user's language, and in what encoding nobody knows.
        done = subprocess.run(
            command, cwd=SOURCE.parent, capture_output=True, encoding="utf-8", errors="backslashreplace"
        )
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise UnavailableError(f"{compiler} cannot compile it: {first}")
        listed = Path(folder) / "made.sha256"
        listed.write_text(_listed(made, library.name), encoding="utf-8")
        listed.replace(_list_of(library))  # first: a kernel without its hash is none
        made.replace(library)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Wait until no other process builds there, and clear away what one left that was killed."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        try:
            _lock(opened)
        except OSError:  # some network file systems have no locks: both build then, and either's is whole
            yield
            return
        for left_over in directory.glob(f"{HALF_BUILT}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        yield
    finally:
        os.close(opened)


def _lock(opened: int) -> None:
    """Wait for another process that compiles there. UnavailableError where it takes far longer than compiling does."""
    for _ in range(LOCK_SECONDS):
        try:
            return fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(1)
    raise UnavailableError(f"another process has been compiling it for {LOCK_SECONDS} s, and may be suspended")


def _is_whole(library: Path) -> bool:
    try:
        return _list_of(library).read_text(encoding="utf-8") == _listed(library, library.name)
    except (OSError, UnicodeDecodeError):
        return False


def _list_of(library: Path) -> Path:
    """Where its hash stands, in the form that `sha256sum --check` reads."""
    return library.with_name(f"{library.name}.sha256")


def _listed(library: Path, name: str) -> str:
    return f"{sha256(library)}  {name}\n"


def sha256(library: Path) -> str:
    """What tells one compiled kernel from another, and so perhaps its last bits."""
    return hashlib.sha256(library.read_bytes()).hexdigest()


def file_name(target: str) -> str:
    """Changes with the source, the flags and, where the target is this very CPU, with that."""
    decides = SOURCE.read_bytes() + " ".join(_flags(target)).encode()
    if target == "native":
        decides += "".join(sorted({*_cpu_lines("CPU"), *_cpu_lines("model name")})).encode()
    return f"lenet5-{target}-{hashlib.sha256(decides).hexdigest()[:16]}.so"


def _flags(target: str) -> list[str]:
    architecture = "-mcpu=native" if target == "native" else f"-march={target}"
    return ["-O3", architecture, "-std=c++17", "-fPIC", "-shared"]


def _cpu_lines(start: str) -> list[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    return [line.partition(":")[2] for line in lines if line.startswith(start)]


class Kernel:
    """The compiled functions. Every argument that names memory is an address; nothing is checked here."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self.tape_bytes = self._declare("lenet5_tape_bytes", [number], ctypes.c_int64)
        self.forward = self._declare("lenet5_forward", [pointer, number, number, pointer, pointer, number, pointer])
        self.backward = self._declare("lenet5_backward", [pointer, number, pointer, pointer, pointer])
        self.tanh = self._declare("lenet5_tanh", [pointer, ctypes.c_int64, pointer])

    def _declare(self, name: str, arguments: list, result: type | None = None):
        function = getattr(self._library, name)
        function.argtypes, function.restype = arguments, result
        return function


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        print(build(Path(sys.argv[1]), wanted))
