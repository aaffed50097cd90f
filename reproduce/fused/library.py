"""Have lenet5.cpp compiled by the system's compiler, once, and call it. Standard library only.

`python library.py DIRECTORY` compiles it ahead, as the container's image does: there is no compiler in it.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("lenet5.cpp")
PARAMETERS = 10  # five layers, weight and bias each, in PyTorch's order
# One target for all of today's x86: the same bits on each, and 32 registers instead of 16 gain a few percent only.
X86 = "x86-64-v3"
X86_FLAGS = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}  # of x86-64-v3, as /proc/cpuinfo names them
COMPILERS = ("g++", "clang++", "c++")


class UnavailableError(Exception):
    """Why the kernel cannot be used here."""


def ready(home: Path) -> Path:
    """The compiled kernel: found in `home` or where REPRODUCE_FUSED_DIR says, else compiled now, in seconds.

    UnavailableError where this CPU cannot run it, or it is not there and no compiler is.
    """
    check_cpu()
    brought = os.environ.get("REPRODUCE_FUSED_DIR")
    directories = [home / "fused", *([Path(brought)] if brought else [])]
    for directory in directories:
        if (directory / _name()).is_file():
            return directory / _name()
    return build(directories[0])


def build(directory: Path) -> Path:
    """Compile the kernel into `directory`. It appears there whole or not at all."""
    named = os.environ.get("CXX")
    compiler = next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)
    if compiler is None:
        raise UnavailableError(f"{named or 'a C++ compiler (g++ or clang++)'} is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as folder:
        made = Path(folder) / _name()
        command = [compiler, *_flags(), "-o", str(made), SOURCE.name]
        done = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True)
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise UnavailableError(f"{compiler} cannot compile it: {first}")
        made.replace(directory / _name())
    return directory / _name()


def check_cpu() -> None:
    """UnavailableError where the compiled kernel would be killed for an instruction that this CPU does not have."""
    if platform.machine() == "x86_64" and (missing := X86_FLAGS - _cpu_flags()):
        raise UnavailableError(f"this CPU is older than {X86}: it has no {', '.join(sorted(missing))}")


def sha256(library: Path) -> str:
    """What tells one compiled kernel from another, and so perhaps its last bits."""
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _flags() -> list[str]:
    target = f"-march={X86}" if platform.machine() == "x86_64" else "-mcpu=native"
    return ["-O3", target, "-std=c++17", "-fPIC", "-shared"]


def _name() -> str:
    """A file name that changes with the source, the flags and, where the target is this very CPU, with that."""
    decides = SOURCE.read_bytes() + " ".join(_flags()).encode()
    if platform.machine() != "x86_64":
        decides += "".join(
            sorted({line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("CPU ")})
        ).encode()
    return f"lenet5-{platform.machine()}-{hashlib.sha256(decides).hexdigest()[:16]}.so"


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
    print(build(Path(sys.argv[1])))
