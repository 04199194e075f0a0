"""The stepwise regime: for each step a product by PyTorch and a pointwise kernel, for sizes and types of any kind."""

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.launch import launch
from fastrnn.spec import CELLS

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel"]

# Elements of a program's tile: 8 to a thread of 4 warps.
_TILE = 1024


def forward_kernel(cell: str, hidden: int, dtype: torch.dtype, ragged: bool, save: bool, projected: bool) -> Kernel:
    return _kernel("pointwise_forward", cell, hidden, dtype, RAGGED=ragged, SAVE=save, PROJECTED=projected)


def backward_kernel(cell: str, hidden: int, dtype: torch.dtype, ragged: bool, projected: bool) -> Kernel:
    apart = CELLS[cell].apart
    return _kernel("pointwise_backward", cell, hidden, dtype, RAGGED=ragged, APART=apart, PROJECTED=projected)


def _kernel(name: str, cell: str, hidden: int, dtype: torch.dtype, **constants: Any) -> Kernel:
    spec = CELLS[cell]
    units = min(256, max(16, 1 << (hidden - 1).bit_length()))
    constants = {
        "CELL": cell,
        "GATES": len(spec.gates),
        "KEPT": spec.kept,
        "HIDDEN": hidden,
        "ROWS": _TILE // units,
        "UNITS": units,
        **constants,
    }
    return Kernel(name, dtype, len(spec.states), tuple(constants.items()), warps=4)


def _grid(kernel: Kernel, layout: Layout) -> tuple[int, int]:
    constants = dict(kernel.constants)
    tiles = -(-layout.batch // constants["ROWS"]) * -(-constants["HIDDEN"] // constants["UNITS"])
    return tiles, layout.directions


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def forward(
    cell: str,
    layout: Layout,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor,
    w_hr: Tensor | None,
    initial: tuple[Tensor, ...],
    y: Tensor,
    saved: Tensor,
) -> tuple[Tensor, ...]:
    """Fills ``y`` [N, D*P] and ``saved``, returns the final states. ``w_hr`` [D, P, H] projects the hidden state."""
    hidden = w_hh.shape[1] // len(CELLS[cell].gates)
    kernel = forward_kernel(cell, hidden, gx.dtype, layout.ragged, saved.shape[1] > 0, w_hr is not None)
    h, *others = (s.clone() for s in initial)
    others = [s.to(_wide(s.dtype)) for s in others]
    cell_h = h if w_hr is None else h.new_empty(*h.shape[:2], hidden)
    gh = gx.new_empty(layout.directions, layout.batch, w_hh.shape[1])
    states = (cell_h, *others)
    given = {"gx": gx, "gh": gh, "carried": states, "final": states, "y": y, "saved": saved, **layout.arguments()}
    for step in range(layout.steps):
        actives = [layout.active(layout.time(d, step)) for d in range(layout.directions)]
        n = max(actives)
        torch.baddbmm(b_hh.unsqueeze(1), h[:, :n], w_hh.transpose(1, 2), out=gh[:, :n])
        launch(kernel, _grid(kernel, layout), {**given, "step": step}, gx.device)
        if w_hr is not None:
            for d, active in enumerate(actives):
                torch.mm(cell_h[d, :active], w_hr[d].t(), out=h[d, :active])
                _rows(y, layout, d, step).copy_(h[d, :active])
    return h, *(s.to(h.dtype) for s in others)


def backward(
    cell: str,
    layout: Layout,
    dy: Tensor,
    dfinal: tuple[Tensor, ...],
    w_hh: Tensor,
    w_hr: Tensor | None,
    y: Tensor,
    saved: Tensor,
    initial: tuple[Tensor, ...],
    dgx: Tensor,
    dgh: Tensor,
    dprojected: Tensor | None,
) -> tuple[Tensor, ...]:
    """Fills the gate gradients and, with a projection, the gradients of its results [N, D*P]; returns those of initial."""
    hidden = w_hh.shape[1] // len(CELLS[cell].gates)
    kernel = backward_kernel(cell, hidden, y.dtype, layout.ragged, w_hr is not None)
    dh, *others = (s.clone() for s in dfinal)
    others = [s.to(_wide(s.dtype)) for s in others]
    cell_dh = dh if w_hr is None else dh.new_empty(*dh.shape[:2], hidden)
    dgh_step = dgx.new_empty(layout.directions, layout.batch, w_hh.shape[1])
    dstates = (cell_dh, *others)
    given = {
        "dy": dy, "y": y, "saved": saved, "initial": initial, "carried": dstates, "final": dstates,
        "dgx": dgx, "dgh": dgh, "dgh_step": dgh_step, **layout.arguments(),
    }  # fmt: skip
    for step in range(layout.steps):
        actives = [layout.active(layout.time(d, layout.steps - 1 - step)) for d in range(layout.directions)]
        n = max(actives)
        if w_hr is not None and dprojected is not None:
            for d, active in enumerate(actives):
                dh[d, :active] += _rows(dy, layout, d, layout.steps - 1 - step)
                _rows(dprojected, layout, d, layout.steps - 1 - step).copy_(dh[d, :active])
                torch.mm(dh[d, :active], w_hr[d], out=cell_dh[d, :active])
                dh[d, :active] = 0
        launch(kernel, _grid(kernel, layout), {**given, "step": step}, dgx.device)
        dh[:, :n].baddbmm_(dgh_step[:, :n], w_hh)
    return dh, *(s.to(dh.dtype) for s in others)


def _rows(buffer: Tensor, layout: Layout, direction: int, step: int) -> Tensor:
    """One direction's part [active, width] of [N, D*width] at a step of forward."""
    t = layout.time(direction, step)
    width = buffer.shape[1] // layout.directions
    first = layout.starts[t] if layout.starts else t * layout.row_t
    rows = buffer[first :: layout.row_b][: layout.active(t)]
    return rows[:, direction * width : (direction + 1) * width]
