"""The operators of ``fastrnn.ops`` on CUDA tensors: the products over all steps around a regime's time loop.

``lengths`` stay on the device. The time loops read them there, and a group of rows takes as many steps as its longest;
to the products over all steps the rows beyond are zeros, which cost what others do. For ``reset`` the CPU waits:
``segments.py``.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends.triton import persistent, stepwise
from fastrnn.backends.triton.alignment import aligned
from fastrnn.backends.triton.checks import Inputs, Results, check_backward, check_layer, check_options
from fastrnn.backends.triton.gradients import weight_gradients
from fastrnn.backends.triton.launch import current_device
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.plans import Plan, make_plan
from fastrnn.backends.triton.segments import Packing
from fastrnn.backends.triton.tensors import BackwardTensors, ForwardTensors, KernelNoise, Weights
from fastrnn.kernels.layer_norm import NormGradients
from fastrnn.spec import BackwardCall, ForwardCall, LayerSpec

__all__ = ["layer_backward", "layer_forward", "plan_for"]


def plan_for(spec: LayerSpec, batch: int, hidden: int, dtype: torch.dtype, device: torch.device) -> Plan:
    """``make_plan`` for a device that is here, with PyTorch's present setting for float32 products of such layers."""
    tf32 = torch.backends.cudnn.rnn.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return make_plan(spec, batch, hidden, dtype, tf32, current_device(device))


class _Order:
    """Between the tensors of a call and those of [T, B, ...] and [D, B, ...], on which everything below runs."""

    def __init__(self, call: ForwardCall) -> None:
        self.first, self.one_step, self.swapped = call.members, call.one_step, call.swapped

    def sequence(self, t: Any) -> Any:
        """To the order below; None, and what the checks refuse, as it is."""
        if t is None or t.dim() <= self.first + 1:
            return t
        return t.unsqueeze(self.first) if self.one_step else self._swap(t)

    def state(self, s: Any) -> Any:
        return s.unsqueeze(self.first) if s is not None and self.one_step else s

    def states(self, given: Sequence[Any], count: int) -> list[Any]:
        """``count`` states, and behind them those of every step."""
        final, by_step = given[:count], given[count:]
        return [self.state(s) for s in final] + [self.state(self.state(s)) for s in by_step]

    def inputs(self, call: ForwardCall) -> Inputs:
        segments, noise = call.segments, call.noise
        if segments.reset is not None and segments.reset.dim() == 2 and self.swapped:
            segments = segments._replace(reset=segments.reset.t())
        state = [self.state(s) for s in call.state]
        noise = noise._replace(h_mask=self.state(noise.h_mask))
        return Inputs(self.sequence(call.x), state, call.weights, call.batch_sizes, segments, noise)

    def sequence_back(self, t: Tensor) -> Tensor:
        return t.squeeze(self.first) if self.one_step else self._swap(t)

    def state_back(self, s: Tensor) -> Tensor:
        return s.squeeze(self.first) if self.one_step else s

    def states_back(self, given: Sequence[Tensor], count: int) -> list[Tensor]:
        final, by_step = given[:count], given[count:]
        return [self.state_back(s) for s in final] + [self.state_back(self.state_back(s)) for s in by_step]

    def _swap(self, t: Tensor) -> Tensor:
        return t.transpose(self.first, self.first + 1) if self.swapped and t.dim() > self.first + 1 else t


