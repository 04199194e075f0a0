"""The stepwise regime: the part of one step that is not a product. The recurrent product, and a projection, come
before.

Rows and times as in ``persistent``. A program has a tile of rows and units of one direction; nothing passes between
programs, so ``final`` may be ``carried``. The step done is ``step`` after the one in memory at ``base``: launches
that were captured in a graph move on when ``base`` does.
"""

import triton
import triton.language as tl

from .tiles import first_row, load_each, load_planes, recorded, store, store_each, store_planes, store_recorded

SIZES = ["batch", "rows", "steps", "row_t", "row_b", "directions", "step"]


@triton.jit
def place(batch, steps, lengths, HIDDEN: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, RAGGED: tl.constexpr):
    b = tl.program_id(0) // tl.cdiv(HIDDEN, UNITS) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(0) % tl.cdiv(HIDDEN, UNITS) * UNITS + tl.arange(0, UNITS)
    length = tl.where(b < batch, steps, 0) if not RAGGED else tl.load(lengths + b, mask=b < batch, other=0)
    return tl.program_id(1).to(tl.int64), b, unit, length


@triton.jit(do_not_specialize=SIZES)
def forward(
    gx,
    gh,
    carried,
    y,
    final,
    saved,
    offsets,
    lengths,
    base,
    batch,
    rows,
    steps,
    row_t,
    row_b,
    directions,
    step,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    KEPT: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    RAGGED: tl.constexpr,
    SAVE: tl.constexpr,
    PROJECTED: tl.constexpr,
):
    """gx [N, D*G*H], gh [D, B, G*H], states [D, B, H] to y [N, D*H], saved [D, N, S*H].

    ``PROJECTED``: the product of the hidden state comes after; y is not written, nor is h of rows without this step.
    """
    step += tl.load(base)
    direction, b, unit, length = place(batch, steps, lengths, HIDDEN, ROWS, UNITS, RAGGED)
    t = tl.where(direction == 0, step, steps - 1 - step)
    mask = (t < length)[:, None] & (unit < HIDDEN)[None, :]
    row = first_row(t, row_t, offsets, RAGGED) + b * row_b
    at_gates = (row * directions + direction)[:, None] * (GATES * HIDDEN) + unit[None, :]
    at_state = (direction * batch + b)[:, None] * HIDDEN + unit[None, :]

    gates_x = load_planes(gx + at_gates, mask, HIDDEN, GATES)
    gates_h = load_planes(gh + (direction * batch + b)[:, None] * (GATES * HIDDEN) + unit[None, :], mask, HIDDEN, GATES)
    new, kept = CELL(gates_x, gates_h, load_each(carried, at_state, mask))
    store_each(final, at_state, new, mask)
    if not PROJECTED:
        store(y + (row * directions + direction)[:, None] * HIDDEN + unit[None, :], new[0], mask)
    if SAVE:
        store_recorded(saved, kept, new, row, unit, mask, direction, rows, HIDDEN)


@triton.jit(do_not_specialize=SIZES)
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
    offsets,
    lengths,
    base,
    batch,
    rows,
    steps,
    row_t,
    row_b,
    directions,
    step,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    KEPT: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    RAGGED: tl.constexpr,
    APART: tl.constexpr,
    PROJECTED: tl.constexpr,
):
    """Gate gradients of one step, to their rows in dgx and dgh [N, D*G*H] and, for the product, to dgh_step [D, B,
    G*H].

    Rows without this step get zeros in dgh_step and keep their dstate. Without ``APART`` dgh is not written.
    ``PROJECTED``: h in ``carried`` is the whole gradient of the hidden state, dy included.
    """
    step += tl.load(base)
    direction, b, unit, length = place(batch, steps, lengths, HIDDEN, ROWS, UNITS, RAGGED)
    state_row = direction * batch + b
    dy_t, kept, new, old = recorded(
        step, steps, length, b, unit, dy, y, saved, initial, offsets,
        rows, row_t, row_b, state_row, direction, directions, HIDDEN, KEPT, RAGGED, PROJECTED,
    )  # fmt: skip
    t = tl.where(direction == 0, steps - 1 - step, step)
    mask = (t < length)[:, None] & (unit < HIDDEN)[None, :]
    at_state = state_row[:, None] * HIDDEN + unit[None, :]
    dstate = load_each(carried, at_state, mask)

    dgates_x, dgates_h, dold = CELL(kept, new, old, (dstate[0] + dy_t,) + dstate[1:])
    row = first_row(t, row_t, offsets, RAGGED) + b * row_b
    at_gates = (row * directions + direction)[:, None] * (GATES * HIDDEN) + unit[None, :]
    store_planes(dgx + at_gates, dgates_x, mask, HIDDEN)
    if APART:
        store_planes(dgh + at_gates, dgates_h, mask, HIDDEN)
    at_step = state_row[:, None] * (GATES * HIDDEN) + unit[None, :]
    everywhere = (b < batch)[:, None] & (unit < HIDDEN)[None, :]
    store_planes(dgh_step + at_step, dgates_h, everywhere, HIDDEN)  # no gradient, no gate gradients: zeros
    store_each(final, at_state, dold, mask)
