"""All time steps in one launch, the recurrent weights on chip: the resident and the cooperative regime.

A group of programs computes one direction for ``ROWS`` rows of the batch. Each program owns ``UNITS`` hidden units:
their recurrent weights stay on chip for all steps, their states in registers.

Resident: a group is one program, which owns all units. The hidden state never leaves it.

Cooperative: programs tell one another the hidden state (backward, the gate gradients) through the kernel's outputs in
global memory. Each step writes to a place of its own, so one barrier a step is enough: nobody overwrites what another
may still read. Backward every program gathers all gate gradients and forms the gradient of its own units, so no
atomic additions are needed and results are the same every time.

Steps ``first_step`` to ``last_step`` in the order of computation are done, from the states in ``carried`` to those in
``final``; a whole layer is one launch. With ``BARRIER`` off, a launch of several programs a group may do one step only.
"""

import triton
import triton.language as tl

from .barrier import LINE, arrive, wait
from .tiles import (
    first_row,
    join_planes,
    load_each,
    load_planes,
    recorded,
    relayout,
    select,
    split_planes,
    store,
    store_each,
    store_planes,
    store_recorded,
)

# Whether a size is 1 or a multiple of 16 makes no new kernel: those that were compiled ahead of time serve every size.
SIZES = ["batch", "rows", "steps", "row_t", "row_b", "directions", "first_group", "first_step", "last_step"]


@triton.jit
def place(
    first_group, directions, batch, steps, lengths, ROWS: tl.constexpr, PROGRAMS: tl.constexpr, RAGGED: tl.constexpr
):
    """This program's group and direction, its rows of the batch with their lengths, and the steps of the group."""
    group = first_group + tl.program_id(0) // PROGRAMS
    direction = (group % directions).to(tl.int64)
    b = group // directions * ROWS + tl.arange(0, ROWS)
    if RAGGED:
        length = tl.load(lengths + b, mask=b < batch, other=0)
        return group, direction, b, length, tl.max(length)
    else:
        return group, direction, b, tl.where(b < batch, steps, 0), steps


