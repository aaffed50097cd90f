"""Compile lenet5.cpp with the system's compiler, once, and call it. Standard library only.

The compiled kernel has its SHA-256 beside it, and is compiled again where that differs: a damaged one would crash, or
compute other numbers.

`python library.py DIRECTORY` compiles it ahead for all targets of this kind of machine: the container's image has no
compiler.
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
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("lenet5.cpp")
# Five layers, weight and bias each, in PyTorch's order.
# Each target with the instruction sets that it needs, as /proc/cpuinfo names them, the best first.
V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
X86_TARGETS = {"x86-64-v4": V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "x86-64-v3": V3}
TARGETS = {"x86_64": tuple(X86_TARGETS), "aarch64": ("armv8-a",)}
COMPILERS = ("g++", "clang++", "c++")
UNFINISHED = ".build-"
# For another process that compiles the kernel, which takes some ten seconds.
LOCK_SECONDS = 120


class UnavailableError(Exception):
    """The reason why the kernel cannot be used on this machine."""


def find_or_compile(home: Path) -> Path:
    """Return the compiled kernel, from `home` or REPRODUCE_FUSED_DIR; where neither has it, compile it, in seconds.

    UnavailableError where this CPU cannot run it, or there is no compiler.
    """
    target = best_target()
    ready_made = os.environ.get("REPRODUCE_FUSED_DIR")
    directories = [home / "fused", *([Path(ready_made)] if ready_made else [])]
    for directory in directories:
        if _is_whole(directory / file_name(target)):
            return directory / file_name(target)
    return compile_kernel(directories[0], target)


def best_target() -> str:
    """Return what to compile for: an instruction that this CPU does not have would end the process."""
    if platform.machine() != "x86_64":
        return TARGETS.get(platform.machine(), ("native",))[0]
    flags = cpu_lines("flags")
    has = set(flags[0].split()) if flags else set()
    for target, needs in X86_TARGETS.items():
        if needs <= has:
            return target
    raise UnavailableError(f"this CPU has no {', '.join(sorted(V3 - has))}")


def compile_kernel(directory: Path, target: str) -> Path:
    """Compile the kernel into `directory`, unless it is there, and return it. It appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / file_name(target)
    with _locked(directory):
        if not _is_whole(library):
            _compile(library, target)
    return library


def _compile(library: Path, target: str) -> None:
    named = os.environ.get("CXX")
    compiler = next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)
    if compiler is None:
        missing = f"the compiler that CXX names, {named!r}," if named else "a C++ compiler (g++ or clang++)"
        raise UnavailableError(f"{missing} is not installed")
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=UNFINISHED) as folder:
        # The compiler runs in another directory, so that the path is absolute.
        made = Path(folder).resolve() / "made.so"
        command = [compiler, *flags(target), "-o", str(made), SOURCE.name]
        # A compiler's messages are in the user's language, and in an unknown encoding.
        done = subprocess.run(
            command, cwd=SOURCE.parent, capture_output=True, encoding="utf-8", errors="backslashreplace"
        )
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise UnavailableError(f"{compiler} cannot compile it: {first}")
        listed = Path(folder) / "made.sha256"
        listed.write_text(_hash_line(made, library.name), encoding="utf-8")
        # The hash comes first, as a kernel without one is not used.
        listed.replace(_hash_path(library))
        made.replace(library)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other process compiles there, and remove what one that was killed has left."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        try:
            _lock(opened)
        # Some network file systems have no locks. Two processes then compile at once, and each kernel is whole.
        except OSError:
            yield
            return
        for unfinished in directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield
    finally:
        os.close(opened)


def _lock(opened: int) -> None:
    """Wait for another process that compiles there; UnavailableError where it takes far longer than compiling does."""
    for _ in range(LOCK_SECONDS):
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(1)
    raise UnavailableError(f"another process has been compiling it for {LOCK_SECONDS} s, and may be suspended")


def _is_whole(library: Path) -> bool:
    try:
        return _hash_path(library).read_text(encoding="utf-8") == _hash_line(library, library.name)
    except (OSError, UnicodeDecodeError):
        return False


def _hash_path(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _hash_line(library: Path, name: str) -> str:
    """Return the hash in the form that `sha256sum --check` reads."""
    return f"{sha256(library)}  {name}\n"


def sha256(library: Path) -> str:
    """Return the SHA-256 of a compiled kernel: two that differ may differ in the last bits that they compute."""
    return hashlib.sha256(library.read_bytes()).hexdigest()


def file_name(target: str) -> str:
    """Return the kernel's file name, with a hash of the source, the flags and, for the target `native`, the CPU."""
    hashed = SOURCE.read_bytes() + " ".join(flags(target)).encode()
    if target == "native":
        hashed += "".join(sorted({*cpu_lines("CPU"), *cpu_lines("model name")})).encode()
    return f"lenet5-{target}-{hashlib.sha256(hashed).hexdigest()[:16]}.so"


def flags(target: str) -> list[str]:
    """Return the compiler's flags for that target."""
    architecture = "-mcpu=native" if target == "native" else f"-march={target}"
    return ["-O3", architecture, "-std=c++17", "-fPIC", "-shared"]


def cpu_lines(start: str) -> list[str]:
    """Return what Linux says of each of the CPUs under names that begin so."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    return [line.partition(":")[2] for line in lines if line.startswith(start)]


class Kernel:
    """The compiled functions. Memory is passed as its address, and nothing is checked here."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self.forward_bytes = self._declare("lenet5_forward_bytes", [], ctypes.c_int64)
        self.tape_bytes = self._declare("lenet5_tape_bytes", [number], ctypes.c_int64)
        self.loss_bytes = self._declare("lenet5_loss_bytes", [number], ctypes.c_int64)
        self.forward = self._declare("lenet5_forward", [pointer, number, number, pointer, pointer, number, pointer])
        self.backward = self._declare("lenet5_backward", [pointer, number, pointer, pointer, pointer])
        self.loss = self._declare(
            "lenet5_loss", [pointer, number, pointer, number, pointer, pointer, pointer], ctypes.c_float
        )
        self.lanes = self._declare("lenet5_lanes", [], ctypes.c_int)
        self.tanh = self._declare("lenet5_tanh", [pointer, number, pointer])

    def _declare(self, name: str, arguments: list[type], result: type | None = None) -> Callable[..., int]:
        prototype = ctypes.CFUNCTYPE(result, *arguments)
        return prototype((name, self._library))


if __name__ == "__main__":
    for target_name in TARGETS[platform.machine()]:
        print(compile_kernel(Path(sys.argv[1]), target_name))
