"""The kernel behind `LeNet5`: the same parameters, logits and autograd, so that all around it stays as it is."""

import ctypes
from pathlib import Path

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from reproduce.studies.lenet5_mnist.network import LeNet5
from reproduce.training.fused.library import Kernel

# Where each of the ten parameters begins in the one that has all, in bytes.
SIZES = (150, 6, 2400, 16, 48000, 120, 10080, 84, 840, 10)
OFFSETS = tuple(4 * sum(SIZES[:number]) for number in range(len(SIZES)))


class FusedLeNet5(LeNet5):
    """A network of images (n, 1, 32, 32), uint8 or float32 in [0, 1], to logits (n, 10), on a CPU, by one thread.

    With the labels (n,) from 0 to 9, int64, it returns their mean cross entropy instead, and computes all gradients
    with it: that is faster than to do so after the logits of the whole batch.

    All weights are one parameter (61706,), `flat`, which costs autograd and an optimizer a tenth of what ten cost. Its
    state has LeNet5's names and shapes. With `by_layer` the ten parameters are LeNet5's, for optimizers that treat each
    layer by itself.

    A network keeps the state of one forward pass to logits: backward after another one that also records gradients
    raises RuntimeError. There is no gradient for the images.
    """

    def __init__(self, library: Path, by_layer: bool = False) -> None:
        super().__init__()
        self._kernel = Kernel(library)
        self._shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        if not by_layer:
            flat = torch.nn.utils.parameters_to_vector(self.parameters()).detach()
            del self.features, self.classifier
            self.flat = torch.nn.Parameter(flat)
            self.register_state_dict_post_hook(_split_state)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_join_state)  # type: ignore[no-untyped-call]
        # To collect them from the layers at each step would take a tenth of its time.
        self._leaves = tuple(self.parameters())
        self._memory, self._tape = _Memory(), _Memory()
        self._passes = 0

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parts of a tensor (61706,) by the name of the parameter that has that place in `flat`."""
        parts = torch.split(flat, [shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits, or the loss; ValueError for images or labels of another shape or type."""
        if images.dtype not in (torch.uint8, torch.float32) or images.shape[1:] != (1, 32, 32) or not len(images):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, expected uint8 or float32 (n, 1, 32, 32)"
            )
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}, expected int64 ({len(images)},)")
        if images.requires_grad:
            raise ValueError("the fused engine computes no gradient for images: use engine torch")
        images = images.contiguous()
        parameters = self._leaves
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            result: torch.Tensor
            if labels is None:
                result = _Logits.apply(self, images, *parameters)  # type: ignore[no-untyped-call]
            else:
                result = _Loss.apply(self, images, labels.contiguous(), *parameters)  # type: ignore[no-untyped-call]
            return result
        logits = self._logits(images, parameters, self._memory.address(self._kernel.forward_bytes()), keep=False)
        return logits if labels is None else torch.nn.functional.cross_entropy(logits, labels)

    def _logits(
        self, images: torch.Tensor, parameters: tuple[torch.Tensor, ...], memory: int, keep: bool
    ) -> torch.Tensor:
        logits = torch.empty(len(images), 10)
        self._kernel.forward(
            images.data_ptr(), images.dtype == torch.uint8, len(images), _addresses(parameters), memory, keep,
            logits.data_ptr(),
        )  # fmt: skip
        return logits

    def _loss(
        self, images: torch.Tensor, labels: torch.Tensor, parameters: tuple[torch.Tensor, ...]
    ) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Return the loss and the gradients of all parameters."""
        memory = self._memory.address(self._kernel.loss_bytes(len(images)))
        gradients = tuple(map(torch.empty_like, parameters))
        loss: float = self._kernel.loss(
            images.data_ptr(), images.dtype == torch.uint8, labels.data_ptr(), len(images), _addresses(parameters),
            memory, _addresses(gradients),
        )  # fmt: skip
        return loss, gradients


class _LogitsContext(FunctionCtx):
    network: FusedLeNet5
    number: int
    saved_tensors: tuple[torch.Tensor, ...]


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(
        context: _LogitsContext, network: FusedLeNet5, images: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        tape = network._tape.address(network._kernel.tape_bytes(len(images)))
        network._passes += 1
        context.network, context.number = network, network._passes
        # Backward raises where they were changed in between.
        context.save_for_backward(*parameters)
        return network._logits(images, parameters, tape, keep=True)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: _LogitsContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        network, parameters = context.network, context.saved_tensors
        if context.number != network._passes:
            raise RuntimeError("backward after another forward pass: the fused engine keeps the last one only")
        gradient = gradient.contiguous()
        gradients = tuple(map(torch.empty_like, parameters))
        tape = network._tape.address(network._kernel.tape_bytes(len(gradient)))
        network._kernel.backward(
            gradient.data_ptr(), len(gradient), _addresses(parameters), tape, _addresses(gradients)
        )
        return (None, None, *gradients)


class _LossContext(FunctionCtx):
    gradients: tuple[torch.Tensor, ...]


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        context: _LossContext, network: FusedLeNet5, images: torch.Tensor, labels: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        loss, context.gradients = network._loss(images, labels, parameters)
        return torch.tensor(loss)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: _LossContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, factor = context.gradients, gradient.item()
        if not gradients:
            raise RuntimeError("backward a second time: the fused engine gives the gradients of a loss once")
        # Whoever has them may change them.
        context.gradients = ()
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        return (None, None, None, *gradients)


def _split_state(network: FusedLeNet5, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
    parts = network.split(state.pop(f"{prefix}flat"))
    # Files of weights have no tensors that share memory.
    state |= {f"{prefix}{name}": part.clone() for name, part in parts.items()}


def _join_state(network: FusedLeNet5, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    names = [f"{prefix}{name}" for name in network._shapes]
    if all(name in state for name in names):
        state[f"{prefix}flat"] = torch.cat([state.pop(name).flatten() for name in names])


class _Memory:
    """Memory for the kernel, kept from step to step, as fresh pages would cost a tenth of a step's time."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def address(self, needed: int) -> int:
        """Return the address of at least so many bytes: the same as before, unless there were too few."""
        if len(self._bytes) < needed:
            self._bytes = torch.empty(needed, dtype=torch.uint8)
        return self._bytes.data_ptr()

    def __deepcopy__(self, _: object) -> "_Memory":
        return _Memory()


def _addresses(tensors: tuple[torch.Tensor, ...]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of the ten parameters or their gradients, as the kernel's structs have them.

    They are contiguous float32 tensors on the CPU, or one with all of them.
    """
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"the fused engine computes in float32 on a CPU, got {tensor.dtype} on {tensor.device}")
    addresses = [tensor.data_ptr() for tensor in tensors]
    if len(addresses) == 1:
        addresses = [addresses[0] + offset for offset in OFFSETS]
    return (ctypes.c_void_p * len(OFFSETS))(*addresses)
