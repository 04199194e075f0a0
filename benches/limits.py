"""The machine's own limit for a case, from rates measured in the same run.

The floor of a case is the longer of two times:

- arithmetic: ``2 * rows * (G H (I + R) + H P)`` operations for each layer and direction, over the rate of a register
  tile that multiplies operands in L1, at the dtype of the products: that of the tensors, or bfloat16 where PyTorch's
  switch asks for it. 16 bits may also be widened to float32, so the faster of the two rates counts: the matrix unit's
  where the instruction set in use has one. ``rows`` are real steps of real rows, R is the size of what recurs (P or H).
  Training counts three times as many: forward, gradients of input and state, gradients of weights. Activations are not
  counted.
- weights: each step must read the recurrent weights once, shared out among the threads, and each call the input
  weights once: ``steps * |W_hh| + |W_ih|`` bytes over the bandwidth of reading a buffer of ``|W_hh| / threads`` bytes
  in each thread, again and again. Training reads them twice: forward and backward.

Multiply-adds alone, without loads, are faster than the tile, on an Intel Xeon with AMX by a sixth in float32; their
rate stands beside it in the results. Holding weights in registers, possible for the smallest layers only, would go
below the second time.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch

from benches.cases import Case

__all__ = ["bounds", "extension", "floor_seconds", "rates", "work_of"]


def extension() -> ModuleType | None:
    try:
        from fastrnn import _C
    except ImportError:
        return None
    return _C


@lru_cache
def rates(threads: int) -> dict[str, dict[str, float]]:
    """FLOP/s by dtype: of multiply-adds alone, and of a tile. Empty without the extension."""
    compiled = extension()
    if compiled is None:
        return {}
    return {
        dtype: {"multiply_adds": compiled.peak_flops(dtype, threads), "tile": compiled.tile_flops(dtype, threads)}
        for dtype in ("float64", "float32", "bfloat16")
    }


def _product_rate(dtype: str, threads: int) -> float:
    tiles = {name: found["tile"] for name, found in rates(threads).items()}
    return tiles[dtype] if dtype in ("float64", "float32") else max(tiles["float32"], tiles.get(dtype, 0))


@lru_cache
def _read_bandwidth(size: int, threads: int) -> float:
    return extension().read_bandwidth(size, threads)


def work_of(case: Case, rows: int, training: bool) -> tuple[float, list[tuple[int, float]]]:
    """Operations, and for each layer and direction the bytes of ``W_hh`` and all weight bytes that must be read."""
    operations, traffic = 0.0, []
    itemsize = getattr(torch, case.products).itemsize
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


def bounds(case: Case, rows: int, training: bool, threads: int) -> dict[str, float]:
    """Both times by name, in seconds; empty without the compiled extension that measures the machine's rates."""
    if extension() is None:
        return {}
    operations, traffic = work_of(case, rows, training)
    weights = sum(total / _read_bandwidth(max(1, size // threads), threads) for size, total in traffic)
    return {"arithmetic": operations / _product_rate(case.products, threads), "weights": weights}


def floor_seconds(case: Case, rows: int, training: bool, threads: int) -> float | None:
    """The shortest time this machine allows, or ``None`` where its rates are not known."""
    return max(bounds(case, rows, training, threads).values(), default=None)
