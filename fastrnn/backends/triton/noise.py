"""Which kernels recurrent dropout and zoneout take."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NOISE", "PLAIN", "NoiseKind"]


class NoiseKind(NamedTuple):
    """Which of the kernels' parameters of noise are given: the others are no parameters of what is compiled."""

    h_mask: bool = False
    draws: bool = False
    shares: bool = False

    @property
    def zoneout(self) -> bool:
        return self.draws or self.shares

    def constants(self, names: Sequence[str] = ("h_mask", "draws", "shares")) -> dict[str, None]:
        """Of a kernel with these parameters."""
        return {name: None for name in names if not getattr(self, name)}


PLAIN = NoiseKind()

# By the names of ``python -m fastrnn compile``.
NOISE = {
    "none": PLAIN,
    "mask": NoiseKind(h_mask=True),
    "zoneout": NoiseKind(draws=True),
    "mask+zoneout": NoiseKind(h_mask=True, draws=True),
    "expected-zoneout": NoiseKind(shares=True),
}
