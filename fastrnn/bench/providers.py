"""Who is timed: each provider makes, for a workload, a function that runs it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

import fastrnn
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.workload import Workload, build, run_inference, run_training

__all__ = ["FLOAT32", "OURS", "PEERS", "TITLES", "TORCH", "make_runs", "module_run", "module_runs"]

TORCH, OURS = "torch", "fastrnn"
FLOAT32 = "float32"  # fastrnn in the full precision of float32, where a case asks for less
PEERS = (TORCH, *ENGINES, FLOAT32)
TITLES = {TORCH: "torch.nn", FLOAT32: "fastrnn in float32", OURS: "fastrnn"}
TITLES |= {name: engine.title for name, engine in ENGINES.items()}

Run = Callable[[], object]


def make_runs(work: Workload, training: bool, threads: int) -> dict[str, Run]:
    """The runs of every provider that takes the workload, fastrnn last. Call them without grad for inference."""
    runs: dict[str, Run] = {}
    if not training:
        runs |= {
            name: engine.run(work, threads)
            for name, engine in ENGINES.items()
            if engine.available and engine.takes(work.case)
        }
    if work.case.fp32_precision:
        plain = replace(work, case=replace(work.case, fp32_precision=""))
        runs[FLOAT32] = module_runs(plain, training)[OURS]
    return runs | module_runs(work, training)


def module_runs(work: Workload, training: bool) -> dict[str, Run]:
    """The runs of torch.nn and of fastrnn, in this order."""
    return {
        name: module_run(build(library, work.case, work.weights, work.values.dtype), work, training)
        for name, library in ((TORCH, nn), (OURS, fastrnn))
    }


def module_run(module: nn.Module, work: Workload, training: bool) -> Run:
    """One pass, and in training the gradients of input and parameters."""
    if training:
        wanted = [work.values.requires_grad_(), *module.train().parameters()]
        return lambda: run_training(module, work, wanted)
    module.eval()
    if work.case.fp32_precision:
        return lambda: run_inference(module, work)
    return lambda: module(work.input, work.state)
