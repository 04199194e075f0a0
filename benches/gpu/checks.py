"""Every cell, regime and precision against the float64 oracle, by the accuracy rule; and twice, to the same bits."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benches.gpu.precision import PRECISIONS
from fastrnn.backends.triton import operators
from fastrnn.backends.triton.plans import Device, Plan, make_plan
from fastrnn.spec import CELLS
from fastrnn.testing import Case, Comparison, by_operators, by_peer, by_reference, compare, make_problem, poisoned
from fastrnn.testing.problem import stairs

__all__ = ["REGIMES", "Check", "Layer", "check", "in_brief", "layers", "plan_of", "same_bits"]

REGIMES = ("resident", "cooperative", "stepwise")

_SIZES = (17, 64, 100, 128, 256, 500, 512, 1024, 2048)

# Name: which of the sizes that give a regime (0 the smallest, 1 the largest), and the rest of the layer. 70 steps are
# several graphs in the stepwise regime, 70 rows several waves in the cooperative one.
_VARIANTS: dict[str, tuple[float, dict[str, Any]]] = {
    "dense": (0, {"T": 70, "B": 5, "I": 40}),
    "both": (0.5, {"T": 70, "B": 32, "I": 64, "directions": 2, "batch_first": True, "state": False}),
    "ragged": (0.5, {"T": 70, "B": 70, "I": 33, "directions": 2, "lengths": stairs(70, 70), "bias": False}),
    "padded": (0.5, {"T": 40, "B": 21, "I": 33, "directions": 2, "padded": True, "every_state": True}),
    "resets": (0, {"T": 40, "B": 5, "I": 33, "directions": 2, "batch_first": True, "padded": True, "reset": "by-step"}),
    "normalised": (1, {"T": 40, "B": 21, "I": 1, "directions": 2, "padded": True, "layer_norm": True}),
    "large": (1, {"T": 40, "B": 1, "I": 128}),
    "waves": (1, {"T": 24, "B": 70, "I": 1}),
}
_TAKEN = {
    "bfloat16": ("dense", "both", "ragged", "padded", "resets", "normalised", "large", "waves"),
    "tf32": ("dense", "both", "ragged", "padded", "resets", "normalised", "large", "waves"),
    "float16": ("both", "ragged", "waves"),
    "ieee": ("dense", "ragged", "large"),
    "float64": ("dense", "ragged", "both", "padded", "resets", "normalised"),
}
_PROJECTED = (
    {"T": 33, "B": 5, "H": 100, "I": 40, "P": 17, "directions": 2},
    {"T": 24, "B": 32, "H": 256, "I": 64, "P": 100, "lengths": stairs(24, 32)},
    {"T": 24, "B": 9, "H": 100, "I": 40, "P": 17, "directions": 2, "padded": True, "every_state": True},
)


@dataclass(frozen=True)
class Layer:
    """What is checked: a cell in a case, which is to run in this regime."""

    cell: str
    regime: str
    precision: str
    case: Case

    def __str__(self) -> str:
        return f"{self.cell} {self.precision} {self.regime} {self.case}"


def plan_of(layer: Layer, device: Device) -> Plan:
    precision, case = PRECISIONS[layer.precision], layer.case
    spec = case.spec(layer.cell)
    return make_plan(spec, case.B, case.H, precision.dtype, precision.tf32, device)


def in_brief(cell: str) -> bool:
    """Whether a cell before it has the same form, so that only what is done to single values differs."""
    before = list(CELLS)[: list(CELLS).index(cell)]
    return any(replace(CELLS[other], name=cell, equation=CELLS[cell].equation) == CELLS[cell] for other in before)


def layers(device: Device, cells: list[str], precisions: list[str]) -> Iterator[Layer]:
    """For each regime, sizes at which ``make_plan`` takes it on this device; one that no size gives is left out."""
    for precision in (name for name in _TAKEN if name in precisions):
        # The largest first, so that a run which is cut short has said the most.
        for cell in sorted((name for name in CELLS if name in cells), key=lambda name: -len(CELLS[name].gates)):
            for regime in REGIMES:
                for variant in _TAKEN[precision]:
                    if in_brief(cell) and variant not in ("dense", "ragged"):
                        continue
                    fraction, rest = _VARIANTS[variant]
                    found = [Layer(cell, regime, precision, Case(H=H, **rest)) for H in _SIZES]
                    found = [layer for layer in found if plan_of(layer, device).regime == regime]
                    if found:
                        yield found[round(fraction * (len(found) - 1))]
            if CELLS[cell].projectable:
                yield from (Layer(cell, "stepwise", precision, Case(**sizes)) for sizes in _PROJECTED)


@dataclass(frozen=True)
class Check:
    """What came of one case; ``problems`` is empty where all is right.

    Attributes:
        worst: the largest error as a share of what is allowed.
        errors: absolute, of fastrnn and of the peer.
    """

    case: str
    problems: list[str]
    worst: float | None = None
    worst_at: str = ""
    errors: dict[str, tuple[float, float]] | None = None

    @classmethod
    def of(cls, case: str, problems: list[str], comparisons: list[Comparison]) -> "Check":
        worst = max(comparisons, key=_share)
        problems = problems + [str(comparison) for comparison in comparisons if not comparison.ok]
        return cls(case, problems, _share(worst), worst.name, {c.name: (c.error, c.peer_error) for c in comparisons})


def _share(comparison: Comparison) -> float:
    if comparison.error == 0:
        return 0.0
    share = comparison.error / comparison.allowed if comparison.allowed else math.inf
    return math.inf if math.isnan(share) else share


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


def check(layer: Layer, device: str = "cuda") -> Check:
    """Runs where the kernels run. On the CPU that is Triton's interpreter."""
    # Before cuBLAS starts: without it, it may choose its algorithm by what other streams do.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precision, case = PRECISIONS[layer.precision], layer.case
    with precision.active():
        spec = case.spec(layer.cell)
        regime = operators.plan_for(spec, case.B, case.H, precision.dtype, torch.device(device)).regime
        problems = [] if regime == layer.regime else [f"regime: expected {layer.regime}, got {regime}"]
        p = make_problem(layer.cell, case, precision.dtype, device)
        with poisoned():
            ours = by_operators(p, operators)
        again = by_operators(p, operators)
        peer = by_peer(p)
    exact = by_reference(p.to(torch.float64))
    differing = [name for name in ours if not same_bits(ours[name], again[name])]
    if differing:
        problems.append(f"not the same twice: {', '.join(differing)}")
    return Check.of(str(layer), problems, compare(ours, peer, exact, precision.floor_ulps, precision.ulp))
