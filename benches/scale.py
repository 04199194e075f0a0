"""Time and memory against T, B, H, layers and threads: ``python -m benches.scale [--cell C] [--save NAME]``.

A line of points for each of the five, up to a million steps, 4096 rows and 4096 units. Each point is verified before
it is timed, as ``windows.py`` says: whole where torch.nn in float64 is affordable, else some of its rows, at the
beginning and at the end. torch.nn and fastrnn are then timed in turn. Memory is the peak of one call over what a
process of its own held just before (``memory.py``). A point is left out where the one before says that a call would
take longer than ``--seconds`` or half of the free memory, and torch.nn already where it would take half as long; the
whole takes 4 to 5 minutes.

*Growth* is the time over that of the point before, divided by the same of the operations per thread: 1 is linear, less
is better. *Of tensors* is the peak over the bytes of output, final states, one copy of the weights (packed) and, in
training, the outputs of all layers and the gradients. Where either changes by more than a quarter from point to point a
line below the table says so, and what the machine's limit does there (``limits.py``): where the limit changes as much,
the machine is the reason.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benches.cases import MODES, Case
from benches.limits import bounds, work_of
from benches.machine import describe
from benches.memory import peak_bytes, prepare
from benches.results import save
from benches.windows import check_large
from fastrnn.bench.providers import OURS, TORCH, module_run, module_runs
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.bench.workload import make_workload
from fastrnn.spec import CELLS

__all__ = ["Point", "Scaled", "points"]

_LIBRARIES = (TORCH, OURS)
_BUDGET = Budget(seconds=0.6, min_rounds=1, max_rounds=10)
_LINEAR = 1.25
_TELLING_BYTES = 8e6  # a smaller peak is mostly what a process allocates once
_HEADER = ["axis", "size", "mode", "torch ms", "fastrnn ms", "growth", "bound", "of limit"]
_HEADER += ["torch MB", "fastrnn MB", "of tensors"]


@dataclass(frozen=True)
class Point:
    """One layer, or stack, on one number of threads; ``size`` is what varies along its axis."""

    axis: str
    size: int
    case: Case
    threads: int


def points(cell: str, threads: int, cores: int) -> dict[str, list[Point]]:
    """By axis, each from small to large."""
    base = Case("scale", cell, 16, 100, 128, 128)
    sizes = {
        "T": [replace(base, batch=1, steps=10**n) for n in range(2, 7)],
        "B": [replace(base, steps=50, batch=4**n) for n in range(7)],
        "H": [replace(base, steps=10, input_size=2**n, hidden_size=2**n) for n in range(6, 13)],
        "layers": [replace(base, layers=2**n) for n in range(5)],
    }
    found = {axis: [Point(axis, _size(axis, case), case, threads) for case in cases] for axis, cases in sizes.items()}
    numbers = sorted({2**n for n in range(cores.bit_length())} | {cores})
    busy = replace(base, batch=64)
    return found | {"threads": [Point("threads", number, busy, number) for number in numbers]}


def _size(axis: str, case: Case) -> int:
    return {"T": case.steps, "B": case.batch, "H": case.hidden_size, "layers": case.layers}[axis]


@dataclass(frozen=True)
class Scaled:
    """One point in one mode: seconds and peak bytes by library, and the machine's limits in seconds."""

    axis: str
    size: int
    mode: str
    threads: int
    case: Case
    seconds: dict[str, Quartiles]
    peak: dict[str, int]
    bounds: dict[str, float]

    @property
    def operations(self) -> float:
        """Per thread."""
        return work_of(self.case, self.case.batch * self.case.steps, self.mode == "training")[0] / self.threads

    @property
    def floor(self) -> float:
        return max(self.bounds.values(), default=float("nan"))

    @property
    def bound(self) -> str:
        return max(self.bounds, key=self.bounds.__getitem__, default="")

    @property
    def of_limit(self) -> float:
        return self.floor / self.seconds[OURS].median

    @property
    def of_tensors(self) -> float:
        """The peak over the bytes of what a call cannot do without; see the top."""
        case, itemsize, training = self.case, getattr(torch, self.case.dtype).itemsize, self.mode == "training"
        rows, states = case.batch * case.steps, case.layers * len(CELLS[case.cell].states)
        entering = case.input_size + (case.layers - 1) * case.hidden_size
        weights = case.gates * case.hidden_size * (entering + case.layers * (case.hidden_size + 2))
        values = case.hidden_size * (rows * (case.layers if training else 1) + case.batch * states) + weights
        if training:
            values += rows * case.input_size + weights
        return self.peak[OURS] / (values * itemsize)


def growth(before: Scaled, after: Scaled, of: Callable[[Scaled], float]) -> float:
    """By how much a value grows where operations per thread grow by one."""
    return of(after) / of(before) / (after.operations / before.operations)


def _our_seconds(result: Scaled) -> float:
    return result.seconds[OURS].median


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own, which is forked off one that has computed nothing."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def _seconds(point: Point, training: bool, names: list[str]) -> dict[str, Quartiles]:
    """Verified, then timed in turn."""
    torch.set_num_threads(point.threads)
    work = make_workload(point.case)
    check_large(work, training)
    with torch.set_grad_enabled(training):
        runs = {name: run for name, run in module_runs(work, training).items() if name in names}
        times = race(runs, _BUDGET)
    return {name: Quartiles.of(values) for name, values in times.seconds.items()}


