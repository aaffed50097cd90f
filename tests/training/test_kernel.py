"""The compiled kernel's bytes are checked: a damaged kernel is compiled again, once, by the first process."""

import errno
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import ROOT, needs
from helpers.small import kernel
from reproduce.training.fused import library


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A copy of the compiled kernel in a home of its own, where no compiler is to be had."""
    monkeypatch.delenv("REPRODUCE_FUSED_DIR", raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    (tmp_path / "home" / "fused").mkdir(parents=True)
    for name in (kernel().name, f"{kernel().name}.sha256"):
        shutil.copy(kernel().with_name(name), tmp_path / "home" / "fused")
    return tmp_path / "home" / "fused" / kernel().name


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_kernel_with_any_bit_flipped_is_not_loaded(cached, data):
    whole = {path: path.read_bytes() for path in cached.parent.iterdir()}
    path = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[path])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with pytest.raises(library.UnavailableError, match="'no-such-compiler', is not installed"):
            library.find_or_compile(cached.parents[1])
    finally:
        path.write_bytes(whole[path])
    assert library.find_or_compile(cached.parents[1]) == cached


@needs("g++")
@pytest.mark.parametrize("harm", ["cut off", "empty", "without its hash", "another's hash"])
def test_a_damaged_kernel_is_compiled_again(cached, monkeypatch, harm):
    whole, listed = cached.read_bytes(), cached.with_name(f"{cached.name}.sha256")
    if harm == "without its hash":
        listed.unlink()
    elif harm == "another's hash":
        listed.write_text(listed.read_text().replace("lenet5", "lenet6"))
    else:
        cached.write_bytes(whole[: len(whole) // 2 if harm == "cut off" else 0])
    monkeypatch.delenv("CXX")
    assert library.find_or_compile(cached.parents[1]) == cached
    assert (cached.read_bytes(), listed.read_text()) == (whole, f"{library.sha256(kernel())}  {cached.name}\n")
    assert {path.name for path in cached.parent.iterdir()} == {cached.name, listed.name}


COUNTING = """#!/bin/sh
mkdir "$COUNTED/$$"  # one folder a compilation
exec g++ "$@"
"""


@needs("g++")
def test_processes_that_want_the_kernel_at_once_compile_it_once(tmp_path):
    compiler, counted, home = tmp_path / "compiler", tmp_path / "counted", tmp_path / "home"
    compiler.write_text(COUNTING)
    compiler.chmod(0o755)
    counted.mkdir()
    (home / "fused" / ".build-killed").mkdir(parents=True)
    (home / "fused" / ".build-killed" / "made.so").touch()
    environment = os.environ | {"CXX": str(compiler), "COUNTED": str(counted)}
    environment.pop("REPRODUCE_FUSED_DIR", None)
    code = (
        "from pathlib import Path; from reproduce.training.fused import library;"
        f"print(library.find_or_compile(Path({str(home)!r})))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [process.communicate()[0].strip() for process in processes]
    assert printed == [str(home / "fused" / kernel().name)] * 3
    assert len(list(counted.iterdir())) == 1
    assert {path.name for path in (home / "fused").iterdir()} == {kernel().name, f"{kernel().name}.sha256"}


@needs("g++")
def test_without_locks_the_kernel_is_compiled_all_the_same(cached, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.delenv("CXX")
    monkeypatch.setattr(library.fcntl, "flock", no_locks)
    (cached.parent / ".build-anothers").mkdir()
    cached.unlink()
    assert library.find_or_compile(cached.parents[1]) == cached
    assert (cached.parent / ".build-anothers").exists()  # it may be at work


@needs("g++")
@pytest.mark.skipif(platform.machine() not in library.TARGETS, reason="no image is made for this kind of machine")
def test_the_images_kernels_are_made_with_their_hashes_by_the_standard_library_alone(tmp_path):
    """As the Dockerfile does it, on a machine that has two files of ours and nothing else."""
    for file in (library.SOURCE, Path(library.__file__)):
        shutil.copy(file, tmp_path)
    command = [sys.executable, "-I", "-S", "library.py", str(tmp_path / "fused")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    listed = sorted((tmp_path / "fused").glob("*.sha256"))
    assert len(listed) == len(library.TARGETS[platform.machine()])
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", *listed], cwd=tmp_path / "fused", check=True)
