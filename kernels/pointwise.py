"""The stepwise regime: the part of one step that is not a product. The recurrent product, and a projection, come
before.

Rows and times as in ``persistent``. A program has a tile of rows and units of one direction; nothing passes between
programs, so ``final`` may be ``carried``. With ``norm`` a tile has all units. The step done is ``step`` after the one
in memory at ``base``: launches that were captured in a graph move on when ``base`` does.
"""

import triton
import triton.language as tl

from .layer_norm import normalised_gates, norms_of, through_gates
from .noise import Zoneout, mixed, parted, to_save, what_stays
from .tiles import (
    Place,
    Record,
    add,
    line_of,
    load_each,
    load_planes,
    recorded,
    row_at,
    state_line_of,
    store,
    store_each,
    store_planes,
    store_recorded,
)


@triton.jit
def place_of(geometry, HIDDEN: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, RAGGED: tl.constexpr):
    """This program's."""
    b = tl.program_id(0) // tl.cdiv(HIDDEN, UNITS) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(0) % tl.cdiv(HIDDEN, UNITS) * UNITS + tl.arange(0, UNITS)
    if RAGGED:
        length = tl.load(geometry.lengths + b, mask=b < geometry.batch, other=0)
    else:
        length = tl.where(b < geometry.batch, geometry.steps, 0)
    return Place(tl.program_id(1).to(tl.int64), b, unit, length, geometry.steps)


@triton.jit
def forward(
    gx,
    gh,
    carried,
    y,
    final,
    saved,
    geometry,
    base,
    step,
    draws,
    shares,
    norm,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    TOGETHER: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    RAGGED: tl.constexpr,
    SAVE: tl.constexpr,
    PROJECTED: tl.constexpr,
):
    """gx [N, D*G*H], gh [D, B, G*H], states [D, B, H] to y [N, D*H], saved [D, N, S*H].

    ``PROJECTED``: the product of the hidden state comes after; y is not written, nor is h of rows without this step.
    ``norm``: gh are the products alone. ``draws``, ``shares`` and it are constants None where there are none.
    """
    step += tl.load(base)
    place = place_of(geometry, HIDDEN, ROWS, UNITS, RAGGED)
    direction, b, unit, length, steps = place
    t = tl.where(direction == 0, step, steps - 1 - step)
    active = t < length
    mask = active[:, None] & (unit < HIDDEN)[None, :]
    row = row_at(t, place, geometry, RAGGED)
    line = line_of(row, place, geometry)
    state_line = state_line_of(place, geometry)
    at_state = state_line[:, None] * HIDDEN + unit[None, :]

    gates_x = load_planes(gx + line[:, None] * (GATES * HIDDEN) + unit[None, :], mask, HIDDEN, GATES)
    products = load_planes(gh + state_line[:, None] * (GATES * HIDDEN) + unit[None, :], mask, HIDDEN, GATES)
    old = load_each(carried, at_state, mask)
    norms = norms_of(norm, place, HIDDEN, GATES, len(carried), ROWS)
    new, kept = CELL(gates_x, normalised_gates(products, norms, TOGETHER), old, norms)
    stays = what_stays(Zoneout(draws, shares), t, active, place, geometry, HIDDEN, RAGGED)
    after = mixed(stays, old, new)
    store_each(final, at_state, after, mask)
    if not PROJECTED:
        store(y + line[:, None] * HIDDEN + unit[None, :], after[0], mask)
    if SAVE:
        values = to_save(stays, kept, new, after)
        if norm is not None:
            values += products
        store_recorded(saved, values, row, mask, place, geometry, HIDDEN)


@triton.jit
def backward(
    dy,
    y,
    saved,
    initial,
    carried,
    dgx,
    dgh,
    dgh_step,
    final,
    geometry,
    base,
    step,
    dcell_states,
    draws,
    shares,
    norm,
    dnorm,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    TOGETHER: tl.constexpr,
    KEPT: tl.constexpr,
    SAVED: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    RAGGED: tl.constexpr,
    APART: tl.constexpr,
    PROJECTED: tl.constexpr,
):
    """Gate gradients of one step, to their rows in dgx and dgh [N, D*G*H] and, for the product, to dgh_step [D, B,
    G*H].

    Rows without this step get zeros in dgh_step and keep their dstate. Without ``APART`` dgx is not written.
    ``PROJECTED``: h in ``carried`` is the whole gradient of the hidden state, dy included.
    ``dcell_states`` as in ``persistent``, ``draws``, ``shares`` and ``norm`` as in ``forward``, and ``dnorm`` is there
    with that.
    """
    step += tl.load(base)
    place = place_of(geometry, HIDDEN, ROWS, UNITS, RAGGED)
    direction, b, unit, length, steps = place
    state_line = state_line_of(place, geometry)
    record = Record(dy, dcell_states, y, saved, initial)
    PRODUCTS: tl.constexpr = GATES if norm is not None else 0
    outside, kept, new, old, products = recorded(
        step, record, place, geometry, HIDDEN, KEPT, SAVED, PRODUCTS, RAGGED, PROJECTED
    )
    t = tl.where(direction == 0, steps - 1 - step, step)
    active = t < length
    mask = active[:, None] & (unit < HIDDEN)[None, :]
    at_state = state_line[:, None] * HIDDEN + unit[None, :]
    dstate = load_each(carried, at_state, mask)

    stays = what_stays(Zoneout(draws, shares), t, active, place, geometry, HIDDEN, RAGGED)
    through, past = parted(stays, add(dstate, outside))
    norms = norms_of(norm, place, HIDDEN, GATES, len(initial), ROWS)
    dgates_x, dgates_h, dold, doutput = CELL(kept, new, old, through, norms)
    dproducts = through_gates(dgates_h, products, norms, TOGETHER)
    row = row_at(t, place, geometry, RAGGED)
    line = line_of(row, place, geometry)
    at_gates = line[:, None] * (GATES * HIDDEN) + unit[None, :]
    if APART:
        store_planes(dgx + at_gates, dgates_x, mask, HIDDEN)
    store_planes(dgh + at_gates, dgates_h, mask, HIDDEN)
    if norm is not None:
        store_planes(dnorm.products + at_gates, dproducts, mask, HIDDEN)
        store_recorded(dnorm.output, doutput, row, mask, place, geometry, HIDDEN)
    at_step = state_line[:, None] * (GATES * HIDDEN) + unit[None, :]
    everywhere = (b < geometry.batch)[:, None] & (unit < HIDDEN)[None, :]
    store_planes(dgh_step + at_step, dproducts, everywhere, HIDDEN)  # no gradient, no gate gradients: zeros
    store_each(final, at_state, add(dold, past), mask)
