"""One layer and its tensors, and the ways to compute its results and gradients, as a dictionary of named tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastrnn import ops
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, NONE, WHOLE, LayerSpec, Noise, Segments, pair_of, reference
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
        padded: a tensor says the lengths of the rows, of which some have no step.
        reset: rows begin anew at some steps, ``"zeros"``, or with states of their own, ``"once"`` the same for all
            steps or ``"by-step"``; empty for nowhere.
        every_state: the cell's own states after every step are results, too.
        mask: a mask of h.
        zoneout: probabilities of h and c, ...
        draws: ... which are drawn.
        layer_norm: it is normalised, and its gates are given, whatever ``I`` is.
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
    padded: bool = False
    reset: str = ""
    every_state: bool = False
    mask: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)
    draws: bool = False
    layer_norm: bool = False

    def __str__(self) -> str:
        parts = [f"T{self.T}", f"B{self.B}", f"H{self.H}", f"I{self.I}"] + [f"P{self.P}"] * bool(self.P)
        parts += ["bidirectional"] * (self.directions == 2) + ["batch_first"] * self.batch_first
        parts += ["ragged"] * (self.lengths is not None) + ["no state"] * (not self.state)
        parts += ["no bias"] * (not self.bias) + ["padded"] * self.padded + [f"reset {self.reset}"] * bool(self.reset)
        parts += ["every state"] * self.every_state + ["mask"] * self.mask
        parts += ["layer norm"] * self.layer_norm
        if any(self.zoneout):
            parts += ["zoneout {}/{}".format(*self.zoneout), "drawn" if self.draws else "expected"]
        return " ".join(parts)

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
        norm = self.layer_norm
        return LayerSpec(cell, self.directions, self.bias, self.batch_first, self.P > 0, norm, gates_given=norm)


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
    segments: Segments = WHOLE
    noise: Noise = NONE

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
            segments=self.segments._replace(reset_state=cast([*self.segments.reset_state])),
            noise=self.noise if self.noise.h_mask is None else self.noise._replace(h_mask=self.noise.h_mask.to(dtype)),
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
    shapes = spec.weight_shapes(case.I, H, case.outputs)
    weights = [("weight_ln" in n) + (2 * torch.rand(s, **options) - 1) / H**0.5 for n, s in [*shapes.items()] * D]
    inputs = D * spec.gates_width(H) if spec.gates_given else case.I
    widths = spec.state_widths(H, case.outputs).values()
    # A packed batch has explicit states, as the operators demand; zeros stand for their absence.
    given = case.state or case.lengths is not None
    p = Problem(
        cell,
        case,
        x=normal(*leading, inputs),
        state=[normal(D, B, width) * case.state for width in widths] if given else [],
        weights=weights,
        dy=normal(*leading, D * case.outputs),
        dstate=[normal(D, B, width) for width in widths],
    )
    rows = (T, B) if case.lengths is None else (case.rows,)
    after = [normal(D, *rows, width) for width in [*widths][1:]] if case.every_state else []
    lengths = torch.randint(T + 1, (B,), generator=generator, device=device) if case.padded else None
    if lengths is not None:
        lengths[0], lengths[-1] = 0, T
    reset = torch.rand(T, B, **options) < max(0.1, 1 / T) if case.reset else None
    form = {"once": (D, B), "by-step": (D, T, B)}.get(case.reset)
    anew = [normal(*form, width) for width in widths] if form else []
    marks = reset.t() if reset is not None and case.batch_first else reset
    mask = 2.0 * (torch.rand(D, B, case.outputs, **options) < 0.5) if case.mask else None
    of_c = case.zoneout[1] if len(CELLS[cell].states) > 1 else 0.0
    seed = torch.tensor([2**62 - 2**40 + 1, 3], device=device) if case.draws else None  # words with their highest bit
    noise = Noise(mask, case.zoneout[0] * (not case.P), of_c, seed)
    return replace(p, dstate=p.dstate + after, segments=Segments(lengths, marks, anew), noise=noise).to(dtype)


def names(p: Problem) -> list[str]:
    """Of what has a gradient, in the order of the operators."""
    short = [name.replace("weight", "w").replace("bias", "b") for name in p.spec.weight_names]
    weights = [f"{name}[{d}]" for d in range(p.case.directions) for name in short]
    states = CELLS[p.cell].states
    resets = [f"{s}_reset" for s in states[: len(p.segments.reset_state)]]
    return ["x", *(f"{s}_0" for s in states[: len(p.state)]), *weights, *resets]


def _named(p: Problem, y: Tensor, final: Sequence[Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    states = CELLS[p.cell].states
    of_final = [*(f"{s}_T" for s in states), *(f"{s} of every step" for s in states[1:] if p.case.every_state)]
    outputs = {"y": y, **dict(zip(of_final, final, strict=True))}
    outputs |= {f"d{name}": gradient for name, gradient in zip(names(p), gradients, strict=True)}
    return {name: value.detach() for name, value in outputs.items()}


# ``operators`` has layer_forward and layer_backward: the registered ones, or those of a backend.


def by_operators(p: Problem, operators: Any = ops) -> dict[str, Tensor]:
    y, final, saved = forward(p, True, operators)
    return _named(p, y, final, backward(p, y, saved, [True] * len(names(p)), operators))


def forward(p: Problem, save: bool, operators: Any = ops) -> tuple[Tensor, list[Tensor], Tensor]:
    arguments = (p.x, *pair_of(p.state), p.weights, p.case.batch_sizes, *p.spec.arguments, save)
    others = {"every_state": p.case.every_state, **p.noise._asdict(), "layer_norm": p.spec.layer_norm}
    return operators.layer_forward(*arguments, *p.segments.arguments, **others)


def backward(p: Problem, y: Tensor, saved: Tensor, needed: list[bool], operators: Any = ops) -> list[Tensor]:
    kept = (p.x, *pair_of(p.state), p.weights, y, saved)
    arguments = (p.dy, p.dstate, *kept, p.case.batch_sizes, *p.spec.arguments, needed)
    others = {**p.noise._asdict(), "layer_norm": p.spec.layer_norm}
    return operators.layer_backward(*arguments, 1, *p.segments.arguments, **others)


def by_reference(p: Problem) -> dict[str, Tensor]:
    """By the reference and autograd, in the dtype of ``p``: in float64 the truth."""

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor], anew: list[Tensor]) -> tuple[Tensor, Any]:
        segments = p.segments._replace(reset_state=anew)
        return reference.layer(p.spec, x, state, weights, p.case.batch_sizes, segments, p.case.every_state, p.noise)

    return _differentiated(p, compute)


def by_torch_nn(p: Problem) -> dict[str, Tensor]:
    """By the function under torch.nn's layer of this cell."""

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor], _: list[Tensor]) -> tuple[Tensor, Any]:
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
    computed = p.cell in IN_TORCH and p.case.P != p.case.H
    plain = not (p.segments or p.noise or p.case.every_state or p.case.layer_norm)
    return by_torch_nn(p) if computed and plain else by_reference(p)


def _differentiated(p: Problem, compute: Callable[..., tuple[Tensor, Sequence[Tensor]]]) -> dict[str, Tensor]:
    leaves = [t.clone().requires_grad_() for t in (p.x, *p.state, *p.weights, *p.segments.reset_state)]
    first, behind = 1 + len(p.state), 1 + len(p.state) + len(p.weights)
    y, final = compute(leaves[0], leaves[1:first], leaves[first:behind], leaves[behind:])
    return _named(p, y, final, torch.autograd.grad([y, *final], leaves, [p.dy, *p.dstate]))
