"""Checks of the operators' arguments, once for each call: what the kernels read through pointers is known to be there.

The same conditions and messages as in ``csrc/torch/checked_layer.cpp``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from fastrnn.spec import ForwardCall, LayerSpec

__all__ = ["Inputs", "check_backward", "check_layer", "check_options"]

_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# As PyTorch's own messages name them.
_NAMES = {
    torch.float32: "Float",
    torch.float64: "Double",
    torch.bfloat16: "BFloat16",
    torch.float16: "Half",
    torch.int32: "Int",
    torch.int64: "Long",
}


@dataclass(frozen=True)
class Inputs:
    """What forward and backward have in common besides the options."""

    x: Tensor
    state: Sequence[Tensor]
    weights: Sequence[Tensor]
    batch_sizes: Tensor | None

    def members(self) -> Iterator["Inputs"]:
        """Those of each member of an ensemble."""
        if any(len(t) != len(self.x) for t in (*self.state, *self.weights)):
            _refuse(f"expected states and weights of {len(self.x)} members like the input")
        for e in range(len(self.x)):
            yield Inputs(self.x[e], [s[e] for s in self.state], [w[e] for w in self.weights], self.batch_sizes)


@dataclass(frozen=True)
class Results:
    """What forward gave, and the gradients that came for it."""

    dy: Tensor | None
    dstate: Sequence[Tensor | None]
    y: Tensor
    saved: Tensor

    def members(self, count: int) -> Iterator["Results"]:
        def of(t: Tensor | None, e: int) -> Tensor | None:
            return None if t is None else t[e]

        for e in range(count):
            yield Results(of(self.dy, e), [of(d, e) for d in self.dstate], self.y[e], self.saved[e])


def check_options(call: ForwardCall) -> LayerSpec:
    try:
        return call.spec
    except ValueError as error:
        _refuse(str(error))


def check_layer(spec: LayerSpec, inputs: Inputs) -> int:
    """Returns the size of the batch."""
    x, state, weights, batch_sizes = inputs.x, inputs.state, inputs.weights, inputs.batch_sizes
    gates = len(spec.facts.gates)
    if weights[1].dim() != 2 or weights[1].shape[0] % gates:
        _refuse(f"expected weight_hh [{gates} * hidden_size, outputs], got {list(weights[1].shape)}")
    hidden, outputs = spec.hidden_and_outputs(weights[1])
    dimensions = 3 if batch_sizes is None else 2
    if x.dim() != dimensions:
        _refuse(f"expected {'3' if dimensions == 3 else 'a packed input of 2'} dimensions, got {x.dim()}")
    batch = _batch(x, state, batch_sizes)

    shapes = spec.weight_shapes(x.shape[-1], hidden, outputs)
    for i, weight in enumerate(weights):
        name = spec.weight_names[i % len(shapes)]
        _check_like(x, weight, shapes[name], name)
    if not spec.projected and outputs != hidden:
        _refuse(f"expected weight_hh with {hidden} columns, got {outputs}")
    widths = spec.state_widths(hidden, outputs)
    if state and len(state) != len(widths):
        _refuse(f"expected {len(widths)} initial states or none, got {len(state)}")
    for s, (name, width) in zip(state, widths.items(), strict=False):
        _check_like(x, s, (spec.directions, batch, width), f"{name}_0")
    if x.dtype not in _FLOATING:
        _refuse(f"expected float32, float64, bfloat16 or float16, got {_name(x)}")
    return batch


def check_backward(
    spec: LayerSpec,
    inputs: Inputs,
    results: Results,
    needed: Sequence[bool],
    samples: int,
) -> None:
    batch, x = check_layer(spec, inputs), inputs.x
    dy, dstate, y, saved = results.dy, results.dstate, results.y, results.saved
    rows = [batch] if inputs.batch_sizes is None else inputs.batch_sizes.tolist()
    if samples < 1 or any(active % samples for active in rows):
        _refuse(f"expected rows of each of {samples} samples at every step, got a batch of {batch}")
    hidden, outputs = spec.hidden_and_outputs(inputs.weights[1])
    widths = spec.state_widths(hidden, outputs)
    expected = 1 + len(inputs.state) + len(inputs.weights)
    if len(needed) != expected:
        _refuse(f"expected {expected} flags in needed, got {len(needed)}")
    if len(dstate) != len(widths):
        _refuse(f"expected {len(widths)} final-state gradients, got {len(dstate)}")
    y_shape = (*x.shape[:-1], spec.directions * outputs)
    saved_shape = (spec.directions, math.prod(x.shape[:-1]), len(spec.facts.saved) * hidden)
    fits = y.shape == y_shape and saved.shape == saved_shape and saved.dtype == x.dtype
    if not fits or y.device != x.device or saved.device != x.device:
        _refuse(
            f"expected y and saved of this layer's forward, got {list(y.shape)} and {_name(saved)} {list(saved.shape)}"
        )
    shapes: dict[str, tuple[int, ...]] = {"dy": y_shape}
    shapes |= {f"d{name}_T": (spec.directions, batch, width) for name, width in widths.items()}
    for gradient, (name, shape) in zip((dy, *dstate), shapes.items(), strict=True):
        if gradient is not None and (gradient.shape != shape or gradient.device != x.device):
            _refuse(
                f"expected {name} of shape {list(shape)} on {x.device}, got {list(gradient.shape)} on {gradient.device}"
            )


def _batch(x: Tensor, state: Sequence[Tensor], batch_sizes: Tensor | None) -> int:
    """The size of the batch; every step is checked."""
    if batch_sizes is None:
        steps, batch = x.shape[:2]
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return batch
    if batch_sizes.dim() != 1 or batch_sizes.dtype != torch.int64 or not batch_sizes.is_cpu or not len(batch_sizes):
        _refuse(
            f"expected batch_sizes to be int64 [T] on the CPU, T > 0, got {_name(batch_sizes)} "
            f"{list(batch_sizes.shape)} on {batch_sizes.device}"
        )
    sizes = batch_sizes.tolist()
    batch = state[0].shape[1] if state and state[0].dim() == 3 else sizes[0]
    most = batch
    for t, size in enumerate(sizes):
        if not 0 < size <= most:
            _refuse(
                f"expected batch_sizes that do not increase, from {batch} to no less than 1, got {size} at step {t}"
            )
        most = size
    if sizes[0] != batch or sum(sizes) != x.shape[0]:
        _refuse(f"batch_sizes begin with {sizes[0]} and add up to {sum(sizes)}, expected {batch} and {x.shape[0]}")
    return batch


def _check_like(x: Tensor, tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tensor.shape != shape:
        _refuse(f"expected {name} of shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != x.dtype or tensor.device != x.device:
        _refuse(f"expected {name} as {_name(x)} on {x.device} like the input, got {_name(tensor)} on {tensor.device}")


def _name(tensor: Tensor) -> str:
    return _NAMES.get(tensor.dtype, str(tensor.dtype))


def _refuse(message: str) -> NoReturn:
    raise RuntimeError(f"fastrnn: {message}")
