"""A result is right when its error is at most twice that of torch.nn at the same dtype, plus a few ulps.

Errors are the largest absolute differences from torch.nn in float64 on the same values; an ulp is that of the largest
value in the tensor. Where the dtype is float64 itself, nothing more exact stands behind the comparison, and the floor
allows for the rounding of both sides in sums over thousands of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastrnn
from benches.workload import Workload, build, run_inference, run_training, to_float64

__all__ = ["Comparison", "check_close", "check_fastrnn", "compare", "results"]

_FLOOR_ULPS = {torch.float64: 1000, torch.float32: 4, torch.bfloat16: 1}
_PEER_ULPS = 2000


@dataclass(frozen=True)
class Comparison:
    """One tensor: largest errors of fastrnn and of torch.nn, and the floor, all absolute."""

    name: str
    error: float
    peer_error: float
    floor: float

    @property
    def allowed(self) -> float:
        return 2 * self.peer_error + self.floor

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed  # so that a NaN is wrong

    def __str__(self) -> str:
        return f"{self.name}: error {self.error:.2e}, allowed {self.allowed:.2e}"


def compare(
    ours: dict[str, Tensor], peer: dict[str, Tensor], exact: dict[str, Tensor], ulp: float, ulps: float
) -> list[Comparison]:
    """The rule for every tensor in ``ours``; ``ulp`` is that of 1."""
    found = []
    for name, value in ours.items():
        right = exact[name]
        assert value.shape == right.shape, f"{name}: expected {tuple(right.shape)}, got {tuple(value.shape)}"
        assert value.dtype == peer[name].dtype, f"{name}: expected {peer[name].dtype}, got {value.dtype}"
        if value.numel():
            floor = ulps * ulp * right.abs().max().item()
            found.append(Comparison(name, _difference(value, right), _difference(peer[name], right), floor))
    return found


def _difference(value: Tensor, right: Tensor) -> float:
    return (value - right).abs().max().item()


def results(module: nn.Module, work: Workload, training: bool) -> dict[str, Tensor]:
    """Outputs and final states by name, in training also the gradients of input and parameters."""
    names = ["output", "h_n", "c_n"]
    if not training:
        with torch.no_grad():
            return dict(zip(names, run_inference(module.eval(), work), strict=False))
    parameters = dict(module.named_parameters())
    outputs, gradients = run_training(module.train(), work, [work.values.requires_grad_(), *parameters.values()])
    found = dict(zip(names, (value.detach() for value in outputs), strict=False))
    return found | dict(zip(["d_input", *(f"d_{name}" for name in parameters)], gradients, strict=True))


def check_fastrnn(work: Workload, training: bool) -> None:
    """Raises ``AssertionError`` naming each output or gradient of fastrnn that breaks the rule."""
    dtype = getattr(torch, work.case.dtype)
    exact_work = to_float64(work)
    exact = results(build(nn, work.case, exact_work.weights, torch.float64), exact_work, training)
    peer = results(build(nn, work.case, work.weights, dtype), work, training)
    ours = results(build(fastrnn, work.case, work.weights, dtype), work, training)
    assert ours.keys() == exact.keys(), f"expected {list(exact)}, got {list(ours)}"
    comparisons = compare(ours, peer, exact, torch.finfo(dtype).eps, _FLOOR_ULPS[dtype])
    wrong = [str(comparison) for comparison in comparisons if not comparison.ok]
    assert not wrong, f"{work.case.id} differs from torch.nn: " + "; ".join(wrong)


def check_close(ours: list[Tensor], expected: list[Tensor], who: str) -> None:
    """A looser check for a peer, whose activations may be approximations: it finds swapped gates, not lost digits."""
    for value, reference in zip(ours, expected, strict=True):
        error = (value - reference).abs().max().item()
        allowed = _PEER_ULPS * torch.finfo(reference.dtype).eps
        assert error <= allowed, f"{who} differs from torch.nn: error {error:.2e}, allowed {allowed:.2e}"
