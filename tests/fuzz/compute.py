"""What fastrnn computes of a layer, held against the reference."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import fastrnn
from fastrnn import _C
from fastrnn.modules.layers import hx_of
from fastrnn.testing import (
    CELL_MODULES,
    LAYERS,
    RoundedProducts,
    bfloat16_products_allowed,
    compare,
    on_reference,
    poisoned,
)
from fastrnn.testing.rounded import PRODUCTS

from .layer import Layer

_FLOOR_ULPS = 8
# float64 has no oracle more exact than itself: 1e-12 of the largest value, as in test_kernels.py.
_FLOOR_ULPS_FLOAT64 = 4500
# Otherwise vectors of bfloat16 would go untested where they are slower than those of float32.
_MACHINE = _C.machine() | {"vector_bfloat16": 2 * _C.machine()["vector_float32"]}
_PEERS = 16  # more of them, for what breaks the rule with the first


def _module(layer: Layer) -> nn.Module:
    class_name, arguments = (CELL_MODULES if layer.single else LAYERS)[layer.cell]
    options: dict[str, Any] = {"bias": layer.bias, "dtype": getattr(torch, layer.dtype), **arguments}
    if not layer.single:
        options |= {name: getattr(layer, name) for name in ("num_layers", "bidirectional", "batch_first")}
    if layer.P:
        options["proj_size"] = layer.P
    own = {name: getattr(layer, name) for name in ("recompute", "recurrent_dropout", "zoneout", "layer_norm")}
    options |= {name: value for name, value in own.items() if value not in (0, (0.0, 0.0))}
    torch.manual_seed(layer.seed)
    return getattr(fastrnn, class_name)(layer.I, layer.H, **options)


def _laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values, but for ``expanded``, where every row is the first, in another place of memory."""
    if layout == "sliced":
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
        wide[..., 1::2] = t
        return wide[..., 1::2]
    if layout == "transposed":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "misaligned":
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
    if layout == "expanded" and t.dim() > 1 and t.shape[-2] > 0:
        return t[..., :1, :].expand(t.shape)
    return t


def _arguments(layer: Layer) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(layer.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(getattr(torch, layer.dtype))

    rows = [] if layer.form == "unbatched" else [layer.B]
    steps = [] if layer.single else [layer.T]
    x = normal(*(rows + steps if layer.batch_first else steps + rows), layer.I)
    depth = [] if layer.single else [layer.num_layers * layer.spec.directions]
    widths = layer.spec.state_widths(layer.H, layer.P or layer.H).values()
    given = layer.hx_layout != "absent"
    state = tuple(_laid_out(normal(*depth, *rows, width), layer.hx_layout) for width in widths) if given else ()
    if layer.form != "packed":
        return _laid_out(x, layer.x_layout), state
    lengths = torch.tensor(layer.lengths)
    in_order = bool((lengths.diff() <= 0).all())
    packed = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=in_order)
    return packed._replace(data=_laid_out(packed.data, layer.x_layout)), state


def _asked(layer: Layer) -> dict[str, Any]:
    """What else a call is given: lengths, resets and the states of these."""
    generator = torch.Generator().manual_seed(layer.seed + 1)
    asked: dict[str, Any] = {}
    rows = [] if layer.form == "unbatched" else [layer.B]
    if layer.lengths and layer.form != "packed":
        asked["lengths"] = torch.tensor(layer.lengths).view(rows)
    if layer.resets:
        marks = torch.rand(layer.T, *rows, generator=generator) < layer.resets
        asked["reset"] = marks.t().contiguous() if layer.batch_first and rows else marks
    if layer.reset_state:
        steps = [layer.T] if layer.reset_state == "by_step" else []
        shape = (layer.num_layers * layer.spec.directions, *steps, *rows)
        widths = layer.spec.state_widths(layer.H, layer.P or layer.H).values()
        drawn = [torch.randn(*shape, width, generator=generator, dtype=torch.float64) for width in widths]
        asked["reset_state"] = tuple(s.to(getattr(torch, layer.dtype)) for s in drawn)
    return asked | ({"return_states": True} if layer.every_state else {})


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, PackedSequence):
        yield nested.data
    else:
        for item in nested:
            yield from _tensors(item)


