"""Where the rows of a batch end, and where they begin anew."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["WHOLE", "Segments"]


class Segments(NamedTuple):
    """Rows [T, B] that end early or are made of several sequences, one behind the other.

    Attributes:
        lengths: integers [B] from 0 to T, None for T throughout: a row's steps. Beyond them its outputs are zero and
            its state stays; the second direction begins at the last one.
        reset: bool [T, B], or [B, T] where sequences are: before a step that is marked the state of the row is
            replaced by ``reset_state``. The second direction's is replaced where it enters the sequence, at the last
            step before a mark. None for nowhere.
        reset_state: shaped as the states of the layer, or [D, T, B, width] for those that enter at each step; empty for
            zeros.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    reset_state: Sequence[Tensor] = ()

    def __bool__(self) -> bool:
        return self.lengths is not None or self.reset is not None or bool(self.reset_state)

    @property
    def arguments(self) -> tuple[Tensor | None, ...]:
        """Those of the operators, in their order; none for whole rows."""
        return (self.lengths, self.reset, *(*self.reset_state, None, None)[:2]) if self else ()


WHOLE = Segments()
