"""The arguments of the operators as values, whose fields have the names and the order of the schemas."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastrnn.spec.layer import LayerSpec
from fastrnn.spec.segments import Segments

__all__ = ["BackwardCall", "ForwardCall", "pair_of"]


def pair_of(state: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Initial states as the operators take them: ``h_0`` and ``c_0``, None where there is none."""
    h_0, c_0, *_ = (*state, None, None)
    return h_0, c_0


def _given(h: Tensor | None, c: Tensor | None) -> list[Tensor]:
    if h is None and c is not None:
        raise RuntimeError("fastrnn: expected c_0 with h_0, got c_0 alone")
    return [s for s in (h, c) if s is not None]


class ForwardCall(NamedTuple):
    """Of ``layer_forward``: ``fastrnn.ops.operators`` explains the arguments."""

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
    lengths: Tensor | None = None
    reset: Tensor | None = None
    h_reset: Tensor | None = None
    c_reset: Tensor | None = None
    every_state: bool = False
    recompute: bool = False

    @staticmethod
    def of(plain: Sequence[Any], segments: Sequence[Any]) -> "ForwardCall":
        """From the arguments up to ``batch_first``, and those from ``lengths`` to ``c_reset`` or the first of them."""
        names = ForwardCall._fields[ForwardCall._fields.index("lengths") :]
        return ForwardCall(*plain)._replace(**dict(zip(names, segments, strict=False)))

    @staticmethod
    def of_frozen(*args: Any) -> "ForwardCall":
        """From those of ``frozen_forward``, which has neither ``save`` nor what comes behind the segments."""
        plain = ForwardCall._fields.index("save")
        return ForwardCall.of(args[:plain], args[plain:])

    @property
    def options(self) -> tuple[str, int, bool, bool]:
        return self.cell, self.directions, self.has_bias, self.batch_first

    @property
    def segments(self) -> Segments:
        return Segments(self.lengths, self.reset, self.reset_state)

    @property
    def spec(self) -> LayerSpec:
        """Raises ValueError where the options do not fit one another or the number of weights."""
        return LayerSpec.of_weights(*self.options, self.weights)

    @property
    def state(self) -> list[Tensor]:
        """The initial states, none for zeros: ``pair_of`` undone."""
        return _given(self.h_0, self.c_0)

    @property
    def reset_state(self) -> list[Tensor]:
        return _given(self.h_reset, self.c_reset)

    @property
    def inputs(self) -> list[Tensor]:
        """What has a gradient, in the order of ``needed`` of ``layer_backward``."""
        return [self.x, *self.state, *self.weights, *self.reset_state]

    def with_inputs(self, inputs: Sequence[Any]) -> "ForwardCall":
        """With others in their place."""
        remaining = iter(inputs)
        return self._replace(
            x=next(remaining),
            h_0=None if self.h_0 is None else next(remaining),
            c_0=None if self.c_0 is None else next(remaining),
            weights=[next(remaining) for _ in self.weights],
            h_reset=None if self.h_reset is None else next(remaining),
            c_reset=None if self.c_reset is None else next(remaining),
        )

    @property
    def places(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Tensors that say where things are, which have no gradient."""
        return self.batch_sizes, self.lengths, self.reset

    def with_places(self, batch_sizes: Any, lengths: Any, reset: Any) -> "ForwardCall":
        return self._replace(batch_sizes=batch_sizes, lengths=lengths, reset=reset)

    @property
    def form(self) -> "ForwardCall":
        """With a number in the place of every tensor, to be filled in by ``with_inputs`` and ``with_places``."""
        return self.with_inputs(range(len(self.inputs))).with_places(None, None, None)

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
    lengths: Tensor | None = None
    reset: Tensor | None = None
    h_reset: Tensor | None = None
    c_reset: Tensor | None = None

    @property
    def forward(self) -> ForwardCall:
        """The call of ``layer_forward`` that gave ``y`` and ``saved``."""
        shared = {name: getattr(self, name) for name in ForwardCall._fields if name in BackwardCall._fields}
        return ForwardCall(**shared)

    @staticmethod
    def after(forward: ForwardCall, **others: Any) -> "BackwardCall":
        shared = {name: getattr(forward, name) for name in ForwardCall._fields if name in BackwardCall._fields}
        return BackwardCall(**shared, **others)