def _results(layer: Layer, module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs by place, and gradients by name, zeros where there is none."""
    x, state = _arguments(layer)
    module.train(layer.mode == "train" and not layer.frozen)
    wanted: dict[str, Tensor] = {}

    def leaf(name: str, t: Tensor) -> Tensor:
        t = t.detach().to(dtype)
        if not layer.inference and name not in layer.no_gradient:
            wanted[name] = t.requires_grad_()
        return t

    argument = x._replace(data=leaf("x", x.data)) if isinstance(x, PackedSequence) else leaf("x", x)
    state = tuple(leaf(f"hx[{i}]", s) for i, s in enumerate(state))
    asked = _asked(layer)
    if "reset_state" in asked:
        asked["reset_state"] = hx_of(tuple(leaf(f"reset_state[{i}]", s) for i, s in enumerate(asked["reset_state"])))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not layer.inference and name not in layer.no_gradient)
        if parameter.requires_grad:
            wanted[name] = parameter
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(layer.mode, nullcontext)
    torch.manual_seed(layer.seed)
    with context():
        outputs = list(_tensors(module(argument, hx_of(state) if state else None, **asked)))
    found = {f"output[{i}]": y.detach() for i, y in enumerate(outputs)}
    assert any(y.requires_grad for y in outputs) == bool(wanted), "an output requires grad where nothing does, or none"
    if wanted:
        generator = torch.Generator().manual_seed(layer.seed)
        drawn = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
        pairs = zip(outputs, drawn, strict=True)
        # Of one step, the reference's c does not depend on the projection.
        loss = [(y, dy) for i, (y, dy) in enumerate(pairs) if i not in layer.no_loss and y.requires_grad]
        given = list(wanted.values())
        gradients: Any = [None] * len(given)
        if loss:
            ys, dys = zip(*loss, strict=True)
            gradients = torch.autograd.grad(ys, given, dys, allow_unused=True)
        for (name, t), gradient in zip(wanted.items(), gradients, strict=True):
            found[f"d {name}"] = torch.zeros_like(t) if gradient is None else gradient
    return found


_ATEN = torch.ops.aten
_ACTIVATIONS = (_ATEN.tanh.default, _ATEN.sigmoid.default)


class _Disturbed(TorchDispatchMode):
    """Rounding as it may be: activations are up to four ulps off, as test_activations.py allows, and their derivatives
    follow from them. Sums of K products are off by sqrt(K) / 4 ulps of the largest, and at least one, as where they are
    added one after another. The largest is at least what the products would add up to with random signs: where a
    single sum happens to cancel, what it passed through on the way was of that size, and was rounded.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ACTIVATIONS:
            return self._off(result, 4 * result.double())
        if func in PRODUCTS and result.numel():
            left, right = (args[place].double() for place in PRODUCTS[func])
            on_the_way = func(left**2, right**2) if func is not _ATEN.addmm.default else left**2 @ right**2
            largest = torch.maximum(result.double().abs().max(), on_the_way.max().sqrt())
            return self._off(result, max(1.0, left.shape[-1] ** 0.5 / 4) * largest)
        return result

    def _off(self, value: Tensor, scale: Tensor) -> Tensor:
        noise = torch.rand(value.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return (value.double() + torch.finfo(value.dtype).eps * noise * scale).to(value.dtype)


def failures(layer: Layer) -> list[str]:
    """What is wrong with fastrnn's results; empty where all is right."""
    dtype = getattr(torch, layer.dtype)
    _C.force_isa(layer.isa)
    _C.force_machine(_MACHINE)
    torch.set_num_threads(1)
    module = _module(layer)
    twin = on_reference(module)
    if layer.frozen:
        fastrnn.freeze(module, layer.frozen)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.copy_(getattr(module, name))
    exact = _results(layer, copy.deepcopy(twin).double(), torch.float64)
    torch.set_num_threads(layer.threads)
    try:
        with poisoned(dtype), bfloat16_products_allowed() if layer.rounds else nullcontext():
            got = _results(layer, module, dtype)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        torch.set_num_threads(1)
    if got.keys() != exact.keys():
        return [f"expected {', '.join(exact)}; got {', '.join(got)}"]
    forms = {name: (value.dtype, value.shape) for name, value in got.items()}
    wrong = [f"{name}: got {forms[name]}" for name, value in exact.items() if forms[name] != (dtype, value.shape)]
    return wrong or _inaccurate(layer, got, exact, twin)


def _products_are_rounded(layer: Layer) -> bool:
    with bfloat16_products_allowed():
        return _C.products_of(layer.dtype, layer.T, sum(layer.lengths) or layer.T * layer.B) == "bfloat16"


def _inaccurate(layer: Layer, got: dict[str, Tensor], exact: dict[str, Tensor], twin: nn.Module) -> list[str]:
    """What breaks the accuracy rule. ``twin`` is the module on the reference."""
    dtype = getattr(torch, layer.dtype)
    # Where the processor multiplies frozen weights as they are, activations are rounded too, no coarser than these.
    peers = {"bfloat16": torch.bfloat16, "int8": torch.float16} if _C.has_bfloat16() else {}
    measure = peers.get(layer.frozen, dtype)
    twin = twin.to(measure)
    rounded = layer.rounds and _products_are_rounded(layer)
    floor = _FLOOR_ULPS_FLOAT64 if dtype == torch.float64 else _FLOOR_ULPS

    def wrong() -> dict[str, str]:
        with RoundedProducts() if rounded else nullcontext():
            peer = {name: value.to(dtype) for name, value in _results(layer, twin, measure).items()}
        return {found.name: str(found) for found in compare(got, peer, exact, floor) if not found.ok}

    suspects = wrong()
    # A tensor of a few values may be exact in the peer by luck. Then peers that round otherwise are the measure: what
    # is wrong breaks the rule with each of them.
    for seed in range(_PEERS):
        if suspects:
            with _Disturbed(seed):
                again = wrong()
            suspects = {name: again[name] for name in suspects.keys() & again.keys()}
    return sorted(suspects.values())
