"""Layers to compute: named cases, their tensors, and three ways to compute them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn import _C, ops
from fastrnn.spec import CELLS, LayerSpec, reference

every_cell = pytest.mark.parametrize("cell", CELLS)
every_isa = pytest.mark.parametrize("isa", _C.runnable_isas(), indirect=True)


@dataclass(frozen=True)
class Case:
    """One layer and its batch. ``P`` is the size of a projection, ``lengths`` makes the batch ragged."""

    T: int
    B: int
    H: int
    I: int  # noqa: E741
    threads: int = 1
    directions: int = 1
    P: int | None = None
    lengths: tuple[int, ...] | None = None
    batch_first: bool = False
    bias: bool = True
    state: bool = True

    @property
    def batch_sizes(self) -> Tensor | None:
        if self.lengths is None:
            return None
        return torch.tensor([sum(length > t for length in self.lengths) for t in range(self.T)])

    @property
    def rows(self) -> int:
        return sum(self.lengths) if self.lengths else self.T * self.B

    def plan(self, cell: str, element_bytes: int) -> dict:
        P = self.P or self.H
        sizes = (self.T, self.B, self.I, self.H, P, self.directions, self.rows)
        return _C.plan(cell, *sizes, element_bytes, self.threads)


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
    "T20-B9-H130-I40-rows-and-units-5-threads": Case(20, 9, 130, 40, threads=5),
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


def cases_of(cell: str) -> dict[str, Case]:
    return {name: case for name, case in CASES.items() if cell == "lstm" or case.P is None}


_EVERY_CASE = [pytest.param(cell, case, id=f"{cell}-{name}") for cell in CELLS for name, case in cases_of(cell).items()]
every_case = pytest.mark.parametrize("cell,case", _EVERY_CASE)
# For kernels that run slowly: without the largest, which takes half the time of all.
every_small_case = pytest.mark.parametrize(
    "cell,case", [p for p in _EVERY_CASE if p.values[1].rows * p.values[1].H < 1e5]
)


@dataclass(frozen=True)
class Problem:
    """The tensors of a case: inputs of the forward and gradients of its outputs, as float64 values of some dtype."""

    cell: str
    case: Case
    x: Tensor
    state: list[Tensor]
    weights: list[Tensor]
    dy: Tensor
    dstate: list[Tensor]

    @property
    def spec(self) -> LayerSpec:
        case = self.case
        return LayerSpec(self.cell, case.directions, case.bias, case.batch_first, case.P is not None)

    def to(self, dtype: torch.dtype) -> "Problem":
        def cast(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(dtype) for t in tensors]

        return replace(
            self,
            x=self.x.to(dtype),
            state=cast(self.state),
            weights=cast(self.weights),
            dy=self.dy.to(dtype),
            dstate=cast(self.dstate),
        )


@lru_cache
def problem(cell: str, case: Case) -> Problem:
    T, B, H, P, D = case.T, case.B, case.H, case.P or case.H, case.directions
    G = len(CELLS[cell].gates)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    leading = (case.rows,) if case.lengths else (B, T) if case.batch_first else (T, B)
    shapes = [(G * H, case.I), (G * H, P)] + [(G * H,)] * (2 * case.bias) + [(P, H)] * bool(case.P)
    weights = [(2 * torch.rand(s, generator=generator, dtype=torch.float64) - 1) / H**0.5 for s in shapes * D]
    widths = [P, H][: len(CELLS[cell].states)]
    # A packed batch has explicit states, as the operators demand; zeros stand for their absence.
    given = case.state or case.lengths is not None
    return Problem(
        cell,
        case,
        x=normal(*leading, case.I),
        state=[normal(D, B, width) * case.state for width in widths] if given else [],
        weights=weights,
        dy=normal(*leading, D * P),
        dstate=[normal(D, B, width) for width in widths],
    )


# Three ways to compute one layer and its gradients, all as a dictionary of named tensors


def names(p: Problem) -> list[str]:
    of_direction = ["w_ih", "w_hh"] + ["b_ih", "b_hh"] * p.case.bias + ["w_hr"] * bool(p.case.P)
    weights = [f"{name}[{d}]" for d in range(p.case.directions) for name in of_direction]
    return ["x", *(f"{s}_0" for s in CELLS[p.cell].states[: len(p.state)]), *weights]


def named(p: Problem, y: Tensor, final: list[Tensor], gradients: list[Tensor]) -> dict[str, Tensor]:
    outputs = {"y": y, **{f"{s}_T": f for s, f in zip(CELLS[p.cell].states, final, strict=True)}}
    gradient_names = [f"d{name}" for name in names(p)]
    return {k: v.detach() for k, v in (outputs | dict(zip(gradient_names, gradients, strict=True))).items()}


# ``operators`` has layer_forward and layer_backward: the registered ones, or those of a backend.


def fused(p: Problem, operators: Any = ops) -> dict[str, Tensor]:
    """By the operators, in memory full of NaN."""
    torch.set_num_threads(p.case.threads)
    with poisoned(p.x.dtype):
        y, final, saved = forward(p, True, operators)
        gradients = backward(p, y, saved, [True] * len(names(p)), operators)
    return named(p, y, final, gradients)


def forward(p: Problem, save: bool, operators: Any = ops) -> tuple[Tensor, list[Tensor], Tensor]:
    return operators.layer_forward(p.x, p.state, p.weights, p.case.batch_sizes, *p.spec.arguments, save)


def backward(p: Problem, y: Tensor, saved: Tensor, needed: list[bool], operators: Any = ops) -> list[Tensor]:
    options = (p.case.batch_sizes, *p.spec.arguments)
    return operators.layer_backward(p.dy, p.dstate, p.x, p.state, p.weights, y, saved, *options, needed)


def differentiated(p: Problem, compute: Callable) -> dict[str, Tensor]:
    """By ``compute(x, state, weights)`` and autograd."""
    leaves = [t.clone().requires_grad_() for t in (p.x, *p.state, *p.weights)]
    states = len(p.state)
    y, final = compute(leaves[0], leaves[1 : 1 + states], leaves[1 + states :])
    gradients = torch.autograd.grad([y, *final], leaves, [p.dy, *p.dstate])
    return named(p, y, final, gradients)


@lru_cache
def oracle(cell: str, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """In float64, on inputs rounded to ``dtype``."""
    p = problem(cell, case).to(dtype).to(torch.float64)
    torch.set_num_threads(1)
    return differentiated(p, lambda x, state, weights: reference.layer(p.spec, x, state, weights, case.batch_sizes))


@lru_cache
def torch_nn(cell: str, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """By the function under torch.nn's layer of this cell."""
    p = problem(cell, case).to(dtype)
    torch.set_num_threads(1)

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        state = state or [torch.zeros_like(s) for s in p.dstate]
        hx = state if cell == "lstm" else state[0]
        batch = () if case.batch_sizes is None else (case.batch_sizes,)
        layout = (case.batch_first,) if case.batch_sizes is None else ()
        options = (case.bias, 1, 0.0, True, case.directions == 2, *layout)
        y, *final = getattr(torch._VF, cell)(x, *batch, hx, weights, *options)
        return y, tuple(final)

    return differentiated(p, compute)


@contextmanager
def poisoned(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that nobody has written hold NaN, and so does the memory that the kernels keep between calls."""
    # In 16 bits part of a layer is computed in float32, or all of it.
    spoil_workspace([torch.float64] if dtype == torch.float64 else [torch.float32, dtype], torch.get_num_threads())
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def spoil_workspace(dtypes: Iterable[torch.dtype], threads: int) -> None:
    """A layer made of NaN, larger than most cases, leaves NaN wherever it computes."""
    torch.set_num_threads(1)
    for dtype in dtypes:
        p = nan_problem(dtype)
        y, _, saved = forward(p, save=True)
        backward(p, y, saved, [True] * len(names(p)))
    torch.set_num_threads(threads)


@lru_cache
def nan_problem(dtype: torch.dtype) -> Problem:
    p = problem("lstm", Case(2, 32, 128, 128)).to(dtype)
    for tensor in (p.x, *p.state, *p.weights, p.dy, *p.dstate):
        tensor.fill_(torch.nan)
    return p
