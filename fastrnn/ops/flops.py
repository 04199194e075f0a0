"""A layer's operations for ``torch.utils.flop_counter.FlopCounterMode``: those of its products, as PyTorch counts."""

import math
import sys
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward
from fastrnn.spec import BackwardCall, ForwardCall

__all__ = ["announce"]


def _forward(*args: Any, **_: Any) -> int:
    """Every row meets every matrix, in a multiplication and an addition for each element."""
    call = ForwardCall(*args)
    return 2 * _rows(call.x) * sum(_elements(w) for w in call.weights)


def _backward(*args: Any, **_: Any) -> int:
    """A matrix meets the gradients of the sums, unless they end there, and these the rows, where that is needed."""
    call = BackwardCall(*args)
    total, rows = 0, _rows(call.x)
    per_direction = len(call.weights) // call.directions
    states = len(call.forward.state)
    of_x, *of_states = call.needed[: 1 + states]
    before_the_first = 0 if any(of_states[:1]) else _batch(call.forward)
    for i, (w, wanted) in enumerate(zip(call.weights, call.needed[1 + states :], strict=False)):  # then of resets
        number = i % per_direction + call.layer_norm  # as of a layer with weight_ih
        passed_on = {0: rows if of_x else 0, 1: rows - before_the_first}.get(number, rows)
        total += _elements(w) * (rows * wanted + passed_on)
    return 2 * total


def _batch(call: ForwardCall) -> int:
    if call.batch_sizes is not None:
        return int(call.batch_sizes[0])
    return call.x.shape[call.members + (not call.swapped and not call.one_step)]


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
