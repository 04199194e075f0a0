"""What disturbs a layer's states between steps so that it learns to do without any one of them."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NONE", "Noise"]


class Noise(NamedTuple):
    """Recurrent dropout and zoneout of one layer.

    Attributes:
        h_mask: factors [D, B, P] of ``h`` in the products with ``weight_hh``, the same at every step: 0 or 1 / (1 - p),
            the variational dropout of Gal and Ghahramani (2016). What else a cell does with ``h``, as a GRU, sees it
            whole. None for ones. It has no gradient.
        zoneout_h: probability that a unit's ``h`` stays as it was before the step, Krueger et al. (2017).
        zoneout_c: of the cell's other states. ``h`` is computed from their new values, whether or not these stay.
        zoneout_seed: int64 [2], which units stay: a key of the generator, and the number of the first row of y. A unit
            has its own draw at every row, whatever else is computed. None: the states are mixed as expected of draws.
    """

    h_mask: Tensor | None = None
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    zoneout_seed: Tensor | None = None

    def __bool__(self) -> bool:
        return self.h_mask is not None or self.zoneout

    @property
    def zoneout(self) -> bool:
        return self.zoneout_h > 0 or self.zoneout_c > 0

    @property
    def thresholds(self) -> tuple[int, int]:
        """Units stay that draw a number of 16 bits below: ``h``, and other states."""
        of_h, of_c = (int(p * 2**16 + 0.5) for p in (self.zoneout_h, self.zoneout_c))
        return of_h, of_c

    def from_row(self, row: int) -> "Noise":
        """Of the part of a batch whose first row of y is this one."""
        if self.zoneout_seed is None:
            return self
        key, first_row = self.zoneout_seed.unbind()
        # Not by adding a new tensor, whose copy to a GPU would be waited for.
        return self._replace(zoneout_seed=torch.stack((key, first_row + row)))

    def of_member(self, i: int) -> "Noise":
        """Of one layer of an ensemble."""
        mask, seed = (None if t is None else t[i] for t in (self.h_mask, self.zoneout_seed))
        return self._replace(h_mask=mask, zoneout_seed=seed)

    def stays(self, direction: int, rows: Tensor, hidden: int) -> tuple[Tensor | float, Tensor | float]:
        """Which units' ``h`` and other states stay: bool [R, H] of the rows [R] of y, or shares of both.

        Units 4 k to 4 k + 3 of row r have a word each of the counter r * ceil(H / 4) + k, ``h`` its lower half.
        """
        if self.zoneout_seed is None:
            return self.zoneout_h, self.zoneout_c
        key, first_row = self.zoneout_seed.unbind()
        counters = -(-hidden // 4)
        counter = (rows + first_row).unsqueeze(1) * counters + torch.arange(counters, device=rows.device)
        words = torch.stack(_philox(key, counter, direction), -1).flatten(1)[:, :hidden]
        halves = (words & 0xFFFF, words >> 16)
        of_h, of_c = (
            half < threshold if threshold else 0.0 for half, threshold in zip(halves, self.thresholds, strict=True)
        )
        return of_h, of_c


NONE = Noise()

_WORD = 2**32 - 1


def _philox(key: Tensor, counter: Tensor, direction: int) -> tuple[Tensor, ...]:
    """The words of Philox4x32-10, Salmon et al. (2011), as int64, of a counter's two words, ``direction``, and 0."""
    k0, k1 = key & _WORD, (key >> 32) & _WORD
    c0, c1 = counter & _WORD, (counter >> 32) & _WORD
    c2, c3 = torch.full_like(counter, direction), torch.zeros_like(counter)
    for _ in range(10):
        high0, low0 = _product(0xD2511F53, c0)
        high1, low1 = _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two words: in halves, for 64 bits with a sign hold no more than 63."""
    low, high = word * (factor & 0xFFFF), word * (factor >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _WORD
