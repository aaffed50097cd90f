"""The fused engine against PyTorch's own layers: the same function, as exact, and non-finite where they are."""

import ctypes
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from helpers import CACHE, needs
from helpers.networks import CLASSES, KINDS, at_logits, deviations, images, labels, plain_and_exact
from helpers.rounding import DEVIATIONS, TANH_UNITS, UNIT, cross_entropy, forward_and_backward, given
from helpers.small import kernel
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.training import engines, loop
from reproduce.training.fused import library
from reproduce.training.fused.library import Kernel


def targets():
    """What this CPU can run of what the kernel is compiled for: the vectors of each are of another width."""
    best = library.best_target()
    every = list(library.X86_TARGETS)
    return every[every.index(best) :] if best in every else [best]


@pytest.fixture(params=targets())
def compiled(request):
    return library.compile_kernel(CACHE / "fused", request.param)


def three(compiled, seed=3, weight_scale=1.0):
    """The same weights three times: fused, torch's float32, and torch's float64."""
    plain, exact = plain_and_exact(seed, weight_scale)
    fused = engines.build_network("fused", compiled)
    fused.load_state_dict(plain.state_dict())
    return fused, plain, exact


@pytest.fixture
def networks(compiled):
    return three(compiled)


def gradients(network, batch):
    """The gradients of all parameters for random gradients at the logits."""
    network.zero_grad()
    (network(batch) * at_logits(len(batch))).sum().backward()
    return by_name(network)


def by_name(network):
    """The gradients by the name of the parameter."""
    if isinstance(network, engines.FusedLeNet5) and hasattr(network, "flat"):
        return network.split(network.flat.grad)
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def deviations_of(network, exact, batch):
    """How far logits and gradients lie from the exact ones, in standard deviations of float32's rounding."""
    with torch.no_grad():
        found = {"logits": network(batch)}
    found |= gradients(network, batch)
    assert len(found) == 11
    return deviations(found, exact, batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 16, 17, 33, 128])
def test_logits_and_gradients_are_exact_within_float32s_rounding(compiled, kind, size):
    weight_scale, image_scale = KINDS[kind]
    for seed in range(2):
        fused, _, exact = three(compiled, seed, weight_scale)
        found = deviations_of(fused, exact, images(size, seed, image_scale))
        assert {name: value for name, value in found.items() if not value <= DEVIATIONS} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bounds_hold_for_pytorchs_own_float32_too(kind):
    weight_scale, image_scale = KINDS[kind]
    _, plain, exact = three(kernel(), weight_scale=weight_scale)
    assert max(deviations_of(plain, exact, images(96, scale=image_scale)).values()) <= DEVIATIONS


def test_the_worked_out_gradients_are_those_of_autograd():
    _, _, exact = three(kernel())
    batch = images(17).double()
    with torch.no_grad():
        truth = forward_and_backward(exact, batch, given(at_logits(17).double()))
        torch.testing.assert_close(truth["logits"].value, exact(batch), rtol=1e-12, atol=0)
    (exact(batch) * at_logits(17)).sum().backward()
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(truth[name].value.view_as(parameter), parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 16, 17, 33, 128])
def test_the_loss_and_its_gradients_are_exact_within_float32s_rounding(compiled, kind, size):
    weight_scale, image_scale = KINDS[kind]
    for seed in range(2):
        fused, _, exact = three(compiled, seed, weight_scale)
        batch = images(size, seed, image_scale)
        loss = fused(batch, labels(size))
        loss.backward()
        with torch.no_grad():
            logits = fused(batch).double()
        # Of its own logits, whose error is held to its bounds above.
        truth = nn.functional.cross_entropy(logits, labels(size)).item()
        assert loss.item() == pytest.approx(truth, rel=1e-6)
        found = deviations(by_name(fused), exact, batch, cross_entropy(labels(size)))
        assert {name: value for name, value in found.items() if not value <= DEVIATIONS} == {}


def test_the_worked_out_gradient_of_the_loss_is_that_of_autograd():
    _, _, exact = three(kernel())
    batch = images(17).double()
    with torch.no_grad():
        truth = forward_and_backward(exact, batch, cross_entropy(labels(17)))
    nn.functional.cross_entropy(exact(batch), labels(17)).backward()
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(truth[name].value.view_as(parameter), parameter.grad, rtol=1e-9, atol=1e-12)


def test_the_bounds_of_the_loss_hold_for_pytorchs_own_float32_too():
    _, plain, exact = three(kernel())
    batch = images(96)
    nn.functional.cross_entropy(plain(batch), labels(96)).backward()
    assert max(deviations(by_name(plain), exact, batch, cross_entropy(labels(96))).values()) <= DEVIATIONS


