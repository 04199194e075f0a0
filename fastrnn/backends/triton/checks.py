"""Checks of the operators' arguments, once for each call: what the kernels read through pointers is known to be there.

The same conditions and messages as in ``csrc/torch/checked_layer.cpp``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from fastrnn.spec import NONE, WHOLE, ForwardCall, LayerSpec, Noise, Segments

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
    torch.bool: "Bool",
}
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Inputs:
    """What forward and backward have in common besides the options. ``segments.reset`` is [T, B].

    Attributes:
        places: int64 [N], which row of the caller's y each row is, where it is another one.
    """

    x: Tensor
    state: Sequence[Tensor]
    weights: Sequence[Tensor]
    batch_sizes: Tensor | None
    segments: Segments = WHOLE
    noise: Noise = NONE
    places: Tensor | None = None

    @property
    def differentiable(self) -> list[Tensor]:
        """In the order of ``needed``."""
        return [self.x, *self.state, *self.weights, *self.segments.reset_state]

    def members(self) -> Iterator["Inputs"]:
        """Those of each member of an ensemble."""
        of_noise = [t for t in (self.noise.h_mask, self.noise.zoneout_seed) if t is not None]
        if any(len(t) != len(self.x) for t in (*self.differentiable, *of_noise)):
            _refuse(f"expected states, weights and noise of {len(self.x)} members like the input")
        for e in range(len(self.x)):
            segments = self.segments._replace(reset_state=[s[e] for s in self.segments.reset_state])
            state, weights = [s[e] for s in self.state], [w[e] for w in self.weights]
            yield Inputs(self.x[e], state, weights, self.batch_sizes, segments, self.noise.of_member(e))


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
    if call.segments and (call.batch_sizes is not None or call.one_step):
        given = "a single step" if call.batch_sizes is None else "a packed one"
        _refuse(f"expected lengths and reset of an input of 3 dimensions, got {given}")
    try:
        return call.spec
    except ValueError as error:
        _refuse(str(error))


def check_layer(spec: LayerSpec, inputs: Inputs) -> int:
    """Returns the size of the batch."""
    x, state, weights, batch_sizes = inputs.x, inputs.state, inputs.weights, inputs.batch_sizes
    gates = len(spec.facts.gates)
    w_hh = weights[spec.w_hh]
    if w_hh.dim() != 2 or w_hh.shape[0] % gates:
        _refuse(f"expected weight_hh [{gates} * hidden_size, outputs], got {list(w_hh.shape)}")
    hidden, outputs = spec.hidden_and_outputs(w_hh)
    dimensions = 3 if batch_sizes is None else 2
    if x.dim() != dimensions:
        _refuse(f"expected {'3' if dimensions == 3 else 'a packed input of 2'} dimensions, got {x.dim()}")
    batch = _batch(x, state, batch_sizes)

    width = spec.directions * spec.gates_width(hidden)
    if spec.gates_given and x.shape[-1] != width:
        _refuse(f"expected {width} inputs, the gates' products, of a layer with layer_norm, got {x.shape[-1]}")
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
    _check_segments(spec, x, list(widths.values()), inputs.segments)
    _check_noise(spec, x, (spec.directions, batch, outputs), inputs.noise)
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
    if samples > 1 and spec.layer_norm:
        _refuse("expected no gradients by sample of a normalised layer")
    rows = [batch] if inputs.batch_sizes is None else inputs.batch_sizes.tolist()
    if samples < 1 or any(active % samples for active in rows):
        _refuse(f"expected rows of each of {samples} samples at every step, got a batch of {batch}")
    hidden, outputs = spec.hidden_and_outputs(inputs.weights[spec.w_hh])
    widths = spec.state_widths(hidden, outputs)
    expected = len(inputs.differentiable)
    if len(needed) != expected:
        _refuse(f"expected {expected} flags in needed, got {len(needed)}")
    if samples > 1 and inputs.segments:
        raise NotImplementedError("fastrnn: expected neither lengths nor reset beside gradients by sample")
    if len(dstate) not in (len(widths), 2 * len(widths) - 1):
        more = ", or one more" if len(widths) > 1 else ""
        _refuse(f"expected {len(widths)} final-state gradients{more}, got {len(dstate)}")
    y_shape = (*x.shape[:-1], spec.directions * outputs)
    saved_width = spec.facts.saved_values(inputs.noise.zoneout, spec.layer_norm) * hidden
    saved_shape = (spec.directions, math.prod(x.shape[:-1]), saved_width)
    fits = y.shape == y_shape and saved.shape == saved_shape and saved.dtype == x.dtype
    if not fits or y.device != x.device or saved.device != x.device:
        _refuse(
            f"expected y and saved of this layer's forward, got {list(y.shape)} and {_name(saved)} {list(saved.shape)}"
        )
    shapes: dict[str, tuple[int, ...]] = {"dy": y_shape}
    shapes |= {f"d{name}_T": (spec.directions, batch, width) for name, width in widths.items()}
    by_step = (spec.directions, *x.shape[:-1])
    shapes |= {f"d{name} of every step": (*by_step, width) for name, width in [*widths.items()][1:]}
    for gradient, (name, shape) in zip((dy, *dstate), shapes.items(), strict=False):
        if gradient is not None and (gradient.shape != shape or gradient.device != x.device):
            _refuse(
                f"expected {name} of shape {list(shape)} on {x.device}, got {list(gradient.shape)} on {gradient.device}"
            )


def _check_segments(spec: LayerSpec, x: Tensor, widths: Sequence[int], segments: Segments) -> None:
    """What can be known without waiting for the device: not whether lengths are from 0 to T."""
    if not segments:
        return
    lengths, reset, reset_state = segments
    steps, batch = x.shape[:2]
    if lengths is not None and (
        lengths.shape != (batch,) or lengths.dtype not in _INTEGERS or lengths.device != x.device
    ):
        _refuse(f"expected lengths to be integers [{batch}] on {x.device}, got {_described(lengths)}")
    if reset is not None and (reset.shape != (steps, batch) or reset.dtype != torch.bool or reset.device != x.device):
        order, given = ("[B, T]", reset.mT) if spec.batch_first and reset.dim() == 2 else ("[T, B]", reset)
        _refuse(
            f"expected reset to be bool {order}, of {steps} steps and {batch} rows, on {x.device}, "
            f"got {_described(given)}"
        )
    if reset_state and (reset is None or len(reset_state) != len(widths)):
        beside = "" if reset is not None else " without one"
        _refuse(f"expected {len(widths)} states for a reset, and a reset, got {len(reset_state)}{beside}")
    for i, (s, width) in enumerate(zip(reset_state, widths, strict=False)):
        once, by_step = (spec.directions, batch, width), (spec.directions, steps, batch, width)
        fits = s.shape in (once, by_step) and s.dim() == reset_state[0].dim()
        if not fits or s.dtype != x.dtype or s.device != x.device:
            _refuse(
                f"expected reset_state[{i}] of shape {list(once)} or, for every step, {list(by_step)} as {_name(x)} "
                f"like the input, got {_described(s)}"
            )


def _check_noise(spec: LayerSpec, x: Tensor, shape: tuple[int, ...], noise: Noise) -> None:
    mask, _, _, seed = noise
    if mask is not None and (mask.shape != shape or mask.dtype != x.dtype or mask.device != x.device):
        _refuse(
            f"expected h_mask of shape {list(shape)} as {_name(x)} on {x.device} like the input, got {_described(mask)}"
        )
    of_cell_alone = {"zoneout_h": spec.projected, "zoneout_c": len(spec.facts.states) == 1}
    for name, none in of_cell_alone.items():
        p = getattr(noise, name)
        if not 0 <= p <= (0 if none else 1):
            expected = f"{name} of 0, for that state is not the cell's own" if none else f"{name} from 0 to 1"
            _refuse(f"expected {expected}, got {p:g}")
    if seed is not None and (seed.shape != (2,) or seed.dtype != torch.int64 or seed.device != x.device):
        _refuse(f"expected zoneout_seed to be int64 [2] on {x.device}, got {_described(seed)}")


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


def _described(tensor: Tensor) -> str:
    return f"{_name(tensor)} {list(tensor.shape)} on {tensor.device}"


def _name(tensor: Tensor) -> str:
    return _NAMES.get(tensor.dtype, str(tensor.dtype))


def _refuse(message: str) -> NoReturn:
    raise RuntimeError(f"fastrnn: {message}")
