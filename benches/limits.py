"""The machine's own limit for a case, from rates measured in the same run.

The floor of a case is the longer of two times:

- arithmetic: ``2 * rows * (G H (I + R) + H P)`` operations for each layer and direction, over the peak rate of fused
  multiply-adds at the dtype of the products: that of the tensors, or float32 where the instruction set in use does not
  multiply 16-bit tensors as they are. ``rows`` are real steps of real rows, R is the size of what recurs (P or H).
  Training counts three times as many: forward, gradients of input and state, gradients of weights. Activations are not
  counted.
- weights: each step must read the recurrent weights once, shared out among the threads, and each call the input
  weights once: ``steps * |W_hh| + |W_ih|`` bytes over the bandwidth of reading a buffer of ``|W_hh| / threads`` bytes
  in each thread, again and again. Training reads them twice: forward and backward.

No order of computation goes below the first. Holding weights in registers, possible for the smallest layers only,
would go below the second.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch

from benches.cases import Case

__all__ = ["extension", "floor_seconds", "work_of"]


def extension() -> ModuleType | None:
    try:
        from fastrnn import _C
    except ImportError:
        return None
    return _C


@lru_cache
def _peak_flops(dtype: str, threads: int) -> float:
    return extension().peak_flops(dtype, threads)


@lru_cache
def _read_bandwidth(size: int, threads: int) -> float:
    return extension().read_bandwidth(size, threads)


def work_of(case: Case, rows: int, training: bool) -> tuple[float, list[tuple[int, float]]]:
    """Operations, and for each layer and direction the bytes of ``W_hh`` and all weight bytes that must be read."""
    operations, traffic = 0.0, []
    itemsize = getattr(torch, case.dtype).itemsize
    projection = case.hidden_size * case.proj_size
    for layer in range(case.layers):
        size = case.input_size if layer == 0 else case.directions * case.output_size
        recurrent = case.gates * case.hidden_size * case.output_size + projection
        entering = case.gates * case.hidden_size * size
        for _ in range(case.directions):
            operations += 2 * rows * (recurrent + entering) * (3 if training else 1)
            total = (case.steps * recurrent + entering) * itemsize * (2 if training else 1)
            traffic.append((recurrent * itemsize, total))
    return operations, traffic


def floor_seconds(case: Case, rows: int, training: bool, threads: int) -> float | None:
    """The shortest time this machine allows, or ``None`` without the compiled extension that measures its rates."""
    if extension() is None:
        return None
    operations, traffic = work_of(case, rows, training)
    arithmetic = operations / _peak_flops(case.dtype, threads)
    weights = sum(total / _read_bandwidth(max(1, size // threads), threads) for size, total in traffic)
    return max(arithmetic, weights)