@triton.jit(do_not_specialize=SIZES)
def forward(
    gx,
    w_hh,
    b_hh,
    initial,
    carried,
    y,
    final,
    saved,
    counters,
    offsets,
    lengths,
    batch,
    rows,
    steps,
    row_t,
    row_b,
    directions,
    first_group,
    first_step,
    last_step,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    KEPT: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RAGGED: tl.constexpr,
    SAVE: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gx [N, D*G*H], w_hh [D, G*H, H], b_hh [D, G*H], states [D, B, H] to y [N, D*H], saved [D, N, S*H]."""
    PROGRAMS: tl.constexpr = (HIDDEN + UNITS - 1) // UNITS
    CHUNKS: tl.constexpr = (HIDDEN + BLOCK_K - 1) // BLOCK_K
    PLANES: tl.constexpr = 1 if GATES == 1 else 4
    group, direction, b, length, steps = place(first_group, directions, batch, steps, lengths, ROWS, PROGRAMS, RAGGED)
    first_unit = tl.program_id(0) % PROGRAMS * UNITS
    unit = first_unit + tl.arange(0, UNITS)

    # One product for all gates, those of a unit side by side: they leave it in one thread and its neighbour.
    column = tl.arange(0, UNITS * PLANES)
    gate_row = (direction * GATES + column % PLANES) * HIDDEN + first_unit + column // PLANES
    column_mask = (column % PLANES < GATES) & (first_unit + column // PLANES < HIDDEN)
    bias = tl.load(b_hh + gate_row, mask=column_mask, other=0).to(tl.float32)
    w = ()
    for chunk in tl.static_range(CHUNKS):
        k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
        w_mask = (k < HIDDEN)[:, None] & column_mask[None, :]
        w += (tl.load(w_hh + gate_row[None, :] * HIDDEN + k[:, None], mask=w_mask, other=0),)

    state_row = direction * batch + b
    at_state = state_row[:, None] * HIDDEN + unit[None, :]
    state_mask = (b < batch)[:, None] & (unit < HIDDEN)[None, :]
    state = load_each(carried, at_state, state_mask)
    # Where h of the step before lies. Carried from step to step: computed in its step, the address would come after the
    # wait, 104 instructions in place of 34 between the last poll and the first load (sm_90).
    t = tl.where(direction == 0, first_step - 1, steps - first_step)
    begun = (first_step > 0) & (t < length)
    row = first_row(t, row_t, offsets, RAGGED) + b * row_b
    h = tl.where(begun, y + (row * directions + direction) * HIDDEN, initial[0] + state_row * HIDDEN)

    for s in range(first_step, tl.minimum(last_step, steps)):
        t = tl.where(direction == 0, s, steps - 1 - s)
        active = t < length
        mask = active[:, None] & (unit < HIDDEN)[None, :]
        row = first_row(t, row_t, offsets, RAGGED) + b * row_b
        at_gates = (row * directions + direction)[:, None] * (GATES * HIDDEN) + unit[None, :]
        gates_x = load_planes(gx + at_gates, mask, HIDDEN, GATES)  # under way while others are waited for

        acc = tl.broadcast_to(bias[None, :], [ROWS, UNITS * PLANES])
        if PROGRAMS == 1:
            acc = tl.dot(state[0].to(w_hh.dtype.element_ty), w[0], acc, input_precision=PRECISION)
        else:
            if BARRIER:
                wait(counters + group * LINE, (s - first_step) * PROGRAMS)
            for chunk in tl.static_range(CHUNKS):
                k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
                h_mask = active[:, None] & (k < HIDDEN)[None, :]
                # Not from L1, which does not see what other multiprocessors store.
                h_k = tl.load(h[:, None] + k[None, :], mask=h_mask, other=0, cache_modifier=".cg")
                acc = tl.dot(h_k, w[chunk], acc, input_precision=PRECISION)

        new, kept = CELL(gates_x, split_planes(acc, PLANES), state)
        store(y + (row * directions + direction)[:, None] * HIDDEN + unit[None, :], new[0], mask)
        if PROGRAMS > 1 and BARRIER:
            arrive(counters + group * LINE)
        if SAVE:
            store_recorded(saved, kept, new, row, unit, mask, direction, rows, HIDDEN)
        state = select(mask, new, state)
        h = tl.where(active, y + (row * directions + direction) * HIDDEN, h)

    store_each(final, at_state, state, state_mask)


@triton.jit(do_not_specialize=SIZES)
def backward(
    dy,
    w_hh,
    y,
    saved,
    initial,
    carried,
    dgx,
    dgh,
    final,
    counters,
    offsets,
    lengths,
    batch,
    rows,
    steps,
    row_t,
    row_b,
    directions,
    first_group,
    first_step,
    last_step,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    KEPT: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    RAGGED: tl.constexpr,
    APART: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gate gradients [N, D*G*H] of all steps, and in ``final`` the gradients of the initial states.

    Steps are counted backward and there is one more than forward: the last takes the gradient to the initial state.
    ``APART``: the gradients of gx and gh differ; otherwise ``dgx`` is not written.
    """
    PROGRAMS: tl.constexpr = (HIDDEN + UNITS - 1) // UNITS
    CHUNK: tl.constexpr = SPLIT * BLOCK_K
    CHUNKS: tl.constexpr = (GATES * HIDDEN + CHUNK - 1) // CHUNK
    PLANES: tl.constexpr = 1 if GATES == 1 else 4
    group, direction, b, length, steps = place(first_group, directions, batch, steps, lengths, ROWS, PROGRAMS, RAGGED)
    unit = tl.program_id(0) % PROGRAMS * UNITS + tl.arange(0, UNITS)

    part = tl.arange(0, SPLIT)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    w = ()
    if PROGRAMS == 1:
        row_w = tl.arange(0, UNITS * PLANES)
        gate_row = (direction * GATES + row_w % PLANES) * HIDDEN + row_w // PLANES
        w_mask = ((row_w % PLANES < GATES) & (row_w // PLANES < HIDDEN))[:, None] & (unit < HIDDEN)[None, :]
        w += (tl.load(w_hh + gate_row[:, None] * HIDDEN + unit[None, :], mask=w_mask, other=0),)
    else:
        # The product runs over all gates of all units and has few columns. So that warps do not repeat one another,
        # each takes a part of the sum: the first dimension of a batched product.
        for chunk in tl.static_range(CHUNKS):
            k_w = (chunk * CHUNK + part)[:, :, None]
            w_mask = (k_w < GATES * HIDDEN) & (unit < HIDDEN)[None, None, :]
            w += (
                tl.load(w_hh + (direction * GATES * HIDDEN + k_w) * HIDDEN + unit[None, None, :], mask=w_mask, other=0),
            )

    state_row = direction * batch + b
    at_state = state_row[:, None] * HIDDEN + unit[None, :]
    state_mask = (b < batch)[:, None] & (unit < HIDDEN)[None, :]
    dstate = load_each(carried, at_state, state_mask)
    # The same place in memory as the gate gradients of the step before, for a program that need not read them there.
    dgates = tl.zeros([ROWS, UNITS * PLANES], w_hh.dtype.element_ty)
    upcoming = recorded(
        first_step, steps, length, b, unit, dy, y, saved, initial, offsets,
        rows, row_t, row_b, state_row, direction, directions, HIDDEN, KEPT, RAGGED,
    )  # fmt: skip

    # Rows that had the step after, and where their gate gradients lie; carried for the same reason as h in forward.
    t = tl.where(direction == 0, steps - first_step, first_step - 1)
    followed = (first_step > 0) & (t < length)
    row = first_row(t, row_t, offsets, RAGGED) + b * row_b
    dgh_after = dgh + (row * directions + direction) * (GATES * HIDDEN)

    for r in range(first_step, tl.minimum(last_step, steps + 1)):
        t = tl.where(direction == 0, steps - 1 - r, r)
        active = (r < steps) & (t < length)
        dy_t, kept, new, old = upcoming

        dh = dstate[0]
        if PROGRAMS == 1:
            dh += relayout(tl.dot(dgates, w[0], input_precision=PRECISION))
        else:
            if BARRIER:
                wait(counters + group * LINE, (r - first_step) * PROGRAMS)
            acc = tl.zeros([SPLIT, ROWS, UNITS], tl.float32)
            for chunk in tl.static_range(CHUNKS):
                k_h = (chunk * CHUNK + part)[:, None, :]
                h_mask = followed[None, :, None]
                if (chunk + 1) * CHUNK > GATES * HIDDEN:
                    h_mask = followed[None, :, None] & (k_h < GATES * HIDDEN)
                dgh_k = tl.load(dgh_after[None, :, None] + k_h, mask=h_mask, other=0, cache_modifier=".cg")
                acc = tl.dot(dgh_k, w[chunk], acc, input_precision=PRECISION)
            dh += tl.sum(acc, 0)
        dstate = (dh,) + dstate[1:]

        dgates_x, dgates_h, dold = CELL(kept, new, old, (dh + dy_t,) + dstate[1:])
        mask = active[:, None] & (unit < HIDDEN)[None, :]
        row = first_row(t, row_t, offsets, RAGGED) + b * row_b
        at_gates = (row * directions + direction)[:, None] * (GATES * HIDDEN) + unit[None, :]
        store_planes(dgh + at_gates, dgates_h, mask, HIDDEN)
        if PROGRAMS > 1 and BARRIER:
            arrive(counters + group * LINE)
        if APART:
            store_planes(dgx + at_gates, dgates_x, mask, HIDDEN)
        if PROGRAMS == 1:
            dgates = tl.where(active[:, None], join_planes(dgates_h, PLANES), 0).to(w_hh.dtype.element_ty)
        dstate = select(mask, dold, dstate)
        followed = active
        dgh_after = dgh + (row * directions + direction) * (GATES * HIDDEN)
        # Loaded a step ahead: they arrive while others are waited for. It also lets the arithmetic of the cell have the
        # layout of loads rather than of the product, 4 to 16 barriers of the block a step instead of 30 to 50 (sm_90).
        upcoming = recorded(
            r + 1, steps, length, b, unit, dy, y, saved, initial, offsets,
            rows, row_t, row_b, state_row, direction, directions, HIDDEN, KEPT, RAGGED,
        )  # fmt: skip

    store_each(final, at_state, dstate, state_mask)
