"""The fused engine's kernel on aarch64, under an emulator: the same bits as on this machine."""

import subprocess

import numpy as np
import pytest
import torch

from helpers import ROOT, needs
from helpers.networks import CLASSES, KINDS, at_logits, deviations, images, plain_and_exact
from helpers.rounding import DEVIATIONS
from helpers.small import kernel
from reproduce.training import engines
from reproduce.training.fused import library

pytestmark = [pytest.mark.system, needs("aarch64-linux-gnu-g++", "qemu-aarch64")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    made = tmp_path_factory.mktemp("aarch64") / "driver"
    sources = [library.SOURCE, ROOT / "tests" / "helpers" / "kernel_driver.cpp"]
    subprocess.run(["aarch64-linux-gnu-g++", "-O3", "-std=c++17", "-static", "-o", made, *sources], check=True)
    return made


def computed(driver, network, batch):
    """The logits and the gradients of all parameters, by name."""
    parameters = dict(network.named_parameters())
    tensors = [batch, *(parameter.detach() for parameter in parameters.values()), at_logits(len(batch))]
    counts = np.array([len(batch), batch.dtype == torch.uint8], np.int32)
    given = counts.tobytes() + b"".join(tensor.numpy().tobytes() for tensor in tensors)
    done = subprocess.run(["qemu-aarch64", driver], input=given, capture_output=True, check=True)
    shapes = {"logits": (len(batch), CLASSES)} | {name: tuple(value.shape) for name, value in parameters.items()}
    values = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())
    parts = values.split([int(np.prod(shape)) for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 17, 128])
def test_logits_and_gradients_are_exact_within_float32s_rounding(driver, kind, size):
    weight_scale, image_scale = KINDS[kind]
    plain, exact = plain_and_exact(weight_scale=weight_scale)
    batch = images(size, scale=image_scale)
    found = deviations(computed(driver, plain, batch), exact, batch)
    assert len(found) == 11
    assert {name: value for name, value in found.items() if not value <= DEVIATIONS} == {}


@pytest.mark.parametrize("bytes_", [False, True])
def test_the_bits_are_those_of_this_machine(driver, bytes_):
    plain, _ = plain_and_exact()
    batch = (images(100) * 255).byte() if bytes_ else images(100)
    fused = engines.build_network("fused", kernel())
    fused.load_state_dict(plain.state_dict())
    logits = fused(batch)
    (logits * at_logits(100)).sum().backward()
    here = {"logits": logits.detach(), **fused.split(fused.flat.grad)}
    there = computed(driver, plain, batch)
    assert len(there) == 11
    assert all(torch.equal(there[name], here[name]) for name in there)
