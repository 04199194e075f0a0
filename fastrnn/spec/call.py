"""The arguments of the operators as values, whose fields have the names and the order of the schemas."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastrnn.spec.cell import CELLS
from fastrnn.spec.layer import LayerSpec, place_of_w_hh
from fastrnn.spec.noise import Noise
from fastrnn.spec.segments import Segments

__all__ = ["CONSTANTS", "BackwardCall", "ForwardCall", "pair_of"]

# Arguments that are tensors, or None, without a gradient.
CONSTANTS = ("batch_sizes", "lengths", "reset", "h_mask", "zoneout_seed")

_SEGMENTS = ("lengths", "reset", "h_reset", "c_reset")
_NOISE = Noise._fields
_TRAILING = (*_SEGMENTS, *_NOISE, "layer_norm")
_PLAIN = 9  # arguments up to batch_first
_OF_FROZEN = (*_SEGMENTS, "zoneout_h", "zoneout_c")


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
    h_mask: Tensor | None = None
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    zoneout_seed: Tensor | None = None
    layer_norm: bool = False

    @staticmethod
    def of(plain: Sequence[Any], others: Sequence[Any]) -> "ForwardCall":
        """From the arguments up to ``batch_first``, and ``trailing_arguments`` or the first of them."""
        return ForwardCall(*plain)._replace(**dict(zip(_TRAILING, others, strict=False)))

    @staticmethod
    def of_frozen(*args: Any) -> "ForwardCall":
        """From those of ``frozen_forward``, which takes no noise but what is expected of zoneout."""
        return ForwardCall(*args[:_PLAIN])._replace(**dict(zip(_OF_FROZEN, args[_PLAIN:], strict=False)))

    @property
    def frozen_arguments(self) -> tuple[Any, ...]:
        """Those of ``frozen_forward``."""
        return *self[:_PLAIN], *[getattr(self, name) for name in _OF_FROZEN]

    @property
    def options(self) -> tuple[str, int, bool, bool]:
        return self.cell, self.directions, self.has_bias, self.batch_first

    @property
    def segments(self) -> Segments:
        return Segments(self.lengths, self.reset, self.reset_state)

    @property
    def noise(self) -> Noise:
        return Noise(self.h_mask, self.zoneout_h, self.zoneout_c, self.zoneout_seed)

    def with_noise(self, noise: Noise) -> "ForwardCall":
        return self._replace(**noise._asdict())

    @property
    def trailing_arguments(self) -> tuple[Any, ...]:
        """Those of ``layer_backward`` and ``layer_double_backward`` of segments, noise and normalisation."""
        return tuple([getattr(self, name) for name in _TRAILING])

    @property
    def saved_width(self) -> int:
        """Values of size H in a row of ``saved``."""
        return CELLS[self.cell].saved_values(self.noise.zoneout, self.layer_norm)

    @property
    def spec(self) -> LayerSpec:
        """Raises ValueError where the options do not fit one another or the number of weights."""
        return LayerSpec.of_weights(*self.options, self.weights, self.layer_norm)

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
    def constants(self) -> tuple[Tensor | None, ...]:
        """Tensors that have no gradient."""
        return tuple([getattr(self, name) for name in CONSTANTS])

    def with_constants(self, constants: Sequence[Any]) -> "ForwardCall":
        return self._replace(**dict(zip(CONSTANTS, constants, strict=True)))

    @property
    def form(self) -> "ForwardCall":
        """With a number in the place of every tensor, to be filled in by ``with_inputs`` and ``with_constants``."""
        return self.with_inputs(range(len(self.inputs))).with_constants([None] * len(CONSTANTS))

    @property
    def members(self) -> int:
        """Dimensions in front of all others: 1 for an ensemble, else 0."""
        return int(self.w_hh.dim() == 3)

    @property
    def w_hh(self) -> Tensor:
        return self.weights[place_of_w_hh(self.layer_norm)]

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
    h_mask: Tensor | None = None
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    zoneout_seed: Tensor | None = None
    layer_norm: bool = False

    @property
    def forward(self) -> ForwardCall:
        """The call of ``layer_forward`` that gave ``y`` and ``saved``."""
        shared = {name: getattr(self, name) for name in ForwardCall._fields if name in BackwardCall._fields}
        return ForwardCall(**shared)

    @staticmethod
    def after(forward: ForwardCall, **others: Any) -> "BackwardCall":
        shared = {name: getattr(forward, name) for name in ForwardCall._fields if name in BackwardCall._fields}
        return BackwardCall(**shared, **others)