def _peak(point: Point, training: bool, name: str) -> int:
    torch.set_num_threads(point.threads)
    module, work = prepare(point.case, name)
    with torch.set_grad_enabled(training):
        return peak_bytes(module_run(module, work, training))


def _free_bytes() -> int:
    return int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024


def measure(line: list[Point], mode: str, most_seconds: float, done: Callable[[], object]) -> Iterator[Scaled]:
    """Along one axis, as far as fastrnn's calls are affordable."""
    training = mode == "training"
    before: Scaled | None = None
    for point in line:
        now = Scaled(point.axis, point.size, mode, point.threads, point.case, {}, {}, {})

        def affordable(name: str, now: Scaled = now, before: Scaled | None = before) -> bool:
            if before is None:
                return True
            if name not in before.seconds:
                return False
            factor = now.operations / before.operations
            lasts, takes = factor * before.seconds[name].median, factor * before.peak[name]
            return lasts <= (most_seconds if name == OURS else most_seconds / 2) and takes <= _free_bytes() / 2

        names = [name for name in _LIBRARIES if affordable(name)]
        if OURS in names:
            now.seconds.update(_alone(_seconds, point, training, names))
            now.peak.update({name: _alone(_peak, point, training, name) for name in names})
            yield now
        before = now
        done()


def row(result: Scaled, before: Scaled | None) -> list[str]:
    def of(name: str, text: Callable[[str], str]) -> str:
        return text(name) if name in result.seconds else ""

    return [
        result.axis,
        f"{result.size:,}",
        result.mode,
        *(of(name, lambda name: f"{result.seconds[name].median * 1e3:,.4g}") for name in _LIBRARIES),
        f"{growth(before, result, _our_seconds):.2f}" if before else "",
        result.bound,
        f"{result.of_limit:.0%}" if result.bounds else "n/a",
        *(of(name, lambda name: f"{result.peak[name] / 1e6:,.1f}") for name in _LIBRARIES),
        f"{result.of_tensors:.2f}",
    ]


def findings(before: Scaled, after: Scaled) -> Iterator[str]:
    """Where a step of an axis is not linear, and what the machine's limit does there."""
    step = f"{after.axis} {before.size:,} to {after.size:,}, {after.mode}"
    grows = growth(before, after, _our_seconds)
    if not 1 / _LINEAR <= grows <= _LINEAR:
        limit = ""
        if after.bounds:
            bound = after.bound if before.bound == after.bound else f"{before.bound}, then {after.bound}"
            limit = f"; the limit, of {bound}: {growth(before, after, lambda result: result.floor):.2f}"
            limit += f"; share of it {before.of_limit:.0%}, then {after.of_limit:.0%}"
        yield f"{step}: time grows {grows:.2f} times as much as the operations{limit}"
    takes = after.of_tensors / before.of_tensors
    if before.peak[OURS] >= _TELLING_BYTES and not 1 / _LINEAR <= takes <= _LINEAR:
        yield f"{step}: memory grows {takes:.2f} times as much as the tensors"


def neighbours(results: list[Scaled]) -> list[tuple[Scaled | None, Scaled]]:
    """Each result with the one before it on its axis and in its mode."""
    lines: dict[tuple[str, str], list[Scaled]] = {}
    for result in results:
        lines.setdefault((result.axis, result.mode), []).append(result)
    return [pair for line in lines.values() for pair in [(None, line[0]), *pairwise(line)]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.scale", description="Time and memory against sizes.")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--axes", nargs="+", choices=points("lstm", 1, 1), help="some of the axes; all if left out")
    parser.add_argument("--threads", type=int, default=cores, help="threads, but for the axis that varies them")
    parser.add_argument("--seconds", type=float, default=8, help="the longest call that is measured")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json and .png")
    options = parser.parse_args()

    lines = points(options.cell, options.threads, cores)
    lines = {axis: line for axis, line in lines.items() if axis in (options.axes or lines)}
    machine = describe(options.threads)
    results: list[Scaled] = []
    with tqdm(total=len(MODES) * sum(map(len, lines.values())), leave=False) as bar:
        for line in lines.values():
            for mode in MODES:
                results += measure(line, mode, options.seconds, bar.update)
    # Last: a process that has computed on several threads is not to be forked.
    results = [
        replace(r, bounds=bounds(r.case, r.case.batch * r.case.steps, r.mode == "training", r.threads)) for r in results
    ]
    pairs = neighbours(results)
    print(format_table(_HEADER, [row(result, before) for before, result in pairs], 3, markdown=False))
    found = [line for before, after in pairs if before for line in findings(before, after)]
    print("\n".join([f"\nnot linear within {_LINEAR - 1:.0%}: {len(found)}", *(f"- {line}" for line in found)]))
    base = Path(__file__).resolve().parent / ("results" if options.save else "out") / (options.save or "scale")
    base.parent.mkdir(exist_ok=True)
    if options.save:
        print(f"\nwritten: {save(options.save, machine, results)}")
    try:
        from benches.scale_picture import draw
    except ImportError:
        print("no picture: matplotlib is absent")
    else:
        draw(machine, results, base.with_suffix(".png"))
        print(f"written: {base.with_suffix('.png')}")


if __name__ == "__main__":
    main()
