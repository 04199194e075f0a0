"""Verifying a layer that is too large for a peer in float64: some of its rows, at the beginning and at the end.

Rows know nothing of each other, so a few of them may be computed alone. And a layer forgets: with PyTorch's initial
weights a forget or update gate is about one half, and after hundreds of steps nothing is left of a state, nor of a
gradient on its way back. So the first steps of a long sequence follow from its beginning alone, and the last from its
end: outputs, final states and the gradient of the input are compared there. Gradients of weights are sums over
everything; they are compared where a layer is small enough to be held to the rule whole (``verify.check_fastrnn``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fastrnn
from benches.limits import work_of
from fastrnn.bench.verify import FLOOR_ULPS, check_fastrnn, results
from fastrnn.bench.workload import Workload, build, converted
from fastrnn.testing import compare

__all__ = ["check_large"]

_STEPS = 512  # compared at either end; as many more are run for the sake of the state, or of the gradient
_ROWS = 2  # at either end
_WHOLE = 5e9  # operations; torch.nn does them in float64 in a tenth of a second


@dataclass(frozen=True)
class _Window:
    """Steps that are run, and of these the ones that are compared. ``last``: the sequence ends with them."""

    run: slice
    compared: slice
    last: bool


def check_large(work: Workload, training: bool) -> None:
    """Holds fastrnn to the accuracy rule: whole, or on windows. The workload is dense, with time first."""
    case = work.case
    if work_of(case, case.batch * case.steps, training)[0] <= _WHOLE:
        check_fastrnn(work, training)
        return
    rows = torch.tensor(sorted({*range(min(_ROWS, case.batch)), *range(max(0, case.batch - _ROWS), case.batch)}))
    ours = results(build(fastrnn, case, work.weights, work.values.dtype), work, training)
    wrong: list[str] = []
    for window in _windows(case.steps):
        part = _part(work, window.run, rows)
        exact_part = converted(part, torch.float64)
        exact = results(build(nn, part.case, exact_part.weights, torch.float64), exact_part, training)
        peer = results(build(nn, part.case, part.weights, part.values.dtype), part, training)
        got = {}
        for name, value in ours.items():
            if name in ("output", "d_input"):
                got[name] = value[window.run][window.compared][:, rows]
                exact[name], peer[name] = exact[name][window.compared], peer[name][window.compared]
            elif name.endswith("_n") and window.last:
                got[name] = value[:, rows]
        comparisons = compare(got, peer, exact, FLOOR_ULPS[work.values.dtype])
        wrong += [f"from step {window.run.start} on, {found}" for found in comparisons if not found.ok]
    assert not wrong, f"{case.id} differs from torch.nn: " + "; ".join(wrong)


def _windows(steps: int) -> Iterator[_Window]:
    if steps <= 2 * _STEPS:
        yield _Window(slice(0, steps), slice(0, steps), True)
        return
    yield _Window(slice(0, 2 * _STEPS), slice(0, _STEPS), False)
    yield _Window(slice(steps - 2 * _STEPS, steps), slice(_STEPS, 2 * _STEPS), True)


def _part(work: Workload, steps: slice, rows: Tensor) -> Workload:
    """Some steps and rows of a workload without an initial state."""
    output, *final = work.cotangents
    values = work.values.detach()[steps][:, rows]
    case = replace(work.case, batch=len(rows), steps=len(values))
    return Workload(case, work.weights, values, None, [output[steps][:, rows], *(g[:, rows] for g in final)])
