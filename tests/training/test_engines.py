"""Which engine computes a trial, and what becomes of one that asks for the fused engine where it cannot be used."""

import shutil

import pytest
import torch

from helpers import CACHE
from helpers.small import kernel
from reproduce.errors import UserError
from reproduce.training import engines
from reproduce.training.fused import library


def test_auto_is_the_fused_engine_on_a_cpu_and_torch_elsewhere(tmp_path):
    said = []
    assert engines.resolve("auto", "cuda", tmp_path, said.append) == ("torch", None)
    assert engines.resolve("torch", "cpu", tmp_path, said.append) == ("torch", None)
    assert said == []
    shutil.copytree(CACHE / "fused", tmp_path / "fused")
    engine, path = engines.resolve("auto", "cpu", tmp_path, said.append)
    assert (engine, path, said) == ("fused", tmp_path / "fused" / kernel().name, [])


@pytest.mark.parametrize("why", ["no compiler", "old cpu", "broken compiler"])
def test_without_the_kernel_auto_falls_back_in_one_line_and_fused_is_refused(tmp_path, monkeypatch, why):
    monkeypatch.delenv("REPRODUCE_FUSED_DIR", raising=False)
    if why == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
        reason = "the compiler that CXX names, 'no-such-compiler', is not installed"
    elif why == "broken compiler":
        monkeypatch.setenv("CXX", "false")
        reason = "/false cannot compile it: "
    else:
        monkeypatch.setattr(library, "cpu_lines", lambda start: [" fpu sse2 avx avx2 bmi1 bmi2 movbe"])
        reason = "this CPU has no f16c, fma"
    said = []
    assert engines.resolve("auto", "cpu", tmp_path, said.append) == ("torch", None)
    assert len(said) == 1
    assert reason in said[0]
    with pytest.raises(UserError, match="use --engine torch"):
        engines.resolve("fused", "cpu", tmp_path)


def test_the_fused_engine_on_a_gpu_is_refused(tmp_path):
    with pytest.raises(UserError, match="computes on a CPU"):
        engines.resolve("fused", "cuda", tmp_path)


def test_a_kernel_brought_along_is_taken_without_a_compiler(tmp_path, monkeypatch):
    brought = library.compile_kernel(tmp_path / "brought", library.best_target())
    monkeypatch.setenv("REPRODUCE_FUSED_DIR", str(tmp_path / "brought"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library.find_or_compile(tmp_path / "home") == brought


def test_both_engines_start_from_the_same_weights():
    weights = []
    for engine in engines.ENGINES:
        torch.manual_seed(4)
        weights.append(engines.build_network(engine, kernel()).state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
