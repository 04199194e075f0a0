"""All time steps in one launch, the recurrent weights on chip: the resident and the cooperative regime.

A group of programs computes one direction for ``ROWS`` rows of the batch. Each program owns ``UNITS`` hidden units:
their recurrent weights stay on chip for all steps, their states in registers.

Resident: a group is one program, which owns all units. The hidden state never leaves it.

Cooperative: programs tell one another the hidden state as products take it (backward, the gate gradients) through the
kernel's outputs in global memory. Each step writes to a place of its own, so one barrier a step is enough: nobody
overwrites what another may still read. Backward every program gathers all gate gradients and forms the gradient of its
own units, so no atomic additions are needed and results are the same every time.

A launch goes from the states in ``carried`` to those in ``final``; ``counters`` [groups, LINE] of the barrier are zero
at first. With ``BARRIER`` off, a launch of several programs a group may do one step only. With ``norm`` a group is one
program.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .barrier import LINE, arrive, wait
from .layer_norm import normalised_gates, norms_of, through_gates
from .noise import Zoneout, mixed, parted, to_save, what_stays
from .tiles import (
    Place,
    Record,
    add,
    join_planes,
    line_of,
    load,
    load_each,
    load_planes,
    recorded,
    relayout,
    row_at,
    row_starts,
    select,
    split_planes,
    state_line_of,
    store,
    store_each,
    store_planes,
    store_recorded,
)


class Launch(NamedTuple):
    """The part of a layer that one launch does: all of it, unless the groups come in waves.

    Attributes:
        first_step: in the order of computation.
        last_step: the first that is not done.
    """

    first_group: Any
    first_step: Any
    last_step: Any


@triton.jit
def place_of(
    group,
    geometry,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """This program's."""
    direction = (group % geometry.directions).to(tl.int64)
    b = group // geometry.directions * ROWS + tl.arange(0, ROWS)
    if RAGGED:
        length = tl.load(geometry.lengths + b, mask=b < geometry.batch, other=0)
        steps = tl.max(length)
    else:
        length = tl.where(b < geometry.batch, geometry.steps, 0)
        steps = geometry.steps
    unit = tl.program_id(0) % PROGRAMS * UNITS + tl.arange(0, UNITS)
    return Place(direction, b, unit, length, steps)


