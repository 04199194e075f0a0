"""The arguments of the operators as values, whose fields have the names and the order of the schemas."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastrnn.spec.layer import LayerSpec

__all__ = ["BackwardCall", "ForwardCall", "pair_of"]


def pair_of(state: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Initial states as the operators take them: ``h_0`` and ``c_0``, None where there is none."""
    h_0, c_0, *_ = (*state, None, None)
    return h_0, c_0


class ForwardCall(NamedTuple):
    """Of ``layer_forward`` and, but for ``save``, of ``frozen_forward``: ``fastrnn.ops.operators`` explains them."""

    x: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    weights: Sequence[Tensor]
    batch_sizes: Tensor | None
    cell: str
    directions: int
    has_bias: bool
    batch_first: bool
    save: bool = False

    @staticmethod
    def of(inputs: Sequence[Tensor], states: int, batch_sizes: Tensor | None, *options: Any) -> "ForwardCall":
        """From ``inputs`` as below, of which so many are states, and what follows ``batch_sizes``."""
        x, *others = inputs
        return ForwardCall(x, *pair_of(others[:states]), others[states:], batch_sizes, *options)

    @property
    def options(self) -> tuple[str, int, bool, bool]:
        return self.cell, self.directions, self.has_bias, self.batch_first

    @property
    def spec(self) -> LayerSpec:
        """Raises ValueError where the options do not fit one another or the number of weights."""
        return LayerSpec.of_weights(*self.options, self.weights)

    @property
    def state(self) -> list[Tensor]:
        """The initial states, none for zeros: ``pair_of`` undone."""
        if self.h_0 is None and self.c_0 is not None:
            raise RuntimeError("fastrnn: expected c_0 with h_0, got c_0 alone")
        return [s for s in (self.h_0, self.c_0) if s is not None]

    @property
    def inputs(self) -> list[Tensor]:
        """What has a gradient, in the order of ``needed`` of ``layer_backward``."""
        return [self.x, *self.state, *self.weights]

    def with_inputs(self, inputs: Sequence[Tensor]) -> "ForwardCall":
        return ForwardCall.of(inputs, len(self.state), self.batch_sizes, *self.options, self.save)

    @property
    def members(self) -> int:
        """Dimensions in front of all others: 1 for an ensemble, else 0."""
        return int(self.weights[1].dim() == 3)

    @property
    def one_step(self) -> bool:
        return self.batch_sizes is None and self.x.dim() - self.members == 2

    @property
    def swapped(self) -> bool:
        """Sequence tensors are [B, T, ...]."""
        return self.batch_first and self.batch_sizes is None and not self.one_step


class BackwardCall(NamedTuple):
    """Of ``layer_backward``."""

    dy: Tensor | None
    dstate: Sequence[Tensor | None]
    x: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    weights: Sequence[Tensor]
    y: Tensor
    saved: Tensor
    batch_sizes: Tensor | None
    cell: str
    directions: int
    has_bias: bool
    batch_first: bool
    needed: Sequence[bool]
    samples: int = 1

    @property
    def forward(self) -> ForwardCall:
        """The call of ``layer_forward`` that gave ``y`` and ``saved``."""
        return ForwardCall(*[getattr(self, name) for name in ForwardCall._fields[:-1]])
