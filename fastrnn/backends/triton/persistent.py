"""The resident and the cooperative regime: one launch for all steps of a layer, or one for each wave of groups."""

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.launch import interpreted, launch
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.plans import Plan, Tile
from fastrnn.kernels.barrier import LINE
from fastrnn.kernels.persistent import Launch
from fastrnn.spec import CELLS

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel"]


def forward_kernel(cell: str, plan: Plan, hidden: int, dtype: torch.dtype, ragged: bool, save: bool) -> Kernel:
    assert plan.forward is not None
    constants = _constants(cell, plan.forward, plan, hidden, ragged)
    return _kernel("persistent_forward", cell, plan.forward, dtype, {**constants, "SAVE": save})


def backward_kernel(cell: str, plan: Plan, hidden: int, dtype: torch.dtype, ragged: bool) -> Kernel:
    assert plan.backward is not None
    constants = _constants(cell, plan.backward, plan, hidden, ragged)
    more = {"SPLIT": plan.backward.split, "APART": bool(CELLS[cell].apart)}
    return _kernel("persistent_backward", cell, plan.backward, dtype, {**constants, **more})


def _constants(cell: str, tile: Tile, plan: Plan, hidden: int, ragged: bool) -> dict[str, Any]:
    spec = CELLS[cell]
    return {
        "CELL": cell,
        "GATES": len(spec.gates),
        "KEPT": len(spec.kept),
        "HIDDEN": hidden,
        "ROWS": tile.rows,
        "UNITS": tile.units,
        "BLOCK_K": tile.block_k,
        "RAGGED": ragged,
        # The interpreter runs programs one after another: several of them take turns, one step a launch.
        "BARRIER": tile.programs > 1 and not interpreted,
        "PRECISION": plan.precision,
    }


def _kernel(name: str, cell: str, tile: Tile, dtype: torch.dtype, constants: dict[str, Any]) -> Kernel:
    states = len(CELLS[cell].states)
    return Kernel(name, dtype, states, tuple(constants.items()), tile.warps, cooperative=tile.programs > 1)


def forward(
    plan: Plan,
    cell: str,
    layout: Layout,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor,
    initial: tuple[Tensor, ...],
    y: Tensor,
    saved: Tensor,
) -> tuple[Tensor, ...]:
    """The time loop: fills ``y`` and ``saved``, returns the final states."""
    assert plan.forward is not None
    final = tuple([torch.empty_like(s) for s in initial])
    kernel = forward_kernel(cell, plan, initial[0].shape[-1], gx.dtype, layout.ragged, saved.shape[1] > 0)
    given = {"gx": gx, "w_hh": w_hh, "b_hh": b_hh, "initial": initial, "y": y, "saved": saved}
    _run(kernel, plan.forward, layout, given, initial, final, layout.steps)
    return final


def backward(
    plan: Plan,
    cell: str,
    layout: Layout,
    dy: Tensor,
    dfinal: tuple[Tensor, ...],
    w_hh: Tensor,
    y: Tensor,
    saved: Tensor,
    initial: tuple[Tensor, ...],
    dgx: Tensor,
    dgh: Tensor,
) -> tuple[Tensor, ...]:
    """The time loop backward: fills the gate gradients, returns those of the initial states."""
    assert plan.backward is not None
    dinitial = tuple([torch.empty_like(s) for s in initial])
    kernel = backward_kernel(cell, plan, initial[0].shape[-1], y.dtype, layout.ragged)
    given = {
        "dy": dy, "w_hh": w_hh, "y": y, "saved": saved, "initial": initial, "dgx": dgx, "dgh": dgh,
    }  # fmt: skip
    _run(kernel, plan.backward, layout, given, dfinal, dinitial, layout.steps + 1)
    return dinitial


def _run(
    kernel: Kernel,
    tile: Tile,
    layout: Layout,
    given: dict[str, Any],
    carried: tuple[Tensor, ...],
    final: tuple[Tensor, ...],
    steps: int,
) -> None:
    groups = layout.directions * -(-layout.batch // tile.rows)
    # The barrier's counters, one a group, are zeroed here once: every group runs in one launch only.
    counters = torch.zeros(groups * LINE.value, dtype=torch.int32, device=carried[0].device)
    given = {**given, "geometry": layout.geometry, "final": final}
    turns = [(s, s + 1) for s in range(steps)] if interpreted and tile.programs > 1 else [(0, steps)]
    for first_group in range(0, groups, tile.at_once):
        grid = (min(tile.at_once, groups - first_group) * tile.programs, 1)
        for first, last in turns:
            part = Launch(counters, first_group, first, last)
            states = carried if first == 0 else final
            launch(kernel, grid, {**given, "launch": part, "carried": states}, counters.device)
