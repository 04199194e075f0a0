"""The resident and the cooperative regime: one launch for all steps of a layer, or one for each wave of groups."""

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends.triton.kernel import Kernel
from fastrnn.backends.triton.launch import interpreted, launch
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.noise import PLAIN, NoiseKind
from fastrnn.backends.triton.plans import Plan, Tile
from fastrnn.backends.triton.tensors import BackwardTensors, ForwardTensors, Weights
from fastrnn.kernels.barrier import LINE
from fastrnn.kernels.noise import Mask
from fastrnn.kernels.persistent import Launch
from fastrnn.spec import LayerSpec

__all__ = ["backward", "backward_kernel", "forward", "forward_kernel"]


def forward_kernel(
    spec: LayerSpec, plan: Plan, hidden: int, dtype: torch.dtype, ragged: bool, save: bool, noise: NoiseKind = PLAIN
) -> Kernel:
    assert plan.forward is not None
    constants = _constants(spec, plan, plan.forward, hidden, ragged, noise)
    return _kernel("persistent_forward", spec, plan.forward, dtype, {**constants, "SAVE": save})


def backward_kernel(
    spec: LayerSpec,
    plan: Plan,
    hidden: int,
    dtype: torch.dtype,
    ragged: bool,
    every_state: bool,
    noise: NoiseKind = PLAIN,
) -> Kernel:
    assert plan.backward is not None
    constants = _constants(spec, plan, plan.backward, hidden, ragged, noise)
    facts = spec.facts
    more: dict[str, Any] = {"KEPT": len(facts.kept), "SAVED": facts.saved_values(noise.zoneout, False)}
    more |= {"SPLIT": plan.backward.split, "APART": bool(facts.apart)}
    if not every_state:
        more["dcell_states"] = None
    if not spec.layer_norm:
        more["dnorm"] = None
    return _kernel("persistent_backward", spec, plan.backward, dtype, {**constants, **more})


def _constants(spec: LayerSpec, plan: Plan, tile: Tile, hidden: int, ragged: bool, noise: NoiseKind) -> dict[str, Any]:
    constants = {
        "CELL": spec.cell,
        "GATES": len(spec.facts.gates),
        "TOGETHER": spec.facts.normalised,
        "HIDDEN": hidden,
        "ROWS": tile.rows,
        "UNITS": tile.units,
        "BLOCK_K": tile.block_k,
        "RAGGED": ragged,
        # The interpreter runs programs one after another: several of them take turns, one step a launch.
        "BARRIER": tile.programs > 1 and not interpreted,
        "PRECISION": plan.precision,
        **noise.constants(),
    }
    return constants if spec.layer_norm else {**constants, "norm": None}


def _kernel(name: str, spec: LayerSpec, tile: Tile, dtype: torch.dtype, constants: dict[str, Any]) -> Kernel:
    states = len(spec.facts.states)
    return Kernel(name, dtype, states, tuple(constants.items()), tile.warps, cooperative=tile.programs > 1)


def forward(
    plan: Plan, spec: LayerSpec, layout: Layout, weights: Weights, tensors: ForwardTensors
) -> tuple[Tensor, ...]:
    """The time loop; returns the final states."""
    assert plan.forward is not None
    kernel = forward_kernel(
        spec, plan, weights.hidden, tensors.gx.dtype, layout.ragged, tensors.save, tensors.noise.kind
    )
    given = {**vars(weights), **vars(tensors), **tensors.noise._asdict(), "carried": tensors.initial}
    if (factors := tensors.noise.h_mask) is not None:
        told = plan.forward.programs > 1
        of_initial, of_steps = (tensors.initial[0] * factors, torch.empty_like(tensors.y)) if told else (None, None)
        given["h_mask"] = Mask(factors, of_initial, of_steps)
    return _run(kernel, plan.forward, layout, given, layout.steps)


def backward(
    plan: Plan, spec: LayerSpec, layout: Layout, weights: Weights, tensors: BackwardTensors
) -> tuple[Tensor, ...]:
    """The time loop backward; returns the gradients of the initial states."""
    assert plan.backward is not None
    dtype, noise = tensors.y.dtype, tensors.noise
    kernel = backward_kernel(spec, plan, weights.hidden, dtype, layout.ragged, tensors.every_state, noise.kind)
    given = {**vars(weights), **vars(tensors), **noise._asdict(), "carried": tensors.dfinal}
    if noise.h_mask is not None:
        given["h_mask"] = Mask(noise.h_mask, None, None)
    return _run(kernel, plan.backward, layout, given, layout.steps + 1)


def _run(kernel: Kernel, tile: Tile, layout: Layout, given: dict[str, Any], steps: int) -> tuple[Tensor, ...]:
    """From the states ``carried`` to those returned."""
    final = tuple([torch.empty_like(s) for s in given["carried"]])
    groups = layout.directions * -(-layout.batch // tile.rows)
    # The barrier's counters, one a group, are zeroed here once: every group runs in one launch only.
    counters = torch.zeros(groups * LINE.value, dtype=torch.int32, device=final[0].device)
    given = {**given, "geometry": layout.geometry, "counters": counters}
    turns = [(s, s + 1) for s in range(steps)] if interpreted and tile.programs > 1 else [(0, steps)]
    for first_group in range(0, groups, tile.at_once):
        grid = (min(tile.at_once, groups - first_group) * tile.programs, 1)
        for first, last in turns:
            part = Launch(first_group, first, last)
            carried = given["carried"] if first == 0 else final
            launch(kernel, grid, {**given, "launch": part, "carried": carried, "final": final}, counters.device)
    return final