def test_a_multiple_of_the_loss_has_that_multiple_of_its_gradients(networks):
    fused, batch = networks[0], images(20)
    fused(batch, labels(20)).backward()
    once = fused.flat.grad.clone()
    fused.zero_grad()
    (fused(batch, labels(20)) * 0.25).backward()
    assert torch.equal(fused.flat.grad, once * 0.25)


def test_a_second_backward_through_a_loss_raises(networks):
    loss = networks[0](images(4), labels(4))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gradients"):
        loss.backward()


def test_the_loss_without_gradients_is_that_of_the_logits(networks):
    fused = networks[0]
    with torch.no_grad():
        found = fused(images(20), labels(20))
        assert found.item() == nn.functional.cross_entropy(fused(images(20)), labels(20)).item()


@pytest.mark.parametrize("wrong", [torch.zeros(4, dtype=torch.int32), torch.zeros(5, dtype=torch.int64)])
def test_other_labels_are_refused(networks, wrong):
    with pytest.raises(ValueError, match=r"expected int64 \(4,\)"):
        networks[0](images(4), wrong)


def test_a_network_by_layers_computes_the_same_bits(compiled):
    flat = three(compiled)[0]
    layers = engines.build_network("fused", compiled, by_layer=True)
    layers.load_state_dict(flat.state_dict())
    for network in (flat, layers):
        network(images(33), labels(33)).backward()
    ours, theirs = by_name(flat), by_name(layers)
    assert len(theirs) == 10
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("target", ["image", "features.0.weight", "features.3.bias", "features.6.weight",
                                    "classifier.0.weight", "classifier.2.weight", "logits"])  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_so_exactly_where_the_plain_network_is(networks, target, value):
    fused, plain, _ = networks
    batch = images(33) + 0.1  # no pixel is zero, so that an infinite weight need not become NaN
    of_logits = torch.ones(33, CLASSES)
    if target == "image":
        batch[17, 0, 5, 7] = value
    elif target == "logits":
        of_logits[20, 3] = value
    else:
        for network in (fused, plain):
            state = network.state_dict()
            state[target].view(-1)[1] = value
            network.load_state_dict(state)
    results = []
    for network in (fused, plain):
        logits = network(batch)
        logits.backward(of_logits)
        results.append([logits.detach(), *by_name(network).values()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(torch.isfinite(ours), torch.isfinite(theirs))
    if target != "logits":
        losses = [fused(batch, labels(33)), nn.functional.cross_entropy(plain(batch), labels(33))]
        for network, loss in zip((fused, plain), losses, strict=True):
            network.zero_grad()
            loss.backward()
        assert torch.isfinite(losses[0]) == torch.isfinite(losses[1])
        for ours, theirs in zip(by_name(fused).values(), by_name(plain).values(), strict=True):
            assert torch.equal(torch.isfinite(ours), torch.isfinite(theirs))


def test_bytes_are_the_same_images_as_floats(networks):
    fused, _, exact = networks
    pixels = torch.arange(256, dtype=torch.uint8).repeat(12).view(3, 1, 32, 32)
    assert torch.equal(fused(pixels), fused(pixels.float() / 255))
    assert deviations_of(fused, exact, pixels.float() / 255)["logits"] <= DEVIATIONS


def test_bits_repeat_and_do_not_depend_on_what_else_was_computed(networks):
    fused = networks[0]
    batch = images(96)
    first = gradients(fused, batch)
    first = {name: gradient.clone() for name, gradient in first.items()}
    gradients(fused, images(128, seed=5))
    with torch.no_grad():
        logits = fused(images(16, seed=6))
    assert torch.equal(logits, fused(images(16, seed=6)))
    again = gradients(fused, batch)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_evaluation_between_forward_and_backward_changes_nothing(networks):
    fused = networks[0]
    expected = {name: gradient.clone() for name, gradient in gradients(fused, images(64)).items()}
    fused.zero_grad()
    logits = fused(images(64))
    with torch.no_grad():
        fused(images(200, seed=1))
    logits.backward(at_logits(64))
    assert all(torch.equal(gradient, expected[name]) for name, gradient in by_name(fused).items())


def test_backward_after_another_forward_raises(networks):
    fused = networks[0]
    first = fused(images(16)).sum()
    fused(images(16))
    with pytest.raises(RuntimeError, match="after another forward pass"):
        first.backward()


def test_backward_after_the_weights_changed_raises(networks):
    fused = networks[0]
    loss = fused(images(16)).sum()
    with torch.no_grad():
        next(fused.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "wrong", [torch.zeros(4, 1, 28, 28), torch.zeros(4, 1, 32, 32, dtype=torch.float64), torch.zeros(0, 1, 32, 32)]
)
def test_other_images_are_refused(networks, wrong):
    with pytest.raises(ValueError, match="expected uint8 or float32"):
        networks[0](wrong)


def test_images_that_want_a_gradient_and_weights_of_another_type_are_refused(networks):
    fused = networks[0]
    with pytest.raises(ValueError, match="no gradient for images"):
        fused(images(4).requires_grad_())
    with pytest.raises(ValueError, match="computes in float32"):
        fused.double()(images(4))


def address(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def test_tanh_is_exact_to_three_units_in_the_last_place(compiled):
    x = np.concatenate([np.linspace(-10, 10, 2_000_001), np.geomspace(1e-30, 1e30, 100_000)]).astype(np.float32)[:-1]
    x = np.resize(x, len(x) // 16 * 16)
    result = np.empty_like(x)
    Kernel(compiled).tanh(address(x), len(x), address(result))
    exact = np.tanh(x.astype(np.float64))
    units = (result - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert np.abs(units).max() < 3
    # What the bounds of logits and gradients take for its error.
    for low, high in ((1e-3, 0.03), (0.03, 0.3), (0.3, 3), (3, 10)):
        there = (np.abs(x) >= low) & (np.abs(x) < high)
        assert np.sqrt(np.mean((result[there] / exact[there] - 1) ** 2)) < TANH_UNITS * UNIT / np.sqrt(3)
    assert np.abs(result).max() == 1.0


def test_tanh_of_what_is_not_a_number_or_infinite(compiled):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 0.625, -0.625] * 2, np.float32)
    result = np.empty_like(x)
    Kernel(compiled).tanh(address(x), len(x), address(result))
    assert np.isnan(result[0])
    assert result[1:6].tolist() == [1.0, -1.0, 0.0, -0.0, x[5]]  # to the smallest number there is
    assert result[6] == -result[7]


LAYERS = ("features.0", "features.3", "features.6", "classifier.0", "classifier.2")


@pytest.mark.parametrize("layer", range(5))
def test_each_stage_by_itself(compiled, layer):
    """One layer has weights and bias, those after it weights, all else is zero: only these stages have a say."""
    fused, _, exact = three(compiled)
    alive = {f"{LAYERS[layer]}.bias", f"{LAYERS[layer]}.weight"} | {f"{name}.weight" for name in LAYERS[layer + 1 :]}
    for network in (fused, exact):
        network.load_state_dict({name: value * (name in alive) for name, value in network.state_dict().items()})
    found = deviations_of(fused, exact, images(32))
    assert {name: value for name, value in found.items() if not value <= DEVIATIONS} == {}


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 6e-5), ("lamb", 1e-3), ("lars", 0.1)])
def test_fifty_steps_stay_with_the_plain_network(paper, whole_mnist, tmp_path, optimizer, rate):
    """With LAMB and LARS too, which scale the update of each layer by the norm of its weights."""
    losses = {}
    for engine in engines.ENGINES:
        config = StudyConfig(
            engine=engine, optimizer=optimizer, schedulers=("none",), learning_rates=(rate,), epochs=1, train_size=6400
        )
        (record,) = loop.train(planning.trials(paper, config)[0], whole_mnist, tmp_path / engine, kernel=kernel())
        losses[engine] = record.step_losses
    assert len(losses["torch"]) == 50
    assert np.abs(losses["torch"] - losses["fused"]).max() < 1e-4


