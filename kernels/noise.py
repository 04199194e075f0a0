"""Recurrent dropout and zoneout: what happens to states between steps, whatever the cell and the regime.

``fastrnn.spec.noise`` has the rule. Draws are not kept but made again by backward: they depend on nothing but the seed
and the place of a state. What stays of each state is a tile of bool, or in float64 a share of it.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .tiles import row_at


class Mask(NamedTuple):
    """Recurrent dropout.

    Programs that tell one another ``h`` tell it with its factors. Whoever reads it would else load those of all units,
    twice as much each step (LSTM, 512 units, sm_90: 254 registers a thread in place of 128).

    Attributes:
        factors: [D, B, H], of ``h`` in the products.
        initial: [D, B, H], the initial ``h`` with them. This and the next are there in forward, for several programs.
        h: [N, D*H], filled with that after each step.
    """

    factors: Any
    initial: Any
    h: Any


class Draws(NamedTuple):
    """Zoneout of units that are drawn.

    Attributes:
        seed: int64 [2], a key and the number of the first row.
        rows: of a ragged batch int64 [N], which row of the caller's y each one is; there alone it is read.
        h: ``h`` stays where a number of 16 bits that is drawn is smaller.
        c: the same of the cell's own state.
    """

    seed: Any
    rows: Any
    h: Any
    c: Any


class Shares(NamedTuple):
    """Zoneout as expected of draws: how much stays of ``h`` and of the cell's own state."""

    h: Any
    c: Any


class Zoneout(NamedTuple):
    """One of both, the other None, or None twice."""

    draws: Any
    shares: Any


@triton.jit
def what_stays(zoneout, t, active, place, geometry, HIDDEN: tl.constexpr, RAGGED: tl.constexpr):
    """At time ``t`` of the rows that have it, for ``h`` and for the cell's own state; empty without zoneout."""
    if zoneout.draws is not None:
        row = row_at(t, place, geometry, RAGGED)
        if RAGGED:
            row = tl.load(zoneout.draws.rows + row, mask=active, other=0)
        first = tl.load(zoneout.draws.seed + 1)
        unit = place.unit[None, :]
        counter = (row + first)[:, None] * ((HIDDEN + 3) // 4) + unit // 4
        low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
        zero = tl.zeros_like(low)
        direction = zero + place.direction.to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(tl.load(zoneout.draws.seed), low, high, direction, zero)
        word = tl.where(unit % 4 < 2, tl.where(unit % 2 == 0, w0, w1), tl.where(unit % 2 == 0, w2, w3))
        return (word & 0xFFFF).to(tl.int32) < zoneout.draws.h, (word >> 16).to(tl.int32) < zoneout.draws.c
    elif zoneout.shares is not None:
        return tl.full([1, 1], zoneout.shares.h, tl.float64), tl.full([1, 1], zoneout.shares.c, tl.float64)
    else:
        return ()


@triton.jit
def mixed(stays, old, new):
    """The states after a step, from those before it and the cell's new ones."""
    if len(stays) == 0:
        return new
    else:
        states = ()
        for i in tl.static_range(len(new)):
            states += (_mixed_state(stays[i], old[i], new[i]),)
        return states


@triton.jit
def parted(stays, dstate):
    """Of the gradients of the states after a step what goes through the cell, and what passes it by."""
    if len(stays) == 0:
        return dstate, ()
    else:
        through, past = (), ()
        for i in tl.static_range(len(dstate)):
            none = tl.zeros_like(dstate[i])
            through += (_mixed_state(stays[i], none, dstate[i]),)
            past += (_mixed_state(stays[i], dstate[i], none),)
        return through, past


@triton.jit
def _mixed_state(stays, old, new):
    if stays.dtype == tl.int1:
        return tl.where(stays, old, new)
    else:
        share = stays.to(new.dtype)
        return tl.where(share > 0, share * old + (1 - share) * new, new)


@triton.jit
def to_save(stays, kept, new, states):
    """Of a step the values that the cell keeps, then its states but ``h``, which is in y: the new ones, and behind them
    those after the step where they are others. A cell that would save nothing needs its new ``h`` then."""
    if len(stays) == 0:
        return kept + new[1:]
    elif len(new) > 1:
        return kept + new[1:] + states[1:]
    elif len(kept) == 0:
        return new
    else:
        return kept