@triton.jit
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
    geometry,
    launch,
    h_mask,
    draws,
    shares,
    norm,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    TOGETHER: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RAGGED: tl.constexpr,
    SAVE: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gx [N, D*G*H], w_hh [D, G*H, H], b_hh [D, G*H], states [D, B, H] to y [N, D*H], saved [D, N, S*H].

    ``h_mask``, ``draws``, ``shares`` and ``norm`` are constants None where there are none.
    """
    PROGRAMS: tl.constexpr = (HIDDEN + UNITS - 1) // UNITS
    CHUNKS: tl.constexpr = (HIDDEN + BLOCK_K - 1) // BLOCK_K
    PLANES: tl.constexpr = triton.next_power_of_2(GATES)
    group = launch.first_group + tl.program_id(0) // PROGRAMS
    place = place_of(group, geometry, ROWS, UNITS, PROGRAMS, RAGGED)
    direction, b, unit, length, steps = place
    zoneout = Zoneout(draws, shares)
    MASKED_IS_TOLD: tl.constexpr = PROGRAMS > 1 and h_mask is not None

    # One product for all gates, those of a unit side by side: they leave it in one thread and its neighbour.
    column = tl.arange(0, UNITS * PLANES)
    first_unit = tl.program_id(0) % PROGRAMS * UNITS
    gate_row = (direction * GATES + column % PLANES) * HIDDEN + first_unit + column // PLANES
    column_mask = (column % PLANES < GATES) & (first_unit + column // PLANES < HIDDEN)
    if norm is None:
        bias = tl.load(b_hh + gate_row, mask=column_mask, other=0).to(tl.float32)
    else:
        bias = tl.zeros([UNITS * PLANES], tl.float32)  # it follows the norm
    w = ()
    for chunk in tl.static_range(CHUNKS):
        k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
        w_mask = (k < HIDDEN)[:, None] & column_mask[None, :]
        w += (tl.load(w_hh + gate_row[None, :] * HIDDEN + k[:, None], mask=w_mask, other=0),)

    state_line = state_line_of(place, geometry)
    at_state = state_line[:, None] * HIDDEN + unit[None, :]
    state_mask = (b < geometry.batch)[:, None] & (unit < HIDDEN)[None, :]
    state = load_each(carried, at_state, state_mask)
    if h_mask is not None:
        factors = load(h_mask.factors + at_state, state_mask)
    told = h_mask.h if MASKED_IS_TOLD else y
    told_first = h_mask.initial if MASKED_IS_TOLD else initial[0]
    # Where h of the step before lies. Carried from step to step: computed in its step, the address would come after the
    # wait, 104 instructions in place of 34 between the last poll and the first load (sm_90).
    t = tl.where(direction == 0, launch.first_step - 1, steps - launch.first_step)
    begun = (launch.first_step > 0) & (t < length)
    line = line_of(row_at(t, place, geometry, RAGGED), place, geometry)
    h = tl.where(begun, told + line * HIDDEN, told_first + state_line * HIDDEN)

    for s in range(launch.first_step, tl.minimum(launch.last_step, steps)):
        t = tl.where(direction == 0, s, steps - 1 - s)
        active = t < length
        mask = active[:, None] & (unit < HIDDEN)[None, :]
        row = row_at(t, place, geometry, RAGGED)
        line = line_of(row, place, geometry)
        at_gates = line[:, None] * (GATES * HIDDEN) + unit[None, :]
        gates_x = load_planes(gx + at_gates, mask, HIDDEN, GATES)  # under way while others are waited for
        stays = what_stays(zoneout, t, active, place, geometry, HIDDEN, RAGGED)

        acc = tl.broadcast_to(bias[None, :], [ROWS, UNITS * PLANES])
        if PROGRAMS == 1:
            left = state[0]
            if h_mask is not None:
                left *= factors
            acc = tl.dot(left.to(w_hh.dtype.element_ty), w[0], acc, input_precision=PRECISION)
        else:
            if BARRIER:
                wait(counters + group * LINE, (s - launch.first_step) * PROGRAMS)
            for chunk in tl.static_range(CHUNKS):
                k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
                within = active[:, None] & (k < HIDDEN)[None, :]
                # Not from L1, which does not see what other multiprocessors store.
                h_k = tl.load(row_starts(h, HIDDEN) + k[None, :], mask=within, other=0, cache_modifier=".cg")
                acc = tl.dot(h_k, w[chunk], acc, input_precision=PRECISION)

        norms = norms_of(norm, place, HIDDEN, GATES, len(carried))
        products = split_planes(acc, PLANES)[:GATES]
        new, kept = CELL(gates_x, normalised_gates(products, norms, TOGETHER), state, norms)
        after = mixed(stays, state, new)
        if MASKED_IS_TOLD:
            store(told + line[:, None] * HIDDEN + unit[None, :], after[0] * factors, mask)
        else:
            store(y + line[:, None] * HIDDEN + unit[None, :], after[0], mask)
        if PROGRAMS > 1 and BARRIER:
            arrive(counters + group * LINE)
        if MASKED_IS_TOLD:
            store(y + line[:, None] * HIDDEN + unit[None, :], after[0], mask)
        if SAVE:
            values = to_save(stays, kept, new, after)
            if norm is not None:
                values += products
            store_recorded(saved, values, row, mask, place, geometry, HIDDEN)
        state = select(mask, after, state)
        h = tl.where(active, told + line * HIDDEN, h)

    store_each(final, at_state, state, state_mask)


@triton.jit
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
    geometry,
    launch,
    dcell_states,
    h_mask,
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
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    RAGGED: tl.constexpr,
    APART: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gate gradients [N, D*G*H] of all steps, and in ``final`` the gradients of the initial states.

    Steps are counted backward and there is one more than forward: the last takes the gradient to the initial state.
    ``APART``: the gradients of gx and gh differ; otherwise ``dgx`` is not written. ``dcell_states`` [D, N, H], of the
    cell's own state after each step, is a constant None where there are none. ``h_mask``, ``draws``, ``shares`` and
    ``norm`` as in ``forward``, and ``dnorm`` is there with that.
    """
    PROGRAMS: tl.constexpr = (HIDDEN + UNITS - 1) // UNITS
    CHUNK: tl.constexpr = SPLIT * BLOCK_K
    CHUNKS: tl.constexpr = (GATES * HIDDEN + CHUNK - 1) // CHUNK
    PLANES: tl.constexpr = triton.next_power_of_2(GATES)
    group = launch.first_group + tl.program_id(0) // PROGRAMS
    place = place_of(group, geometry, ROWS, UNITS, PROGRAMS, RAGGED)
    direction, b, unit, length, steps = place
    record = Record(dy, dcell_states, y, saved, initial)
    PRODUCTS: tl.constexpr = GATES if norm is not None else 0
    zoneout = Zoneout(draws, shares)

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

    state_line = state_line_of(place, geometry)
    at_state = state_line[:, None] * HIDDEN + unit[None, :]
    state_mask = (b < geometry.batch)[:, None] & (unit < HIDDEN)[None, :]
    dstate = load_each(carried, at_state, state_mask)
    if h_mask is not None:
        factors = load(h_mask.factors + at_state, state_mask)
    # The same place in memory as the gate gradients of the step before, for a program that need not read them there.
    dgates = tl.zeros([ROWS, UNITS * PLANES], w_hh.dtype.element_ty)
    upcoming = recorded(launch.first_step, record, place, geometry, HIDDEN, KEPT, SAVED, PRODUCTS, RAGGED)

    # Rows that had the step after, and where their gate gradients lie; carried for the same reason as h in forward.
    t = tl.where(direction == 0, steps - launch.first_step, launch.first_step - 1)
    followed = (launch.first_step > 0) & (t < length)
    line = line_of(row_at(t, place, geometry, RAGGED), place, geometry)
    dgh_after = dgh + line * (GATES * HIDDEN)

    for r in range(launch.first_step, tl.minimum(launch.last_step, steps + 1)):
        t = tl.where(direction == 0, steps - 1 - r, r)
        active = (r < steps) & (t < length)
        outside, kept, new, old, products = upcoming
        stays = what_stays(zoneout, t, active, place, geometry, HIDDEN, RAGGED)

        if PROGRAMS == 1:
            product = relayout(tl.dot(dgates, w[0], input_precision=PRECISION))
        else:
            if BARRIER:
                wait(counters + group * LINE, (r - launch.first_step) * PROGRAMS)
            acc = tl.zeros([SPLIT, ROWS, UNITS], tl.float32)
            for chunk in tl.static_range(CHUNKS):
                k_h = (chunk * CHUNK + part)[:, None, :]
                within = followed[None, :, None]
                if (chunk + 1) * CHUNK > GATES * HIDDEN:
                    within = followed[None, :, None] & (k_h < GATES * HIDDEN)
                dgh_k = tl.load(dgh_after[None, :, None] + k_h, mask=within, other=0, cache_modifier=".cg")
                acc = tl.dot(dgh_k, w[chunk], acc, input_precision=PRECISION)
            product = tl.sum(acc, 0)
        if h_mask is not None:
            product *= factors
        dstate = add(dstate, (product,))

        through, past = parted(stays, add(dstate, outside))
        norms = norms_of(norm, place, HIDDEN, GATES, len(carried))
        dgates_x, dgates_h, dold, doutput = CELL(kept, new, old, through, norms)
        dproducts = through_gates(dgates_h, products, norms, TOGETHER)
        mask = active[:, None] & (unit < HIDDEN)[None, :]
        row = row_at(t, place, geometry, RAGGED)
        line = line_of(row, place, geometry)
        at_gates = line[:, None] * (GATES * HIDDEN) + unit[None, :]
        store_planes(dgh + at_gates, dgates_h, mask, HIDDEN)
        if PROGRAMS > 1 and BARRIER:
            arrive(counters + group * LINE)
        if APART:
            store_planes(dgx + at_gates, dgates_x, mask, HIDDEN)
        if norm is not None:
            store_planes(dnorm.products + at_gates, dproducts, mask, HIDDEN)
            store_recorded(dnorm.output, doutput, row, mask, place, geometry, HIDDEN)
        if PROGRAMS == 1:
            dgates = tl.where(active[:, None], join_planes(dproducts, PLANES), 0).to(w_hh.dtype.element_ty)
        dstate = select(mask, add(dold, past), dstate)
        followed = active
        dgh_after = dgh + line * (GATES * HIDDEN)
        # Loaded a step ahead: they arrive while others are waited for. It also lets the arithmetic of the cell have the
        # layout of loads rather than of the product, 4 to 16 barriers of the block a step instead of 30 to 50 (sm_90).
        upcoming = recorded(r + 1, record, place, geometry, HIDDEN, KEPT, SAVED, PRODUCTS, RAGGED)

    store_each(final, at_state, dstate, state_mask)
