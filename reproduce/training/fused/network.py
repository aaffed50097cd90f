"""The kernel behind `LeNet5`: the same parameters, logits and autograd, so that all around it stays as it is."""

import ctypes
from pathlib import Path

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from reproduce.studies.lenet5_mnist.network import LeNet5
from reproduce.training.fused.library import PARAMETERS, Kernel


class FusedLeNet5(LeNet5):
    """A network of images (n, 1, 32, 32), uint8 or float32 in [0, 1], to logits (n, 10), on a CPU, by one thread.

    A network keeps the state of one forward pass: backward after another forward pass that also records gradients
    raises RuntimeError. There is no gradient for the images.
    """

    def __init__(self, library: Path) -> None:
        super().__init__()
        self._kernel = Kernel(library)
        # To collect them from the layers at each step would take a tenth of its time.
        self._parameters_in_order = tuple(self.parameters())
        self._tape = self._scratch = torch.empty(0, dtype=torch.uint8)
        self._passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, 10) for a batch of images; ValueError for images of another shape or type."""
        if images.dtype not in (torch.uint8, torch.float32) or images.shape[1:] != (1, 32, 32) or not len(images):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, expected uint8 or float32 (n, 1, 32, 32)"
            )
        if images.requires_grad:
            raise ValueError("the fused engine computes no gradient for images: use engine torch")
        images = images.contiguous()
        parameters = self._parameters_in_order
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            logits: torch.Tensor = _Pass.apply(self, images, *parameters)  # type: ignore[no-untyped-call]
            return logits
        self._scratch = self._room(self._scratch, 1)
        return self._logits(images, parameters, self._scratch, keep=False)

    def _logits(
        self, images: torch.Tensor, parameters: tuple[torch.Tensor, ...], tape: torch.Tensor, keep: bool
    ) -> torch.Tensor:
        logits = torch.empty(len(images), 10)
        self._kernel.forward(
            images.data_ptr(), images.dtype == torch.uint8, len(images), _addresses(parameters), tape.data_ptr(), keep,
            logits.data_ptr(),
        )  # fmt: skip
        return logits

    def _room(self, tape: torch.Tensor, samples: int) -> torch.Tensor:
        """Return that memory, or more. It is kept, as fresh pages would cost a tenth of a step's time."""
        needed = self._kernel.tape_bytes(samples)
        return tape if len(tape) >= needed else torch.empty(needed, dtype=torch.uint8)


class _Context(FunctionCtx):
    network: FusedLeNet5
    number: int
    saved_tensors: tuple[torch.Tensor, ...]


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(
        context: _Context, network: FusedLeNet5, images: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        network._tape = network._room(network._tape, len(images))
        network._passes += 1
        context.network, context.number = network, network._passes
        # Backward raises where they were changed in between.
        context.save_for_backward(*parameters)
        return network._logits(images, parameters, network._tape, keep=True)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        network, parameters = context.network, context.saved_tensors
        if context.number != network._passes:
            raise RuntimeError("backward after another forward pass: the fused engine keeps the last one only")
        gradient = gradient.contiguous()
        gradients = tuple(torch.empty_like(parameter) for parameter in parameters)
        network._kernel.backward(
            gradient.data_ptr(), len(gradient), _addresses(parameters), network._tape.data_ptr(), _addresses(gradients)
        )
        return (None, None, *gradients)


def _addresses(tensors: tuple[torch.Tensor, ...]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of ten contiguous float32 tensors on the CPU, as the kernel's structs have them."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"the fused engine computes in float32 on a CPU, got {tensor.dtype} on {tensor.device}")
    return (ctypes.c_void_p * PARAMETERS)(*(tensor.data_ptr() for tensor in tensors))
