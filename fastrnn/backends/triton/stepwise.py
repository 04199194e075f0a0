"""The stepwise regime: for each step a product by PyTorch and a pointwise kernel, for sizes and types of any kind."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends.triton.graph import can_capture, capture
from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.launch import launch
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.noise import PLAIN, NoiseKind
from fastrnn.backends.triton.tensors import BackwardTensors, ForwardTensors, Weights
from fastrnn.spec import LayerSpec

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel"]

_TILE = 1024  # elements of a program's, unless one row of a normalised layer has more
_TO_A_THREAD = 8  # of these, as far as warps go
_MOST_WARPS = 8  # whose threads may have 255 registers each, the most that ``build.py`` asks for
_GRAPH_STEPS = 16
_FEWEST_GRAPHS = 2  # a graph that is replayed once costs more than it saves
_OF_KERNELS = ("draws", "shares")  # of the noise; a mask belongs to the product

Step = Callable[[dict[str, Any], list[int]], None]


def forward_kernel(
    spec: LayerSpec, hidden: int, dtype: torch.dtype, ragged: bool, save: bool, noise: NoiseKind = PLAIN
) -> Kernel:
    constants: dict[str, Any] = {"RAGGED": ragged, "SAVE": save, **noise.constants(_OF_KERNELS)}
    return _kernel("pointwise_forward", spec, hidden, dtype, **constants, PROJECTED=spec.projected)


def backward_kernel(
    spec: LayerSpec, hidden: int, dtype: torch.dtype, ragged: bool, every_state: bool, noise: NoiseKind = PLAIN
) -> Kernel:
    facts = spec.facts
    constants: dict[str, Any] = {"KEPT": len(facts.kept), "SAVED": facts.saved_values(noise.zoneout, False)}
    constants |= {"RAGGED": ragged, "APART": bool(facts.apart), **noise.constants(_OF_KERNELS)}
    if not every_state:
        constants["dcell_states"] = None
    if not spec.layer_norm:
        constants["dnorm"] = None
    return _kernel("pointwise_backward", spec, hidden, dtype, **constants, PROJECTED=spec.projected)


def _kernel(name: str, spec: LayerSpec, hidden: int, dtype: torch.dtype, **others: Any) -> Kernel:
    units = max(16, 1 << (hidden - 1).bit_length())
    if not spec.layer_norm:  # for which a program has all units of its rows
        units = min(256, units)
    rows = max(1, _TILE // units)
    constants = {
        "CELL": spec.cell,
        "GATES": len(spec.facts.gates),
        "TOGETHER": spec.facts.normalised,
        "HIDDEN": hidden,
        "ROWS": rows,
        "UNITS": units,
        **others,
    }
    if not spec.layer_norm:
        constants["norm"] = None
    warps = min(_MOST_WARPS, rows * units // (32 * _TO_A_THREAD))
    return Kernel(name, dtype, len(spec.facts.states), tuple(constants.items()), warps)


def _grid(kernel: Kernel, layout: Layout) -> tuple[int, int]:
    constants = dict(kernel.constants)
    tiles = -(-layout.batch // constants["ROWS"]) * -(-constants["HIDDEN"] // constants["UNITS"])
    return tiles, layout.directions


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def forward(spec: LayerSpec, layout: Layout, weights: Weights, tensors: ForwardTensors) -> tuple[Tensor, ...]:
    """The time loop; returns the final states."""
    w_hh, w_hr, gx = weights.w_hh, weights.w_hr, tensors.gx
    noise = tensors.noise
    kernel = forward_kernel(spec, weights.hidden, gx.dtype, layout.ragged, tensors.save, noise.kind)
    h, *others = (s.clone() for s in tensors.initial)
    others = [s.to(_wide(s.dtype)) for s in others]
    cell_h = h if w_hr is None else h.new_empty(*h.shape[:2], weights.hidden)
    gh = gx.new_empty(layout.directions, layout.batch, w_hh.shape[1])
    states = (cell_h, *others)
    grid = _grid(kernel, layout)
    given = {**vars(tensors), **noise._asdict(), "geometry": layout.geometry, "norm": weights.norm}
    given |= {"gh": gh, "carried": states, "final": states}
    masked = h if noise.h_mask is None else torch.empty_like(h)

    def one_step(position: dict[str, Any], actives: list[int]) -> None:
        n = max(actives)
        if noise.h_mask is not None:
            torch.mul(h[:, :n], noise.h_mask[:, :n], out=masked[:, :n])
        if weights.norm is None:
            torch.baddbmm(weights.b_hh.unsqueeze(1), masked[:, :n], w_hh.transpose(1, 2), out=gh[:, :n])
        else:
            torch.bmm(masked[:, :n], w_hh.transpose(1, 2), out=gh[:, :n])
        launch(kernel, grid, {**given, **position}, gx.device)
        if w_hr is not None:
            for d, active in enumerate(actives):
                before, having = h[d, :active], layout.having(d, position["step"])
                after = torch.mm(cell_h[d, :active], w_hr[d].t(), out=before if having is None else None)
                if having is not None:
                    _put(before, after, having)
                _put(_rows(tensors.y, layout, d, position["step"]), after, having)

    _run(one_step, layout, [layout.actives(step) for step in range(layout.steps)], w_hr is None, gx.device)
    return h, *(s.to(h.dtype) for s in others)


def backward(spec: LayerSpec, layout: Layout, weights: Weights, tensors: BackwardTensors) -> tuple[Tensor, ...]:
    """The time loop backward; returns the gradients of the initial states."""
    w_hh, w_hr, dgh, dprojected = weights.w_hh, weights.w_hr, tensors.dgh, tensors.dprojected
    dy = tensors.dy if w_hr is None else layout.without_padding(tensors.dy)
    noise = tensors.noise
    kernel = backward_kernel(spec, weights.hidden, dgh.dtype, layout.ragged, tensors.every_state, noise.kind)
    dh, *others = (s.clone() for s in tensors.dfinal)
    others = [s.to(_wide(s.dtype)) for s in others]
    cell_dh = dh if w_hr is None else dh.new_empty(*dh.shape[:2], weights.hidden)
    dgh_step = dgh.new_empty(layout.directions, layout.batch, w_hh.shape[1])
    dstates = (cell_dh, *others)
    grid = _grid(kernel, layout)
    given = {**vars(tensors), **noise._asdict(), "geometry": layout.geometry, "norm": weights.norm}
    given |= {"dgh_step": dgh_step, "carried": dstates, "final": dstates}
    unmasked = dh if noise.h_mask is None else torch.empty_like(dh)

    def one_step(position: dict[str, Any], actives: list[int]) -> None:
        n = max(actives)
        if w_hr is not None and dprojected is not None:
            step = layout.steps - 1 - position["step"]
            for d, active in enumerate(actives):
                dh_d, having = dh[d, :active], layout.having(d, step)
                dh_d += _rows(dy, layout, d, step)
                _put(_rows(dprojected, layout, d, step), dh_d, having)
                torch.mm(dh_d, w_hr[d], out=cell_dh[d, :active])
                dh_d.masked_fill_(having, 0) if having is not None else dh_d.zero_()
        launch(kernel, grid, {**given, **position}, dgh.device)
        if noise.h_mask is None:
            dh[:, :n].baddbmm_(dgh_step[:, :n], w_hh)
        else:
            torch.bmm(dgh_step[:, :n], w_hh, out=unmasked[:, :n])
            dh[:, :n].addcmul_(unmasked[:, :n], noise.h_mask[:, :n])

    _run(one_step, layout, [layout.actives(step) for step in reversed(range(layout.steps))], w_hr is None, dgh.device)
    return dh, *(s.to(dh.dtype) for s in others)


def _run(one_step: Step, layout: Layout, actives: list[list[int]], movable: bool, device: torch.device) -> None:
    """All steps, one after another: at first each launched from here, then many at once in a graph.

    Launching a product and a kernel from Python takes longer than most of them run. A graph of
    ``_GRAPH_STEPS`` steps is captured in each call, so it keeps nothing alive and no address can be stale.
    ``movable``: no address but those of rows depends on the step, and those the kernel finds by itself.
    """
    base = torch.zeros(1, dtype=torch.int32, device=device)
    graphs = (layout.steps - _GRAPH_STEPS) // _GRAPH_STEPS if movable and can_capture(device) else 0
    eager = layout.steps if graphs < _FEWEST_GRAPHS else layout.steps - graphs * _GRAPH_STEPS
    everyone = [layout.batch] * layout.directions  # rows without a step are left alone

    def last_eager_step() -> None:
        base.fill_(eager - 1)
        one_step({"base": base, "step": 0}, everyone)
        base.add_(1)

    def many_steps() -> None:
        for step in range(_GRAPH_STEPS):
            one_step({"base": base, "step": step}, everyone)
        base.add_(_GRAPH_STEPS)

    if eager == layout.steps:
        for step in range(eager):
            one_step({"base": base, "step": step}, actives[step])
        return
    for step in range(eager - 1):
        one_step({"base": base, "step": step}, actives[step])
    replay = capture(last_eager_step, many_steps, device)
    for _ in range(graphs):
        replay()


def _put(target: Tensor, rows: Tensor, having: Tensor | None) -> None:
    """The rows that have the step, None for all."""
    target.copy_(rows if having is None else torch.where(having, rows, target))


def _rows(buffer: Tensor, layout: Layout, direction: int, step: int) -> Tensor:
    """One direction's part [active, width] of [N, D*width] at a step of forward."""
    t = layout.time(direction, step)
    width = buffer.shape[1] // layout.directions
    first = layout.starts[t] if layout.starts else t * layout.batch
    rows = buffer[first : first + layout.active(t)]
    return rows[:, direction * width : (direction + 1) * width]
