"""One layer and its tensors, and the ways to compute its results and gradients, as a dictionary of named tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastrnn import ops
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, LayerSpec, pair_of, reference
from fastrnn.testing.modules import IN_TORCH

__all__ = [
    "Case",
    "Problem",
    "backward",
    "by_operators",
    "by_peer",
    "by_reference",
    "by_torch_nn",
    "forward",
    "make_problem",
    "names",
    "stairs",
]


@dataclass(frozen=True)
class Case:
    """One layer of any cell, and its batch.

    Attributes:
        P: size of a projection, 0 for none.
        lengths: of the rows of a ragged batch, not increasing.
        state: it has an initial state.
        threads: for the CPU.
    """

    T: int
    B: int
    H: int
    I: int  # noqa: E741
    threads: int = 1
    directions: int = 1
    P: int = 0
    lengths: tuple[int, ...] | None = None
    batch_first: bool = False
    bias: bool = True
    state: bool = True

    def __str__(self) -> str:
        parts = [f"T{self.T}", f"B{self.B}", f"H{self.H}", f"I{self.I}"] + [f"P{self.P}"] * bool(self.P)
        parts += ["bidirectional"] * (self.directions == 2) + ["batch_first"] * self.batch_first
        parts += ["ragged"] * (self.lengths is not None) + ["no state"] * (not self.state)
        return " ".join(parts + ["no bias"] * (not self.bias))

    @property
    def outputs(self) -> int:
        return self.P or self.H

    @property
    def batch_sizes(self) -> Tensor | None:
        if self.lengths is None:
            return None
        return torch.tensor([sum(length > t for length in self.lengths) for t in range(self.T)])

    @property
    def rows(self) -> int:
        return sum(self.lengths) if self.lengths else self.T * self.B

    def spec(self, cell: str) -> LayerSpec:
        return LayerSpec(cell, self.directions, self.bias, self.batch_first, self.P > 0)


def stairs(steps: int, batch: int) -> tuple[int, ...]:
    """Lengths from ``steps`` down to one step of another, in equal stairs."""
    return tuple(max(1, steps - b * steps // batch) for b in range(batch))


@dataclass(frozen=True)
class Problem:
    """The tensors of a case: inputs of forward, and gradients of its outputs."""

    cell: str
    case: Case
    x: Tensor
    state: list[Tensor]
    weights: list[Tensor]
    dy: Tensor
    dstate: list[Tensor]

    @property
    def spec(self) -> LayerSpec:
        return self.case.spec(self.cell)

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


def make_problem(cell: str, case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Problem:
    """Always the same values, rounded to ``dtype``."""
    T, B, H, D = case.T, case.B, case.H, case.directions
    spec = case.spec(cell)
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": device, "dtype": torch.float64}

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, **options)

    leading = (case.rows,) if case.lengths is not None else (B, T) if case.batch_first else (T, B)
    shapes = list(spec.weight_shapes(case.I, H, case.outputs).values())
    weights = [(2 * torch.rand(s, **options) - 1) / H**0.5 for s in shapes * D]
    widths = spec.state_widths(H, case.outputs).values()
    # A packed batch has explicit states, as the operators demand; zeros stand for their absence.
    given = case.state or case.lengths is not None
    return Problem(
        cell,
        case,
        x=normal(*leading, case.I),
        state=[normal(D, B, width) * case.state for width in widths] if given else [],
        weights=weights,
        dy=normal(*leading, D * case.outputs),
        dstate=[normal(D, B, width) for width in widths],
    ).to(dtype)


def names(p: Problem) -> list[str]:
    """Of what has a gradient, in the order of the operators."""
    short = [name.replace("weight", "w").replace("bias", "b") for name in p.spec.weight_names]
    weights = [f"{name}[{d}]" for d in range(p.case.directions) for name in short]
    return ["x", *(f"{s}_0" for s in CELLS[p.cell].states[: len(p.state)]), *weights]


def _named(p: Problem, y: Tensor, final: Sequence[Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    outputs = {"y": y, **{f"{s}_T": f for s, f in zip(CELLS[p.cell].states, final, strict=True)}}
    outputs |= {f"d{name}": gradient for name, gradient in zip(names(p), gradients, strict=True)}
    return {name: value.detach() for name, value in outputs.items()}


# ``operators`` has layer_forward and layer_backward: the registered ones, or those of a backend.


def by_operators(p: Problem, operators: Any = ops) -> dict[str, Tensor]:
    y, final, saved = forward(p, True, operators)
    return _named(p, y, final, backward(p, y, saved, [True] * len(names(p)), operators))


def forward(p: Problem, save: bool, operators: Any = ops) -> tuple[Tensor, list[Tensor], Tensor]:
    return operators.layer_forward(p.x, *pair_of(p.state), p.weights, p.case.batch_sizes, *p.spec.arguments, save)


def backward(p: Problem, y: Tensor, saved: Tensor, needed: list[bool], operators: Any = ops) -> list[Tensor]:
    kept = (p.x, *pair_of(p.state), p.weights, y, saved)
    return operators.layer_backward(p.dy, p.dstate, *kept, p.case.batch_sizes, *p.spec.arguments, needed)


def by_reference(p: Problem) -> dict[str, Tensor]:
    """By the reference and autograd, in the dtype of ``p``: in float64 the truth."""
    return _differentiated(p, lambda x, state, weights: reference.layer(p.spec, x, state, weights, p.case.batch_sizes))


def by_torch_nn(p: Problem) -> dict[str, Tensor]:
    """By the function under torch.nn's layer of this cell."""

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        hx = hx_of(tuple(state) or tuple(torch.zeros_like(s) for s in p.dstate))
        sizes = p.case.batch_sizes
        batch, layout = ((), (p.case.batch_first,)) if sizes is None else ((sizes,), ())
        options = (p.case.bias, 1, 0.0, True, p.case.directions == 2, *layout)
        y, *final = getattr(torch._VF, p.cell)(x, *batch, hx, weights, *options)
        return y, final

    return _differentiated(p, compute)


def by_peer(p: Problem) -> dict[str, Tensor]:
    """By that whose error is the measure of ours: torch.nn, or for what it does not compute the reference."""
    # torch.nn refuses a projection to as many outputs as hidden units.
    return by_torch_nn(p) if p.cell in IN_TORCH and p.case.P != p.case.H else by_reference(p)


def _differentiated(p: Problem, compute: Callable[..., tuple[Tensor, Sequence[Tensor]]]) -> dict[str, Tensor]:
    leaves = [t.clone().requires_grad_() for t in (p.x, *p.state, *p.weights)]
    states = len(p.state)
    y, final = compute(leaves[0], leaves[1 : 1 + states], leaves[1 + states :])
    return _named(p, y, final, torch.autograd.grad([y, *final], leaves, [p.dy, *p.dstate]))
