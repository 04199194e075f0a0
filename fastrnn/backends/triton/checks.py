"""Checks of the operators' arguments, once for each call: what the kernels read through pointers is known to be there.

The same conditions and messages as in ``csrc/operators.cpp``.
"""

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from fastrnn.spec import CELLS, LayerSpec

__all__ = ["check_backward", "check_layer"]

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


def check_layer(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
) -> int:
    """What forward and backward have in common. Returns the size of the batch."""
    try:
        layer = LayerSpec.of_weights(cell, directions, has_bias, batch_first, weights)
    except ValueError as error:
        _refuse(str(error))
    spec, projected, per_direction = layer.facts, layer.projected, len(layer.weight_names)
    gates = len(spec.gates)
    if weights[1].dim() != 2 or weights[1].shape[0] % gates:
        _refuse(f"expected weight_hh [{gates} * hidden_size, outputs], got {list(weights[1].shape)}")
    gate_rows, outputs = weights[1].shape
    hidden = gate_rows // gates
    dimensions = 3 if batch_sizes is None else 2
    if x.dim() != dimensions:
        _refuse(f"expected {'3' if dimensions == 3 else 'a packed input of 2'} dimensions, got {x.dim()}")
    batch = _batch(x, state, batch_sizes, batch_first)

    shapes = layer.weight_shapes(x.shape[-1], hidden, outputs)
    for d in range(directions):
        for weight, (name, shape) in zip(weights[d * per_direction :], shapes.items(), strict=False):
            _check_like(x, weight, shape, name)
    if not projected and outputs != hidden:
        _refuse(f"expected weight_hh with {hidden} columns, got {outputs}")
    if state and len(state) != len(spec.states):
        _refuse(f"expected {len(spec.states)} initial states or none, got {len(state)}")
    for s, (name, width) in zip(state, layer.state_widths(hidden, outputs).items(), strict=False):
        _check_like(x, s, (directions, batch, width), f"{name}_0")
    if x.dtype not in _FLOATING:
        _refuse(f"expected float32, float64, bfloat16 or float16, got {_name(x)}")
    return batch


def check_backward(
    dy: Tensor | None,
    dstate: Sequence[Tensor | None],
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    y: Tensor,
    saved: Tensor,
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: Sequence[bool],
) -> None:
    batch = check_layer(x, state, weights, batch_sizes, cell, directions, has_bias, batch_first)
    spec = CELLS[cell]
    inputs = 1 + len(state) + len(weights)
    if len(needed) != inputs:
        _refuse(f"expected {inputs} flags in needed, got {len(needed)}")
    if len(dstate) != len(spec.states):
        _refuse(f"expected {len(spec.states)} final-state gradients, got {len(dstate)}")
    gate_rows, outputs = weights[1].shape
    y_shape = (*x.shape[:-1], directions * outputs)
    saved_shape = (directions, math.prod(x.shape[:-1]), len(spec.saved) * (gate_rows // len(spec.gates)))
    fits = y.shape == y_shape and saved.shape == saved_shape and saved.dtype == x.dtype
    if not fits or y.device != x.device or saved.device != x.device:
        _refuse(
            f"expected y and saved of this layer's forward, got {list(y.shape)} and {_name(saved)} {list(saved.shape)}"
        )
    shapes: dict[str, tuple[int, ...]] = {"dy": y_shape}
    for name, width in LayerSpec(cell).state_widths(gate_rows // len(spec.gates), outputs).items():
        shapes[f"d{name}_T"] = (directions, batch, width)
    for gradient, (name, shape) in zip((dy, *dstate), shapes.items(), strict=True):
        if gradient is not None and (gradient.shape != shape or gradient.device != x.device):
            _refuse(
                f"expected {name} of shape {list(shape)} on {x.device}, got {list(gradient.shape)} on {gradient.device}"
            )


def _batch(x: Tensor, state: Sequence[Tensor], batch_sizes: Tensor | None, batch_first: bool) -> int:
    """The size of the batch; every step is checked."""
    if batch_sizes is None:
        batch, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return batch
    if not state or state[0].dim() != 3:
        found = f"{state[0].dim()} dimensions" if state else "none"
        _refuse(f"expected initial states [D, B, P] with a packed input, got {found}")
    if batch_sizes.dim() != 1 or batch_sizes.dtype != torch.int64 or not batch_sizes.is_cpu or not len(batch_sizes):
        _refuse(
            f"expected batch_sizes to be int64 [T] on the CPU, T > 0, got {_name(batch_sizes)} "
            f"{list(batch_sizes.shape)} on {batch_sizes.device}"
        )
    batch = state[0].shape[1]
    sizes = batch_sizes.tolist()
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
