"""The layers that the tests of kernels compute: named cases, and each way to compute one, done once."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn import _C, ops
from fastrnn.spec import CELLS, BackwardCall, ForwardCall, pair_of
from fastrnn.testing import (
    Case,
    Problem,
    RoundedProducts,
    by_operators,
    by_peer,
    by_reference,
    make_problem,
    poisoned,
)
from fastrnn.testing.problem import backward, forward, names

__all__ = [
    "CASES",
    "Case",
    "Problem",
    "assert_derivatives",
    "assert_operators_are_sound",
    "backward",
    "call_of",
    "cases_of",
    "doubled",
    "every_case",
    "every_cell",
    "MULTIPLY_BFLOAT16",
    "every_isa",
    "every_isa_of_bfloat16",
    "every_isa_of_floats",
    "every_kernel",
    "every_small_case",
    "forward",
    "fused",
    "names",
    "of_each_cell",
    "oracle",
    "peer",
    "plan_of",
    "problem",
    "rounded_peer",
]

every_cell = pytest.mark.parametrize("cell", CELLS)
MULTIPLY_BFLOAT16 = [isa for isa in _C.runnable_isas() if isa in ("avx512bf16", "amx", "software_tiles")]
# Of float32 and float64 those have the kernels of avx512, and of what they do not multiply.
OF_FLOATS = [isa for isa in _C.runnable_isas() if isa not in MULTIPLY_BFLOAT16]
# Tiles in software stand for a matrix unit that is not here: beside one they give the same bits, which
# test_tiles_in_software_are_those_of_the_processor sees, of layers and of frozen ones.
OF_BFLOAT16 = [isa for isa in MULTIPLY_BFLOAT16 if isa != "software_tiles" or "amx" not in MULTIPLY_BFLOAT16]
every_isa = pytest.mark.parametrize("isa", OF_FLOATS + OF_BFLOAT16, indirect=True)
every_isa_of_floats = pytest.mark.parametrize("isa", OF_FLOATS, indirect=True)
every_isa_of_bfloat16 = pytest.mark.parametrize("isa", OF_BFLOAT16, indirect=True)
# Float32 and bfloat16, each on the instruction sets with kernels of its own; and on one that converts bfloat16.
every_kernel = pytest.mark.parametrize(
    "isa,dtype",
    [pytest.param(isa, torch.float32, id=f"{isa}-float32") for isa in OF_FLOATS]
    + [pytest.param(isa, torch.bfloat16, id=f"{isa}-bfloat16") for isa in OF_FLOATS[-1:] + OF_BFLOAT16],
    indirect=["isa"],
)

CASES = {
    # few rows
    "T1-B1-H1-I1": Case(1, 1, 1, 1),
    "T1-B1-H130-I40-3-threads": Case(1, 1, 130, 40, threads=3),
    "T2-B1-H17-I1-no-state": Case(2, 1, 17, 1, state=False),
    "T2-B1-H64-I40-bidirectional-no-bias": Case(2, 1, 64, 40, directions=2, bias=False),
    "T2-B2-H64-I40-ragged-batch": Case(2, 2, 64, 40, directions=2, lengths=(2, 1), threads=2),
    # one row after another
    "T63-B1-H1-I1": Case(63, 1, 1, 1),
    "T63-B1-H17-I40-batch-first": Case(63, 1, 17, 40, batch_first=True, bias=False),
    "T63-B1-H130-I40-2-threads": Case(63, 1, 130, 40, threads=2, state=False),
    "T63-B1-H130-I40-bidirectional-4-threads": Case(63, 1, 130, 40, threads=4, directions=2),
    # small batches
    "T1-B5-H17-I1": Case(1, 5, 17, 1, state=False),
    "T2-B5-H64-I40-2-threads": Case(2, 5, 64, 40, threads=2),
    "T63-B5-H1-I40-no-bias": Case(63, 5, 1, 40, bias=False),
    "T63-B5-H64-I1-batch-first-bidirectional-2-threads": Case(63, 5, 64, 1, threads=2, directions=2, batch_first=True),
    "T63-B5-H130-I40-5-threads": Case(63, 5, 130, 40, threads=5),
    # large batches
    "T1-B32-H64-I40-2-threads": Case(1, 32, 64, 40, threads=2, directions=2),
    "T2-B32-H17-I40": Case(2, 32, 17, 40, directions=2, state=False),
    "T63-B32-H17-I1-3-threads": Case(63, 32, 17, 1, threads=3),
    "T63-B32-H130-I40-batch-first-bidirectional-3-threads": Case(
        63, 32, 130, 40, threads=3, directions=2, batch_first=True, state=False
    ),
    "T20-B9-H130-I40-rows-and-units-4-threads": Case(20, 9, 130, 40, threads=4),
    "T9-B33-H130-I40-rows-and-units-4-threads": Case(9, 33, 130, 40, threads=4),
    # ragged batches
    "equal-lengths": Case(6, 5, 17, 40, directions=2, lengths=(6,) * 5),
    "decreasing-lengths-3-threads": Case(9, 8, 130, 40, threads=3, lengths=tuple(range(9, 1, -1))),
    "decreasing-lengths-bidirectional": Case(9, 9, 17, 1, directions=2, lengths=tuple(range(9, 0, -1)), bias=False),
    "some-of-length-one-2-threads": Case(63, 32, 64, 40, threads=2, directions=2, lengths=(63, 20, 2) + (1,) * 29),
    "long-tail-of-one-row": Case(63, 5, 64, 40, threads=2, lengths=(63, 3, 1, 1, 1)),
    # projections
    "projected-T1-B1": Case(1, 1, 17, 1, P=3),
    "projected-square": Case(2, 3, 17, 1, P=17),
    "projected-T63-B5-3-threads": Case(63, 5, 130, 40, threads=3, P=17, state=False),
    "projected-T2-B32-bidirectional": Case(2, 32, 64, 40, threads=2, directions=2, P=63, batch_first=True, bias=False),
    "projected-ragged": Case(9, 9, 64, 40, threads=5, directions=2, P=20, lengths=(9, 9, 5, 4, 4, 3, 1, 1, 1)),
}


def cases_of(cell: str, cases: dict[str, Case] = CASES) -> dict[str, Case]:
    """Those that the cell takes."""
    return {name: case for name, case in cases.items() if not case.P or CELLS[cell].projectable}


def of_each_cell(cases: dict[str, Case]) -> list:
    """Parameters ``cell,case``."""
    found = [(cell, name, case) for cell in CELLS for name, case in cases_of(cell, cases).items()]
    return [pytest.param(cell, case, id=f"{cell}-{name}") for cell, name, case in found]


every_case = pytest.mark.parametrize("cell,case", of_each_cell(CASES))
# For kernels that run slowly: without the largest, which takes half the time of all.
every_small_case = pytest.mark.parametrize(
    "cell,case", of_each_cell({name: case for name, case in CASES.items() if case.rows * case.H < 1e5})
)


def plan_of(case: Case, cell: str, element_bytes: int) -> dict:
    sizes = (case.T, case.B, case.I, case.H, case.outputs, case.directions, case.rows)
    return _C.plan(cell, *sizes, element_bytes, case.threads)


@lru_cache
def problem(cell: str, case: Case) -> Problem:
    """In float64."""
    return make_problem(cell, case)


def call_of(p: Problem) -> ForwardCall:
    plain = (p.x, *pair_of(p.state), p.weights, p.case.batch_sizes, *p.spec.arguments)
    call = ForwardCall.of(plain, p.segments.arguments).with_noise(p.noise)
    return call._replace(every_state=p.case.every_state, layer_norm=p.spec.layer_norm)


def assert_operators_are_sound(call: ForwardCall) -> None:
    """By torch.library.opcheck."""
    torch.library.opcheck(ops.layer_forward, tuple(call))
    y, final, saved = ops.layer_forward(*call._replace(save=True))
    needed = [True] * len(call.inputs)
    backward = BackwardCall.after(call, dy=y.cos(), dstate=final, y=y, saved=saved, needed=needed)
    torch.library.opcheck(ops.layer_backward, tuple(backward))


def assert_derivatives(call: ForwardCall) -> None:
    """Of both orders, in float64, against differences."""

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        y, final, _ = ops.layer_forward(*call.with_inputs(given))
        return y, *final

    leaves = [t.clone().requires_grad_() for t in call.inputs]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def doubled(value: Any) -> Any:
    """Of two members, tensors or lists of them: the one given and its negative."""
    return torch.stack((value, -value)) if isinstance(value, Tensor) else [doubled(v) for v in value]


def fused(p: Problem, operators: Any = ops) -> dict[str, Tensor]:
    """By the operators, in memory full of NaN."""
    torch.set_num_threads(p.case.threads)
    with poisoned(p.x.dtype):
        return by_operators(p, operators)


@lru_cache
def oracle(cell: str, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """By the reference in float64, on inputs rounded to ``dtype``."""
    torch.set_num_threads(1)
    return by_reference(problem(cell, case).to(dtype).to(torch.float64))


@lru_cache
def peer(cell: str, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """By what the accuracy rule measures with."""
    torch.set_num_threads(1)
    return by_peer(problem(cell, case).to(dtype))


@lru_cache
def rounded_peer(cell: str, case: Case) -> dict[str, Tensor]:
    """The same for float32 whose products are rounded."""
    torch.set_num_threads(1)
    with RoundedProducts():
        return by_reference(problem(cell, case).to(torch.float32))
