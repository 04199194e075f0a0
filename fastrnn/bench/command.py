"""``python -m fastrnn bench``: how fast layers of given shapes are on this machine, beside others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastrnn.backends import cpu
from fastrnn.bench.case import Case
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.measured import Measured, measure
from fastrnn.bench.picture import draw_ratios
from fastrnn.bench.providers import OURS, PEERS, TITLES
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Budget

__all__ = ["Request", "run"]

HEADER = ["layer", "mode", "who", "ms", "quartiles", "ratio", "quartiles"]


@dataclass(frozen=True)
class Request:
    """Every cell in every combination of the sizes, and what holds for all.

    Attributes:
        seconds: to time the slowest competitor of each race.
        output: where the picture goes.
    """

    cells: Sequence[str]
    batches: Sequence[int]
    steps: Sequence[int]
    inputs: Sequence[int]
    hidden: Sequence[int]
    modes: Sequence[str]
    layers: int
    bidirectional: bool
    ragged: bool
    dtype: str
    as_bf16: bool
    seconds: float
    output: Path

    @property
    def cases(self) -> list[Case]:
        options: dict[str, Any] = {"layers": self.layers, "bidirectional": self.bidirectional, "ragged": self.ragged}
        precision = "bf16" if self.as_bf16 else ""
        return [
            Case("yours", *sizes, **options, dtype=self.dtype, fp32_precision=precision)
            for sizes in itertools.product(self.cells, self.batches, self.steps, self.inputs, self.hidden)
        ]


def run(request: Request) -> None:
    """Prints a table as it grows, then saves the picture where ``matplotlib`` is installed."""
    threads = torch.get_num_threads()
    machine = f"{cpu.processor()}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"
    load = f"load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else "unknown load"
    print(f"{machine}, {load}. Each result is verified before it is timed, and all take turns.")
    print("A ratio is someone's time divided by fastrnn's: above 1, fastrnn is faster.\n")
    found = []
    for case, mode in itertools.product(request.cases, request.modes):
        print(f"{case.cell_name} {case.shape}, {mode} ...", flush=True)
        found.append(measure(case, mode, threads, Budget(request.seconds)))
    print("\n" + format_table(HEADER, [line for measured in found for line in _lines(measured)], 3, markdown=False))
    for name, engine in ENGINES.items():
        if not engine.available and "inference" in request.modes:
            print(f"{TITLES[name]} is not installed: pip install {' '.join(engine.packages)}")
    try:
        draw_ratios({_label(m): _shown(m) for m in found}, f"How much faster fastrnn is on {machine}", request.output)
    except ModuleNotFoundError as error:
        print(f"no picture: it needs {error.name}")
    else:
        print(f"\nPicture: {request.output}")


def _lines(measured: Measured) -> list[list[str]]:
    layer = f"{measured.case.cell_name} {measured.case.shape}"
    lines = []
    for name in (OURS, *PEERS):
        if name in measured.seconds:
            q, ratio = measured.seconds[name], measured.ratios.get(name)
            times = [f"{1e3 * q.median:.4g}", f"{1e3 * q.q1:.4g}-{1e3 * q.q3:.4g}"]
            ratios = [f"{ratio.median:.2f}", f"{ratio.q1:.2f}-{ratio.q3:.2f}"] if ratio else ["", ""]
            lines.append([layer, measured.mode, TITLES[name], *times, *ratios])
    return lines


def _label(measured: Measured) -> str:
    return f"{measured.case.cell_name} {measured.case.shape}\n{measured.mode}"


def _shown(measured: Measured) -> dict[str, float]:
    return {TITLES[peer]: measured.ratios[peer].median for peer in PEERS if peer in measured.ratios}
