"""``explain``: on what a recurrent module runs, by which plan, and why not on something faster."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, RNNBase
from torch.nn.utils.rnn import PackedSequence

from fastrnn.backends import cpu
from fastrnn.checks import autocast_enabled
from fastrnn.modules.counterparts import FAST, FASTRNN, is_fast
from fastrnn.modules.frozen import Frozen
from fastrnn.modules.replace import decide, derived_for, own_class
from fastrnn.ops.dispatch import BACKENDS, reasons_against
from fastrnn.spec import LayerSpec, Sizes

__all__ = ["explain"]


def explain(module: Module, x: Tensor | PackedSequence | None = None, hx: Any = None) -> str:
    """Says on what ``module(x, hx)`` would run and why, without running it.

    With ``x``, for a fastrnn layer or cell: for each stacked layer the backend and its plan, the reasons of the
    backends that decline, and how many bytes forward would save for backward.

    Without ``x``, for a layer, a cell or a whole model: for each recurrent module inside, what the device and dtype of
    its parameters decide, which is the backend.

    Of a ``torch.nn`` layer or cell it says whether ``fastrnn.accelerate`` would swap it, of a frozen one how its
    weights are multiplied; ``x`` is then not looked at.
    The answer depends on grad mode, autocast and the number of threads, as they are at the time.

    Raises:
        TypeError: where an argument is of a type that does not fit.
        ValueError: where ``x`` or ``hx`` does not fit the layer, or is given with a model that contains layers.
    """
    if not isinstance(module, Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    if _is_recurrent(module):
        return "\n".join(_recurrent(module, x, hx))
    if x is not None or hx is not None:
        raise ValueError(
            f"x and hx: expected none with {_class_name(module)}, which is not itself a recurrent layer or cell; "
            "pass the model alone, or one of its layers with the input of that layer"
        )
    found = {name: m for name, m in module.named_modules() if _is_recurrent(m)}
    if not found:
        return f"{_class_name(module)}: no recurrent layer or cell inside"
    return "\n".join(f"{name}: " + "\n".join(_recurrent(m, None, None)) for name, m in found.items())


def _is_recurrent(module: Module) -> bool:
    return is_fast(module) or decide(module, derived_for) is not None


def _class_name(module: Module) -> str:
    cls = own_class(module)
    if is_fast(module):
        cls = FAST.get(cls, cls)
    package = "fastrnn" if cls in FASTRNN else "torch.nn" if cls in FAST else cls.__module__
    return f"{package}.{cls.__qualname__}"


def _recurrent(module: Any, x: Tensor | PackedSequence | None, hx: Any) -> Iterator[str]:
    title = f"{_class_name(module)}({module.extra_repr()})"
    if not is_fast(module):
        choice = decide(module, derived_for)
        yield title
        yield "  runs on torch's own kernels"
        yield f"  fastrnn.accelerate() {f'would leave it: {choice}' if isinstance(choice, str) else 'would swap it'}"
    elif isinstance(module, Frozen):
        yield title
        yield f"  backend: {cpu.NAME}, inference only, weights read as {module.stored_as} and {cpu.frozen_products()}"
    elif x is not None:
        yield from _call(title, module, x, hx)
    elif hx is not None:
        raise ValueError("hx: expected none without x")
    else:
        weight = _weights(module)[0]
        dtype = _compute_dtype(weight)
        yield f"{title}, {dtype} on {weight.device}"
        yield from _backend(module.layer_spec, weight.device, dtype)


def _call(title: str, module: Any, x: Tensor | PackedSequence, hx: Any) -> Iterator[str]:
    weights = _weights(module)
    steps, batch, rows = _rows(module, x)
    data = x.data if isinstance(x, PackedSequence) else x
    _check_input(module, data, weights[0])
    dtype = _compute_dtype(data)
    ragged = f", {rows} rows in all" if rows != steps * batch else ""
    yield f"{title}, T={steps}, B={batch}{ragged}, {dtype} on {data.device}"

    spec: LayerSpec = module.layer_spec
    per_layer = spec.directions * len(spec.weight_names)
    layers = len(weights) // per_layer
    outputs = getattr(module, "proj_size", 0) or module.hidden_size
    differentiable = any(t.requires_grad for t in (data, *_states(module, hx)))
    blocks, seconds = [], 0.0
    for i in range(layers):
        # The output of a layer requires grad, and so does the input of the next, where anything that entered it does.
        differentiable |= any(w.requires_grad for w in weights[i * per_layer : (i + 1) * per_layer])
        inputs = 0 if spec.layer_norm else module.input_size if i == 0 else spec.directions * outputs
        sizes = Sizes(steps, batch, rows, inputs, module.hidden_size, outputs)
        recompute, zoneout = getattr(module, "recompute", False), bool(getattr(module, "zoneout", 0.0))
        blocks.append(list(_layer(spec, sizes, data.device, dtype, differentiable, recompute, zoneout)))
        if _chosen(spec, data.device, dtype) is cpu and rows:
            seconds += cpu.plan(spec, sizes, dtype, data.device).seconds
    for _, group in groupby(range(layers), key=blocks.__getitem__):
        first, *others = group
        indent = ""
        if layers > 1:
            yield f"  layers {first} to {others[-1]}:" if others else f"  layer {first}:"
            indent = "  "
        yield from (indent + line for line in blocks[first])
    if seconds:
        yield f"  estimate: the products of the time loops, forward and backward, take about {1e6 * seconds:,.0f} us"
        yield f"  on: {cpu.machine()}"


def _rows(module: Any, x: Tensor | PackedSequence) -> tuple[int, int, int]:
    """T, B and the number of rows over all steps."""
    layer = isinstance(module, RNNBase)
    if isinstance(x, PackedSequence) and layer:
        return len(x.batch_sizes), int(x.batch_sizes[0]), len(x.data)
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a Tensor{' or a PackedSequence' * layer}, got {type(x).__name__}")
    unbatched = 2 if layer else 1
    if x.dim() not in (unbatched, unbatched + 1):
        raise ValueError(f"x: expected {unbatched} or {unbatched + 1} dimensions, got {x.dim()}")
    batch = x.size(0 if not layer or module.batch_first else 1) if x.dim() > unbatched else 1
    steps = x.size(1 if module.batch_first and x.dim() == 3 else 0) if layer else 1
    if steps == 0:
        raise ValueError("x: expected at least one time step, got none")
    return steps, batch, steps * batch


def _check_input(module: Any, data: Tensor, weight: Tensor) -> None:
    if data.size(-1) != module.input_size:
        raise ValueError(f"x: expected {module.input_size} in the last dimension, got {data.size(-1)}")
    if data.device != weight.device:
        raise ValueError(f"x: expected it on {weight.device} as the weights, got {data.device}")
    if data.dtype != weight.dtype and not autocast_enabled(data):
        raise ValueError(f"x: expected {weight.dtype} as the weights, got {data.dtype}")


def _states(module: Any, hx: Any) -> tuple[Tensor, ...]:
    names = module.cell_spec.states
    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    if states and len(states) != len(names) or not all(isinstance(s, Tensor) for s in states):
        raise TypeError(f"hx: expected {' and '.join(names)}, {len(names)} tensors, got {type(hx).__name__}")
    return states


def _weights(module: Any) -> list[Tensor]:
    if isinstance(module, RNNBase):
        return [w for w in module._flat_weights if w is not None]
    return [getattr(module, name) for name in module.layer_spec.weight_names]


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(x.device.type) if autocast_enabled(x) and x.dtype != torch.float64 else x.dtype


def _layer(
    spec: LayerSpec,
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    differentiable: bool,
    recompute: bool | int,
    zoneout: bool,
) -> Iterator[str]:
    """One layer of a stack, or a cell."""
    backend = _chosen(spec, device, dtype)
    yield from _backend(spec, device, dtype)
    if backend and sizes.rows:
        yield f"  plan: {backend.plan(spec, sizes, dtype, device)}"
    of_zoneout = "h" if len(spec.facts.states) == 1 else "c after zoneout"
    of_norm = tuple([f"gh_{gate} before its norm" for gate in spec.facts.gates])
    saved = spec.facts.saved + (of_zoneout,) * (spec.facts.saved_by_zoneout * zoneout) + of_norm * spec.layer_norm
    if not torch.is_grad_enabled():
        said = "nothing, gradients are disabled"
    elif not differentiable:
        said = "nothing, no input or parameter requires grad"
    elif not backend:
        said = "whatever autograd keeps of each operation"
    elif not saved:
        said = "nothing besides input and output"
    elif recompute:
        parts = "" if recompute is True else f", {recompute} steps at a time"
        said = f"nothing besides input and output: {', '.join(saved)} are formed again{parts}"
    else:
        values = spec.directions * sizes.rows * len(saved) * sizes.hidden
        # On a GPU of the dtype of x, else of that of the computation, as the fake of layer_forward says.
        size = values * (dtype.itemsize if device.type == "cuda" else max(dtype.itemsize, 4))
        said = f"{size:,} bytes ({', '.join(saved)} of every row) besides input and output"
    yield f"  saved for backward: {said}"


def _chosen(spec: LayerSpec, device: torch.device, dtype: torch.dtype) -> Any:
    against = reasons_against(spec.cell, device, dtype)
    return next((backend for backend in BACKENDS if not against[backend.NAME]), None)


def _backend(spec: LayerSpec, device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    backend = _chosen(spec, device, dtype)
    yield f"  backend: {backend.NAME if backend else 'none, so the reference in plain PyTorch'}"
    for name, reasons in reasons_against(spec.cell, device, dtype).items():
        if reasons:
            yield f"  not {name}: {'; '.join(reasons)}"
