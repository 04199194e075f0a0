"""The accuracy rule: an error is at most twice that of a peer in the same dtype, plus a floor of a few ulps.

Errors are the largest absolute differences from a result in float64 on the same values. The peer is ``torch.nn``; for
a cell that it lacks, the reference in the same dtype, step by step. An ulp is that of the largest value of a tensor.
Where the dtype is float64 itself nothing more exact stands behind the comparison, and the floor allows for the rounding
of both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Comparison", "assert_accurate", "compare"]


@dataclass(frozen=True)
class Comparison:
    """One tensor: largest errors of fastrnn and of the peer, and the floor, all absolute."""

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
    got: Mapping[Any, Tensor],
    peer: Mapping[Any, Tensor],
    exact: Mapping[Any, Tensor],
    floor_ulps: float,
    ulp: float | None = None,
) -> list[Comparison]:
    """The rule for every tensor in ``got``. ``ulp`` is that of 1; None for that of the tensor's dtype."""
    found = []
    for name, value in got.items():
        right = exact[name]
        assert value.shape == right.shape, f"{name}: expected {tuple(right.shape)}, got {tuple(value.shape)}"
        assert value.dtype == peer[name].dtype, f"{name}: expected {peer[name].dtype}, got {value.dtype}"
        if value.numel():
            unit = torch.finfo(value.dtype).eps if ulp is None else ulp
            floor = floor_ulps * unit * right.abs().max().item()
            found.append(Comparison(str(name), _difference(value, right), _difference(peer[name], right), floor))
    return found


def _difference(value: Tensor, right: Tensor) -> float:
    return (value.double() - right).abs().max().item()


def assert_accurate(
    got: Mapping[Any, Tensor], peer: Mapping[Any, Tensor], exact: Mapping[Any, Tensor], floor_ulps: float = 8
) -> None:
    """The rule, for the same names in all three."""
    assert got.keys() == peer.keys() == exact.keys(), f"expected {list(exact)}, got {list(got)}"
    wrong = [str(comparison) for comparison in compare(got, peer, exact, floor_ulps) if not comparison.ok]
    assert not wrong, "; ".join(wrong)
