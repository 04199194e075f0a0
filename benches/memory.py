"""Memory of training: ``python -m benches.memory [--threads N] [--save NAME]``, for every case in float32.

*Kept* is what lies between forward and backward for the sake of backward: the bytes of the distinct storages that
autograd is given to save, without those that the caller owns anyway (parameters, input, initial state). The output
counts where a library keeps it, and so does the workspace of oneDNN's LSTM, which is a saved tensor.

*Peak* is by how much one training step, forward and backward, raises the memory of a process above what it was just
before: pages in use as the kernel counts them, so tensors, the workspaces of the kernels and of oneDNN and MKL, and
whatever malloc does not give back. Each is the first step of its process, but for a tiny one of the same kind, which
starts threads and loads code. Peaks are exact to some 0.3 MB, and large pages round up to 2 MB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from tqdm import tqdm

import fastrnn
from benches.cases import CASES, Case
from benches.machine import describe
from benches.results import save
from fastrnn.bench.providers import OURS, TORCH, module_run
from fastrnn.bench.text import format_table
from fastrnn.bench.workload import Workload, build, make_workload, run_inference
from fastrnn.diagnose import bytes_kept

__all__ = ["kept_bytes", "peak_bytes", "prepare"]

_LIBRARIES: dict[str, ModuleType] = {TORCH: nn, OURS: fastrnn}
_HEADER = ["case", "shape", "cell", "torch kept kB", "fastrnn kept kB", "ratio", "torch peak MB", "fastrnn peak MB"]


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step by provider."""

    case: Case
    kept: dict[str, int]
    peak: dict[str, int]

    @property
    def ratio(self) -> float:
        return self.kept[OURS] / self.kept[TORCH]

    def row(self) -> list[str]:
        kept = [f"{self.kept[name] / 1e3:,.1f}" for name in _LIBRARIES]
        peak = [f"{self.peak[name] / 1e6:.1f}" for name in _LIBRARIES]
        return [self.case.name, self.case.shape, self.case.cell, *kept, f"{self.ratio:.2f}", *peak]


def kept_bytes(module: nn.Module, work: Workload) -> int:
    """What a forward in the grad mode of the moment keeps for backward."""
    states = work.state if isinstance(work.state, tuple) else (work.state,)
    given = work.input if isinstance(work.input, tuple) else (work.input,)
    owned = (t for t in (*module.parameters(), *given, *states) if t is not None)
    return bytes_kept(lambda: run_inference(module, work), owned)


def _resident() -> tuple[int, int]:
    """Bytes of memory in use by this process, at present and at most."""
    status = Path("/proc/self/status").read_text()
    now, most = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def prepare(case: Case, name: str) -> tuple[nn.Module, Workload]:
    """A library's module and its workload, in a process in which a tiny one of the same kind has been trained."""
    tiny = replace(case, batch=2, steps=2, input_size=8, hidden_size=8, proj_size=4 if case.proj_size else 0)
    for made in (tiny, case):
        work = make_workload(made)
        module = build(_LIBRARIES[name], made, work.weights, work.values.dtype)
        if made is tiny:
            module_run(module, work, training=True)()
    return module, work


def peak_bytes(run: Callable[[], object]) -> int:
    """By how much a run raises the memory of this process above what it was just before."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
    before, _ = _resident()
    run()
    _, most = _resident()
    return most - before


def _measure(task: tuple[Case, str]) -> tuple[int, int]:
    """Kept and peak; in a process of its own."""
    module, work = prepare(*task)
    peak = peak_bytes(module_run(module, work, training=True))
    return kept_bytes(module, work), peak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.memory", description="Memory of a training step.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of both libraries")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    cases = [case for case in CASES if case.dtype == "float32"]
    tasks = [(case, name) for case in cases for name in _LIBRARIES]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        measured = dict(zip(tasks, tqdm(pool.imap(_measure, tasks), total=len(tasks), leave=False), strict=True))
    results = [
        Memory(case, *({name: measured[case, name][i] for name in _LIBRARIES} for i in range(2))) for case in cases
    ]
    print(format_table(_HEADER, [result.row() for result in results], 3, markdown=False))
    worst = max(results, key=lambda result: result.ratio)
    print(f"\nmost kept against torch.nn: {worst.ratio:.2f}, {worst.case.id}")
    if options.save:
        print(f"written: {save(options.save, describe(options.threads), results)}")


if __name__ == "__main__":
    main()
