"""The shortest time that the device allows, from rates measured in the same run.

The longest of three:

- barrier: one for each step of each layer in the cooperative regime, of as many programs as the plan has. It bounds
  this design, not every design.
- arithmetic: ``limits.work_of`` counts the operations of all products, over the rate of a large product.
- memory: input, output, weights, and in training their gradients, each read or written once, and both once more to
  form the weights' gradients, over the rate of a copy.
"""

from typing import Any

import torch

from benches.cases import Case
from benches.gpu.barrier import Barrier, interpolated
from benches.gpu.cases import precision_of
from benches.limits import work_of
from fastrnn.backends.triton.plans import Plan

__all__ = ["floors"]


def floors(
    case: Case, rows: int, training: bool, plan: Plan, rates: dict[str, Any], barriers: list[Barrier]
) -> dict[str, float]:
    """Seconds by name. ``rows``: real steps of real rows."""
    operations, _ = work_of(case, rows, training)
    return {
        "barrier": _barrier(case, training, plan, barriers),
        "arithmetic": operations / rates["operations"][precision_of(case)],
        "memory": _bytes(case, rows, training) / rates["copy"],
    }


def _barrier(case: Case, training: bool, plan: Plan, barriers: list[Barrier]) -> float:
    tiles = [plan.forward, plan.backward] if training else [plan.forward]
    waits = [tile.waves * interpolated(barriers, tile.programs) for tile in tiles if tile is not None]
    return case.layers * case.steps * sum(waits)


def _bytes(case: Case, rows: int, training: bool) -> float:
    width = case.directions * case.output_size
    elements = 0
    for layer in range(case.layers):
        inputs = case.input_size if layer == 0 else width
        weights = case.directions * case.gates * case.hidden_size * (inputs + case.output_size)
        elements += (rows * (inputs + width) + weights) * (3 if training else 1)
    return elements * getattr(torch, case.dtype).itemsize
