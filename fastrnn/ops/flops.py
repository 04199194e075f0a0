"""A layer's operations for ``torch.utils.flop_counter.FlopCounterMode``: those of its products, as PyTorch counts."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward
from fastrnn.spec import given

__all__ = ["announce"]


def _forward(x: Tensor, h_0: Any, c_0: Any, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    """Every row meets every matrix, in a multiplication and an addition for each element."""
    return 2 * _rows(x) * sum(_elements(w) for w in weights)


def _backward(
    dy: Any,
    dstate: Any,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    y: Any,
    saved: Any,
    batch_sizes: Any,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    """A matrix meets the gradients of the sums, unless they end there, and these the rows, where that is needed."""
    total = 0
    rows = _rows(x)
    per_direction = len(weights) // directions
    of_x, *of_states = needed[: 1 + len(given(h_0, c_0))]
    before_the_first = 0 if any(of_states[:1]) else _batch(x, batch_sizes, batch_first)
    for i, (w, wanted) in enumerate(zip(weights, needed[1 + len(of_states) :], strict=True)):
        passed_on = {0: rows if of_x else 0, 1: rows - before_the_first}.get(i % per_direction, rows)
        total += _elements(w) * (rows * wanted + passed_on)
    return 2 * total


def _batch(x: Tensor, batch_sizes: Tensor | None, batch_first: bool) -> int:
    if batch_sizes is not None:
        return int(batch_sizes[0])
    return len(x) if batch_first or x.dim() == 2 else x.shape[1]


def _rows(x: Tensor) -> int:
    return math.prod(x.shape[:-1])


def _elements(weight: Tensor) -> int:
    """Of a matrix; a bias counts for nothing."""
    return math.prod(weight.shape[-2:]) if weight.dim() >= 2 else 0


_FORMULAS = {layer_forward: _forward, frozen_forward: _forward, layer_backward: _backward}


def announce() -> None:
    """Tells the counters in force how to count. Their module takes 0.3 s to import, so they are not told before."""
    if torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack():
        return
    if "torch.utils.flop_counter" in sys.modules:
        for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack():
            registry = getattr(getattr(mode, "counter", mode), "flop_registry", {})
            registry.update({operator.overloadpacket: formula for operator, formula in _FORMULAS.items()})
