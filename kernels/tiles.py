"""What the regimes share: where rows lie in memory, and tuples of tiles to and from it.

Every buffer of rows, [N, D*width], lies in memory step by step: the row of time ``t`` and batch entry ``b`` is
``t * batch + b``, or ``offsets[t] + b`` in a ragged batch. A ``line`` is one direction's part of a row. Offsets are
64-bit: 2^31 elements are few.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Geometry(NamedTuple):
    """A layer's sizes and the rows of its batch.

    Attributes:
        offsets: [T] of a ragged batch, the first row of each step.
        lengths: [B] of a ragged batch, the steps of each entry, in any order.
        rows: of all steps.
    """

    offsets: Any
    lengths: Any
    batch: Any
    rows: Any
    steps: Any
    directions: Any


class Place(NamedTuple):
    """What a program computes of a step.

    Attributes:
        b: [R] batch entries.
        unit: [U] hidden units.
        length: [R] steps of each entry, none of those beyond the batch.
        steps: of the longest entry.
    """

    direction: Any
    b: Any
    unit: Any
    length: Any
    steps: Any


class Record(NamedTuple):
    """What backward reads of forward, and the gradients that come from outside.

    Attributes:
        dcell_states: those of the cell's own state after each step [D, N, H], or None.
    """

    dy: Any
    dcell_states: Any
    y: Any
    saved: Any
    initial: Any


@triton.jit
def row_at(t, place, geometry, RAGGED: tl.constexpr):
    """[R], the rows of time ``t``."""
    if RAGGED:
        # Before the first step there is no row, and none is read.
        return tl.load(geometry.offsets + tl.maximum(t, 0)) + place.b
    else:
        return t.to(tl.int64) * geometry.batch + place.b


@triton.jit
def line_of(row, place, geometry):
    """[R], lines of a buffer [N*D, width]."""
    return row * geometry.directions + place.direction


@triton.jit
def state_line_of(place, geometry):
    """[R], lines of states [D*B, width]."""
    return place.direction * geometry.batch + place.b


@triton.jit
def row_starts(pointers, LENGTH: tl.constexpr):
    """[R, 1] from [R], pointers to the first of ``LENGTH`` elements each, that ``tl.where`` has chosen.

    Triton 3.8 knows no alignment of what a condition chose, and would load the elements one by one: up to twice the
    registers, and spills.
    """
    BYTES: tl.constexpr = LENGTH * pointers.dtype.element_ty.primitive_bitwidth // 8
    ALIGNMENT: tl.constexpr = (BYTES | 16) & -(BYTES | 16)  # a tensor begins at a multiple of 16 bytes
    return tl.multiple_of(pointers[:, None], (ALIGNMENT, ALIGNMENT))


@triton.jit
def load_planes(pointers, mask, STRIDE: tl.constexpr, PLANES: tl.constexpr):
    """``PLANES`` tiles, ``STRIDE`` elements apart, in the type of computation."""
    tiles = ()
    for plane in tl.static_range(PLANES):
        tiles += (load(pointers + plane * STRIDE, mask),)
    return tiles


@triton.jit
def store_planes(pointers, tiles, mask, STRIDE: tl.constexpr):
    for plane in tl.static_range(len(tiles)):
        store(pointers + plane * STRIDE, tiles[plane], mask)


@triton.jit
def load_each(bases, at, mask):
    """One tile at the same place of each tensor of a tuple, in the type of computation."""
    tiles = ()
    for i in tl.static_range(len(bases)):
        tiles += (load(bases[i] + at, mask),)
    return tiles


@triton.jit
def store_each(bases, at, tiles, mask):
    for i in tl.static_range(len(bases)):
        store(bases[i] + at, tiles[i], mask)


@triton.jit
def load(pointers, mask):
    x = tl.load(pointers, mask=mask, other=0)
    if x.dtype == tl.float64:
        return x
    else:
        return x.to(tl.float32)


@triton.jit
def store(pointers, x, mask):
    tl.store(pointers, x.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def add(tiles, more):
    """To the first tiles of a tuple, as many as there are ``more``."""
    sums = ()
    for i in tl.static_range(len(tiles)):
        if i < len(more):
            sums += (tiles[i] + more[i],)
        else:
            sums += (tiles[i],)
    return sums


@triton.jit
def select(mask, chosen, others):
    tiles = ()
    for i in tl.static_range(len(chosen)):
        tiles += (tl.where(mask, chosen[i], others[i]),)
    return tiles


@triton.jit
def split_planes(x, PLANES: tl.constexpr):
    """[R, U * PLANES], the planes of a unit side by side, to ``PLANES`` tiles [R, U]. ``PLANES`` is 1, 2 or 4."""
    if PLANES == 1:
        return (x,)
    elif PLANES == 2:
        return tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
    else:
        even, odd = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 4, 2, 2]))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        return (first, second, third, fourth)


@triton.jit
def join_planes(tiles, PLANES: tl.constexpr):
    """``split_planes`` backward; missing tiles are zeros."""
    if PLANES == 1:
        return tiles[0]
    elif PLANES == 2:
        x = tl.join(tiles[0], tiles[1])
        return tl.reshape(x, [x.shape[0], x.shape[1] * 2])
    else:
        fourth = tiles[3] if len(tiles) == 4 else tl.zeros_like(tiles[0])
        x = tl.join(tl.join(tiles[0], tiles[2]), tl.join(tiles[1], fourth))
        return tl.reshape(x, [x.shape[0], x.shape[1] * 4])


@triton.jit
def relayout(x):
    """``x``, in the layout of loads and stores rather than that of the matrix unit.

    Triton otherwise brings every loaded tile that meets ``x`` into the layout of ``x``, through shared memory each.
    """
    even, odd = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
    return tl.reshape(tl.join(even, odd), [x.shape[0], x.shape[1]])


@triton.jit
def store_recorded(saved, values, row, mask, place, geometry, HIDDEN: tl.constexpr):
    """What backward will read of a step besides y."""
    if len(values) > 0:
        line = place.direction * geometry.rows + row
        at = line[:, None] * (len(values) * HIDDEN) + place.unit[None, :]
        store_planes(saved + at, values, mask, HIDDEN)


@triton.jit
def recorded(
    r,
    record,
    place,
    geometry,
    HIDDEN: tl.constexpr,
    KEPT: tl.constexpr,
    SAVED: tl.constexpr,
    PRODUCTS: tl.constexpr,
    RAGGED: tl.constexpr,
    PROJECTED: tl.constexpr = False,
):
    """For the ``r``-th step of backward the gradients from outside of its new states, at least of ``h``, and what
    forward left: the kept values, the new and the old states, and the products with h before they are normalised.

    Old states are those after the step before where there was one, else the initial ones. With a projection the outputs
    are not the hidden state, so dy and ``h`` are zeros: the caller has dy, and a cell that may be projected does not
    ask for h. ``SAVED`` values of a unit are those of ``noise.to_save``, and ``PRODUCTS`` of them come behind.
    """
    dy, dcell_states, y, saved, initial = record
    STATES: tl.constexpr = len(initial)
    WIDTH: tl.constexpr = (SAVED + PRODUCTS) * HIDDEN
    unit = place.unit
    state_line = state_line_of(place, geometry)
    step = tl.minimum(r, place.steps - 1)  # one past the last has no row to point at
    t = tl.where(place.direction == 0, place.steps - 1 - step, step)
    before = tl.where(place.direction == 0, t - 1, t + 1)
    mask = ((r < place.steps) & (t < place.length))[:, None] & (unit < HIDDEN)[None, :]
    begun = (r < place.steps - 1) & (before < place.length)
    row = row_at(t, place, geometry, RAGGED)
    row_before = row_at(before, place, geometry, RAGGED)

    if PROJECTED:
        dy_t = tl.zeros([place.b.shape[0], unit.shape[0]], tl.float32)
        new = (dy_t,)
        old = (dy_t,)
    else:
        at_y = line_of(row, place, geometry)[:, None] * HIDDEN + unit[None, :]
        dy_t = load(dy + at_y, mask)
        new = (load(y + at_y, mask),)
        h = tl.where(begun, y + line_of(row_before, place, geometry) * HIDDEN, initial[0] + state_line * HIDDEN)
        old = (load(row_starts(h, HIDDEN) + unit[None, :], mask),)
    outside = (dy_t,)
    if dcell_states is not None:
        at_cell = (place.direction * geometry.rows + row) * HIDDEN
        outside += (load(dcell_states + at_cell[:, None] + unit[None, :], mask),)
    at_step = saved + (place.direction * geometry.rows + row) * WIDTH
    at_before = saved + (place.direction * geometry.rows + row_before) * WIDTH
    kept = load_planes(at_step[:, None] + unit[None, :], mask, HIDDEN, KEPT)
    if SAVED > KEPT and STATES == 1:
        new = load_planes(at_step[:, None] + unit[None, :], mask, HIDDEN, 1)
    for i in tl.static_range(1, STATES):
        plane = (KEPT + i - 1) * HIDDEN
        plane_before = (SAVED - STATES + i) * HIDDEN
        state = tl.where(begun, at_before + plane_before, initial[i] + state_line * HIDDEN)
        new += (load((at_step + plane)[:, None] + unit[None, :], mask),)
        old += (load(row_starts(state, HIDDEN) + unit[None, :], mask),)
    products = load_planes((at_step + SAVED * HIDDEN)[:, None] + unit[None, :], mask, HIDDEN, PRODUCTS)
    return outside, kept, new, old, products