def layer_forward(*args: Any, **options: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    """Arguments and results as ``fastrnn.ops.operators`` says."""
    call = ForwardCall(*args, **options)
    spec = check_options(call)
    order = _Order(call)
    y, final, saved = _forward(spec, order.inputs(call), call.members, call.save, call.every_state)
    return order.sequence_back(y), order.states_back(final, len(spec.facts.states)), saved


def _forward(
    spec: LayerSpec, inputs: Inputs, members: int, save: bool, every_state: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    if members:
        each = [_forward(spec, of_member, 0, save, every_state) for of_member in inputs.members()]
        ys, finals, every_saved = zip(*each, strict=True)
        return torch.stack(ys), [torch.stack(s) for s in zip(*finals, strict=True)], torch.stack(every_saved)
    check_layer(spec, inputs)
    x, states = inputs.x, len(spec.facts.states)
    hidden, _ = spec.hidden_and_outputs(inputs.weights[spec.w_hh])
    width = spec.facts.saved_values(inputs.noise.zoneout, spec.layer_norm) * hidden
    saved = x.new_empty(spec.directions, math.prod(x.shape[:-1]) if save else 0, width)
    if inputs.segments.reset is None:
        return *_run_forward(spec, inputs, saved, every_state), saved
    packing = Packing(spec, inputs)
    of_packed = _first_rows(saved, packing.rows) if save else saved
    y, results = _run_forward(spec, packing.inputs, of_packed, every_state)
    final = [packing.final(s, i) for i, s in enumerate(results[:states])]
    return packing.unpack(y), [*final, *[packing.unpack_states(s) for s in results[states:]]], saved


def _run_forward(spec: LayerSpec, inputs: Inputs, saved: Tensor, every_state: bool) -> tuple[Tensor, list[Tensor]]:
    """A batch without resets; fills ``saved`` if it has rows."""
    x = inputs.x
    w = Weights.of(spec, inputs.weights)
    layout = Layout.of(spec, inputs)
    initial = _initial(spec, inputs.state, w, layout)
    every_state = every_state and len(initial) > 1
    if every_state and saved.shape[1] == 0:  # the states are among what is saved
        saved = saved.new_empty(spec.directions, layout.rows, saved.shape[2])
    y = x.new_empty(layout.rows, spec.directions * w.outputs)
    if layout.padded:
        y.zero_()
        # Elsewhere nobody reads what is saved of steps that there are not.
        if every_state or spec.projected or spec.layer_norm:
            saved.zero_()
    if layout.rows == 0:
        final = tuple([s.clone() for s in initial])
    else:
        tensors = ForwardTensors(_gx(w, x.flatten(0, -2)), initial, KernelNoise.of(inputs.noise, layout), y, saved)
        plan = plan_for(spec, layout.batch, w.hidden, x.dtype, x.device)
        if plan.regime == "stepwise":
            final = stepwise.forward(spec, layout, w, tensors)
        else:
            final = persistent.forward(plan, spec, layout, w, tensors)
    if every_state:
        last = spec.facts.saved_values(inputs.noise.zoneout, False) * w.hidden
        after = saved[..., last - w.hidden : last]
        final += (after.reshape(spec.directions, *x.shape[:-1], w.hidden).clone(),)
    return y.view(*x.shape[:-1], y.shape[-1]), list(final)


def _gx(w: Weights, rows: Tensor) -> Tensor:
    """[N, D*G*H], the gates' products with the inputs, which the inputs are themselves where the gates are given."""
    if w.w_ih is None:
        return aligned(rows)
    return rows @ w.w_ih.t() if w.b_ih is None else torch.addmm(w.b_ih, rows, w.w_ih.t())


def _first_rows(saved: Tensor, rows: int) -> Tensor:
    """[D, rows, width] in a buffer with room for more."""
    directions, _, width = saved.shape
    return saved.contiguous().view(-1)[: directions * rows * width].view(directions, rows, width)


def layer_backward(*args: Any, **options: Any) -> list[Tensor]:
    """Arguments and results as ``fastrnn.ops.operators`` says."""
    call = BackwardCall(*args, **options)
    forward = call.forward
    spec = check_options(forward)
    order = _Order(forward)
    inputs = order.inputs(forward)
    dstate = order.states(call.dstate, len(spec.facts.states))
    results = Results(order.sequence(call.dy), dstate, order.sequence(call.y), call.saved)
    gradients = _backward(spec, inputs, forward.members, results, call.needed, call.samples)
    of_x, *of_states = call.needed[: 1 + len(inputs.state)]
    for i in range(of_x + sum(of_states)):
        gradients[i] = (order.sequence_back if of_x and i == 0 else order.state_back)(gradients[i])
    return gradients


def _backward(
    spec: LayerSpec, inputs: Inputs, members: int, results: Results, needed: Sequence[bool], samples: int
) -> list[Tensor]:
    if members:
        pairs = zip(inputs.members(), results.members(len(inputs.x)), strict=True)
        each = [_backward(spec, of_member, 0, its_results, needed, samples) for of_member, its_results in pairs]
        return [torch.stack(t) for t in zip(*each, strict=True)]
    check_backward(spec, inputs, results, needed, samples)
    if inputs.segments.reset is None:
        return _run_backward(spec, inputs, results, needed, samples)
    return _backward_of_segments(spec, inputs, results, needed)


def _backward_of_segments(spec: LayerSpec, inputs: Inputs, results: Results, needed: Sequence[bool]) -> list[Tensor]:
    states, packing = len(spec.facts.states), Packing(spec, inputs)
    dstate = [packing.dfinal(d) for d in results.dstate[:states]]
    dstate += [None if d is None else packing.pack_states(d) for d in results.dstate[states:]]
    dy = None if results.dy is None else packing.pack(results.dy)
    of_segments = Results(dy, dstate, packing.pack(results.y), _first_rows(results.saved, packing.rows))

    wanted = iter(needed)
    of_x, of_state = next(wanted), [next(wanted) for _ in inputs.state]
    of_weights, of_resets = [next(wanted) for _ in inputs.weights], [*wanted]
    of_initial = [any(flags) for flags in zip_longest(of_state, of_resets, fillvalue=False)]
    found = iter(_run_backward(spec, packing.inputs, of_segments, [of_x, *of_initial, *of_weights], 1))
    gradients = [packing.unpack(next(found))] if of_x else []
    dinitial = {i: next(found) for i, flag in enumerate(of_initial) if flag}
    gradients += [packing.dinitial(dinitial[i], results.dstate[i]) for i, flag in enumerate(of_state) if flag]
    gradients += found
    return gradients + [packing.dreset(dinitial[i], i) for i, flag in enumerate(of_resets) if flag]


def _run_backward(
    spec: LayerSpec, inputs: Inputs, results: Results, needed: Sequence[bool], samples: int
) -> list[Tensor]:
    """Of a batch without resets."""
    x, state, weights = inputs.x, inputs.state, inputs.weights
    dy, dstate, y, saved = results.dy, results.dstate, results.y, results.saved
    directions = spec.directions
    w = Weights.of(spec, weights)
    layout = Layout.of(spec, inputs)
    initial = _initial(spec, state, w, layout)
    dfinal = tuple(
        [torch.zeros_like(s) if d is None else aligned(d.to(s.dtype)) for s, d in zip(initial, dstate, strict=False)]
    )
    if layout.rows == 0:
        by_sample = (samples,) if samples > 1 else ()
        of_weights = [v.new_zeros(*by_sample, *v.shape) for v in weights]
        zeros = [torch.zeros_like(x), *dfinal[: len(state)], *of_weights]
        return [d.clone() for d, wanted in zip(zeros, needed, strict=True) if wanted]

    y = aligned(y.to(x.dtype).reshape(layout.rows, -1))
    dy = torch.zeros_like(y) if dy is None else aligned(dy.to(x.dtype).reshape(layout.rows, -1))
    new = x.new_zeros if layout.padded else x.new_empty
    dgh = new(layout.rows, directions * w.w_hh.shape[1])
    dgx = new(dgh.shape) if spec.facts.apart else dgh
    dprojected = new(y.shape) if spec.projected else None
    dcell_states = dstate[len(initial)] if len(dstate) > len(initial) else None
    if dcell_states is not None:
        dcell_states = aligned(dcell_states.to(x.dtype).reshape(directions, layout.rows, -1))
    dnorm = None
    if spec.layer_norm:
        dnorm = NormGradients(new(dgh.shape), new(directions, layout.rows, w.hidden) if len(initial) > 1 else None)
    noise = KernelNoise.of(inputs.noise, layout)
    tensors = BackwardTensors(dy, dcell_states, dfinal, initial, y, aligned(saved), dgx, dgh, dprojected, noise, dnorm)
    plan = plan_for(spec, layout.batch, w.hidden, x.dtype, x.device)
    if plan.regime == "stepwise":
        dinitial = stepwise.backward(spec, layout, w, tensors)
    else:
        dinitial = persistent.backward(plan, spec, layout, w, tensors)

    wanted = iter(needed)
    gradients = [(dgx if w.w_ih is None else dgx @ w.w_ih).view_as(x)] if next(wanted) else []
    gradients += [d for d in dinitial[: len(state)] if next(wanted)]
    gradients += weight_gradients(spec, layout, tensors, inputs, list(wanted), samples)
    assert len(gradients) == sum(needed)
    return gradients


def _initial(spec: LayerSpec, state: Sequence[Tensor], w: Weights, layout: Layout) -> tuple[Tensor, ...]:
    if state:
        return tuple([aligned(s) for s in state])
    widths = spec.state_widths(w.hidden, w.outputs).values()
    return tuple([w.w_hh.new_zeros(layout.directions, layout.batch, width) for width in widths])
