"""Several ways to compute one layer, each compared with a loop before it is timed, all in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benches.packages import largest_difference
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Quartiles

__all__ = ["Call", "Size", "Timed", "checked", "flat", "kept_table", "run_of", "table"]

_ALLOWED = 1e-5

Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Size:
    """Rows, steps, and units, as many as there are inputs."""

    batch: int
    steps: int
    hidden: int


@dataclass(frozen=True)
class Timed:
    """One way to compute a layer. ``ratio`` is its time over that of ``base``, ``difference`` as
    ``largest_difference`` has it, ``kept`` the bytes between forward and backward."""

    part: str
    cell: str
    size: Size
    chance: float | None
    mode: str
    name: str
    base: str
    difference: float
    seconds: Quartiles
    ratio: Quartiles
    kept: int | None = None


def flat(results: Any) -> tuple[Tensor, ...]:
    if isinstance(results, Tensor):
        return (results,)
    return tuple(tensor for part in results for tensor in flat(part))


def run_of(call: Call, given: Sequence[Tensor], training: bool) -> Callable[[], list[list[Tensor]]]:
    """The results and, in training, the gradients of half the sum of their squares."""

    def run() -> list[list[Tensor]]:
        with torch.set_grad_enabled(training):
            results = call()
        values = [result.detach() for result in results]
        return [values, list(torch.autograd.grad(results, given, values)) if training else []]

    return run


def checked(expected: list[list[Tensor]], found: list[list[Tensor]], what: str) -> float:
    """The difference of results and gradients, which is small."""
    pairs = zip(expected, found, strict=True)
    difference = max(largest_difference(a, b) for a, b in pairs if a)
    assert difference <= _ALLOWED, f"{what}: differs by {difference:.1e}, allowed {_ALLOWED:.0e}"
    return difference


def table(results: list[Timed]) -> str:
    """A line for each layer: milliseconds of what it is compared with, and the ratio of each other time to it."""
    lines: dict[tuple[Any, ...], dict[str, Timed]] = {}
    for result in results:
        lines.setdefault((result.cell, result.size, result.chance, result.mode), {})[result.name] = result
    base = results[0].base
    names = [name for name in dict.fromkeys(result.name for result in results) if name != base]
    chances = results[0].chance is not None
    header = ["layer", "B, T, H", *["resets"] * chances, "mode", f"{base} ms", *names]
    rows = []
    for (cell, size, chance, mode), found in lines.items():
        ratios = [f"{found[name].ratio.median:.2f}" if name in found else "" for name in names]
        shape = f"{size.batch}, {size.steps}, {size.hidden}"
        milliseconds = f"{found[base].seconds.median * 1e3:.4g}"
        rows.append([cell, shape, *([f"{chance:g}"] if chances else []), mode, milliseconds, *ratios])
    return format_table(header, rows, 3 + chances, markdown=True)


def kept_table(results: list[Timed]) -> str:
    """Megabytes between forward and backward."""
    lines: dict[tuple[Any, ...], dict[str, int]] = {}
    for result in results:
        if result.kept:
            lines.setdefault((result.cell, result.size), {})[result.name] = result.kept
    names = list(dict.fromkeys(name for found in lines.values() for name in found))
    rows = [
        [cell, f"{size.batch}, {size.steps}, {size.hidden}", *(f"{found[name] / 1e6:.2f}" for name in names)]
        for (cell, size), found in lines.items()
    ]
    return format_table(["layer keeps MB", "B, T, H", *names], rows, 2, markdown=True)
