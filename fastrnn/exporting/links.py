"""Links of a chain that ``torch.nn`` has no modules for."""

import torch
from torch import Tensor, nn

__all__ = ["Affine", "Pool", "POOLINGS"]

POOLINGS = ("max", "mean", "last")


class Affine(nn.Module):
    """x * scale + shift, both [F]: normalisation, or back."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.features = len(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Pool(nn.Module):
    """One step of many: their ``"max"`` or ``"mean"``, or the ``"last"``, where each of the directions ends."""

    def __init__(self, kind: str, directions: int = 1, batch_first: bool = True) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise ValueError(f"kind: expected one of {', '.join(POOLINGS)}, got {kind!r}")
        self.kind, self.directions, self.batch_first = kind, directions, batch_first

    def forward(self, y: Tensor) -> Tensor:  # [B, T, F] or [T, B, F] -> [B, F]
        steps = 1 if self.batch_first else 0
        if self.kind == "max":
            return y.amax(steps)
        if self.kind == "mean":
            return y.mean(steps)
        forward = y.select(steps, -1)
        if self.directions == 1:
            return forward
        half = y.size(2) // 2
        return torch.cat([forward[:, :half], y.select(steps, 0)[:, half:]], 1)