def test_each_target_takes_the_vectors_that_it_is_for():
    lanes = {"x86-64-v4": 16, "x86-64-v3": 8, "armv8-a": 4}
    found = {target: Kernel(library.compile_kernel(CACHE / "fused", target)).lanes() for target in targets()}
    assert found == {target: lanes[target] for target in targets()}


@needs("g++")
@pytest.mark.parametrize("width", [4, 8, 16])
def test_every_width_of_vectors_gives_the_same_bits(compiled, tmp_path, width):
    """A width that the processor does not have is made of narrower vectors."""
    made = tmp_path / "kernel.so"
    flags = [*library.flags(library.best_target()), f"-DWIDTH={width}", "-w"]
    subprocess.run(["g++", *flags, "-o", made, library.SOURCE], check=True)
    assert Kernel(made).lanes() == width
    found = []
    for library_file in (compiled, made):
        network = three(library_file)[0]
        for size in (1, 10, 16, 17, 100):
            batch = images(size)
            found.append([network(batch).detach(), *gradients(network, batch).values()])
            network.zero_grad()
            loss = network(batch, labels(size))
            loss.backward()
            found.append([loss.detach(), network.flat.grad.clone()])
    ours, theirs = found[: len(found) // 2], found[len(found) // 2 :]
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


# What the engine comes to.


def test_any_loss_goes_through(networks):
    fused, plain, _ = networks
    batch = images(20)
    for network in (fused, plain):
        nn.functional.mse_loss(network(batch), torch.ones(20, CLASSES)).backward()
    for ours, theirs in zip(by_name(fused).values(), by_name(plain).values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)
