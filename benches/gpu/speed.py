"""One case: verified in training and inference, then both modes timed against torch.nn in turn."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import fastrnn
from benches.cases import MODES, Case
from benches.gpu.barrier import Barrier
from benches.gpu.cases import plan_of, precision_of
from benches.gpu.clock import clock_for, race
from benches.gpu.cudnn import algorithm
from benches.gpu.floor import floors
from benches.gpu.precision import PRECISIONS
from benches.results import Result
from fastrnn.backends.triton.plans import Device
from fastrnn.bench.providers import OURS, TORCH, module_run
from fastrnn.bench.timing import Quartiles
from fastrnn.bench.verify import results
from fastrnn.bench.workload import Workload, build, converted, lengths_of, make_workload
from fastrnn.ops.dispatch import BACKENDS, reasons_against
from fastrnn.testing import Comparison, compare, counterpart_of

__all__ = ["Measured", "measure", "verify"]

_SECONDS = 0.35
_MUCH_MEMORY = 30 * 2**30


@dataclass(frozen=True)
class Measured(Result):
    """``floors``: what bounds the case, in seconds. ``algorithms``: of cuDNN, forward and in training backward."""

    plan: str
    regime: str
    algorithms: list[str]
    floors: dict[str, float]


def verify(work: Workload) -> list[Comparison]:
    """Every output and gradient in training, and the outputs in inference, by the accuracy rule."""
    precision = PRECISIONS[precision_of(work.case)]
    exact_work = converted(work, torch.float64)
    exact = results(build(nn, work.case, exact_work.weights, torch.float64), exact_work, training=True)
    peer = results(build(nn, work.case, work.weights, precision.dtype), work, training=True)
    module = build(fastrnn, work.case, work.weights, precision.dtype)
    found = []
    for training in (True, False):
        found += compare(results(module, work, training), peer, exact, precision.floor_ulps, precision.ulp)
    return found


def measure(
    case: Case, plans: Device, facts: dict[str, Any], barriers: list[Barrier], device: str = "cuda"
) -> list[Measured]:
    """In the order of ``MODES``. Raises ``AssertionError`` where fastrnn is wrong; what is not right is not timed."""
    precision = PRECISIONS[precision_of(case)]
    if device == "cuda":
        against = reasons_against(case.cell, torch.device(device), precision.dtype)
        assert "triton" in {b.NAME for b in BACKENDS} and not against["triton"], f"not on Triton's kernels: {against}"
        if torch.cuda.memory_reserved() > _MUCH_MEMORY:
            torch.cuda.empty_cache()
    with precision.active():
        work = make_workload(case, device)
        wrong = [str(comparison) for comparison in verify(work) if not comparison.ok]
        assert not wrong, "; ".join(wrong)
        return [_timed(work, mode, plans, facts, barriers, device) for mode in MODES]


def _timed(
    work: Workload, mode: str, plans: Device, facts: dict[str, Any], barriers: list[Barrier], device: str
) -> Measured:
    case, training = work.case, mode == "training"
    modules = {name: build(library, case, work.weights, work.values.dtype) for name, library in _CONTENDERS.items()}
    with torch.set_grad_enabled(training):
        times = race(
            clock_for(device),
            {name: module_run(module, work, training) for name, module in modules.items()},
            _SECONDS,
        )
    plan = plan_of(case, plans)
    bounds = floors(case, int(lengths_of(case).sum()), training, plan, facts["rates"], barriers)
    return Measured(
        case,
        mode,
        rounds=len(times.seconds[OURS]),
        calls=times.calls,
        seconds={name: Quartiles.of(values) for name, values in times.seconds.items()},
        ratios={TORCH: times.ratio(TORCH, OURS)},
        floor_seconds=max(bounds.values()),
        plan=str(plan),
        regime=plan.regime,
        algorithms=_algorithms(case, training, facts),
        floors=bounds,
    )


_CONTENDERS = {TORCH: nn, OURS: fastrnn}


def _algorithms(case: Case, training: bool, facts: dict[str, Any]) -> list[str]:
    if precision_of(case) not in facts["cudnn_takes"]:
        return ["none: PyTorch's own steps"] * (1 + training)
    major, minor = facts["capability"]
    passes = (False, True) if training else (False,)
    case = replace(case, cell=counterpart_of(case.cell).cell)
    return [algorithm(case, backward, (major, minor), facts["multiprocessors"]) for backward in passes]
