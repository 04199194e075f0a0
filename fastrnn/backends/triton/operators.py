"""The operators of ``fastrnn.ops`` on CUDA tensors: the products over all steps around a regime's time loop."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends.triton import persistent, stepwise
from fastrnn.backends.triton.checks import Inputs, Results, check_backward, check_layer, check_options
from fastrnn.backends.triton.launch import current_device
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.plans import Plan, make_plan
from fastrnn.backends.triton.tensors import BackwardTensors, ForwardTensors, Weights, aligned
from fastrnn.spec import BackwardCall, ForwardCall, LayerSpec, reference

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

    def inputs(self, call: ForwardCall) -> Inputs:
        return Inputs(self.sequence(call.x), [self.state(s) for s in call.state], call.weights, call.batch_sizes)

    def sequence_back(self, t: Tensor) -> Tensor:
        return t.squeeze(self.first) if self.one_step else self._swap(t)

    def state_back(self, s: Tensor) -> Tensor:
        return s.squeeze(self.first) if self.one_step else s

    def _swap(self, t: Tensor) -> Tensor:
        return t.transpose(self.first, self.first + 1) if self.swapped and t.dim() > self.first + 1 else t


def layer_forward(*args: Any, **options: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    """Arguments and results as ``fastrnn.ops.operators`` says."""
    call = ForwardCall(*args, **options)
    spec = check_options(call)
    order = _Order(call)
    y, final, saved = _forward(spec, order.inputs(call), call.members, call.save)
    return order.sequence_back(y), [order.state_back(s) for s in final], saved


def _forward(spec: LayerSpec, inputs: Inputs, members: int, save: bool) -> tuple[Tensor, list[Tensor], Tensor]:
    if members:
        each = [_forward(spec, of_member, 0, save) for of_member in inputs.members()]
        ys, finals, every_saved = zip(*each, strict=True)
        return torch.stack(ys), [torch.stack(s) for s in zip(*finals, strict=True)], torch.stack(every_saved)
    check_layer(spec, inputs)
    x, state, weights, batch_sizes = inputs.x, inputs.state, inputs.weights, inputs.batch_sizes
    w = Weights.of(spec, weights)
    layout = Layout.of(spec, x, batch_sizes)
    initial = _initial(spec, state, w, layout)
    y = x.new_empty(layout.rows, spec.directions * w.outputs)
    saved = x.new_empty(spec.directions, layout.rows if save else 0, len(spec.facts.saved) * w.hidden)
    if layout.rows == 0:
        return y.view(*x.shape[:-1], y.shape[-1]), [s.clone() for s in initial], saved

    rows = x.reshape(layout.rows, -1)
    gx = rows @ w.w_ih.t() if w.b_ih is None else torch.addmm(w.b_ih, rows, w.w_ih.t())
    tensors = ForwardTensors(gx, initial, y, saved)
    plan = plan_for(spec, layout.batch, w.hidden, x.dtype, x.device)
    if plan.regime == "stepwise":
        final = stepwise.forward(spec, layout, w, tensors)
    else:
        final = persistent.forward(plan, spec, layout, w, tensors)
    return y.view(*x.shape[:-1], -1), list(final), saved


def layer_backward(*args: Any, **options: Any) -> list[Tensor]:
    """Arguments and results as ``fastrnn.ops.operators`` says."""
    call = BackwardCall(*args, **options)
    forward = call.forward
    spec = check_options(forward)
    order = _Order(forward)
    inputs = order.inputs(forward)
    results = Results(
        order.sequence(call.dy), [order.state(d) for d in call.dstate], order.sequence(call.y), call.saved
    )
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
    x, state, weights, batch_sizes = inputs.x, inputs.state, inputs.weights, inputs.batch_sizes
    dy, dstate, y, saved = results.dy, results.dstate, results.y, results.saved
    directions = spec.directions
    w = Weights.of(spec, weights)
    layout = Layout.of(spec, x, batch_sizes)
    initial = _initial(spec, state, w, layout)
    dfinal = tuple(
        [torch.zeros_like(s) if d is None else aligned(d.to(s.dtype)) for s, d in zip(initial, dstate, strict=True)]
    )
    if layout.rows == 0:
        by_sample = (samples,) if samples > 1 else ()
        of_weights = [v.new_zeros(*by_sample, *v.shape) for v in weights]
        zeros = [torch.zeros_like(x), *dfinal[: len(state)], *of_weights]
        return [d.clone() for d, wanted in zip(zeros, needed, strict=True) if wanted]

    y = aligned(y.to(x.dtype).reshape(layout.rows, -1))
    dy = torch.zeros_like(y) if dy is None else aligned(dy.to(x.dtype).reshape(layout.rows, -1))
    dgh = x.new_empty(layout.rows, directions * w.w_hh.shape[1])
    dgx = torch.empty_like(dgh) if spec.facts.apart else dgh
    dprojected = torch.empty_like(y) if spec.projected else None
    tensors = BackwardTensors(dy, dfinal, initial, y, aligned(saved), dgx, dgh, dprojected)
    plan = plan_for(spec, layout.batch, w.hidden, x.dtype, x.device)
    if plan.regime == "stepwise":
        dinitial = stepwise.backward(spec, layout, w, tensors)
    else:
        dinitial = persistent.backward(plan, spec, layout, w, tensors)

    wanted = iter(needed)
    gradients = [(dgx @ w.w_ih).view_as(x)] if next(wanted) else []
    gradients += [d for d in dinitial[: len(state)] if next(wanted)]
    gradients += _of_weights(spec, layout, tensors, x.reshape(layout.rows, -1), list(wanted), samples)
    assert len(gradients) == sum(needed)
    return gradients


def _of_weights(
    spec: LayerSpec, layout: Layout, tensors: BackwardTensors, rows: Tensor, needed: Sequence[bool], samples: int
) -> list[Tensor]:
    """Gradients of the weights, those of one direction after those of the other: products and sums over all steps."""
    dgx, dgh, initial = tensors.dgx, tensors.dgh, tensors.initial

    @cache
    def sums(apart: bool) -> Tensor:
        gates = dgx if apart else dgh
        return gates.sum(0) if samples == 1 else gates.unflatten(0, (-1, samples)).sum(0)

    def product(left: Tensor, right: Tensor) -> Tensor:
        """Over all rows, or over those of each sample."""
        if samples == 1:
            return left.t() @ right
        return left.unflatten(0, (-1, samples)).permute(1, 2, 0) @ right.unflatten(0, (-1, samples)).transpose(0, 1)

    def of_weight(direction: int, name: str) -> Tensor:
        of_gates = _part(dgh, direction, spec)
        of_outputs = _part(tensors.y, direction, spec)
        match name:
            case "weight_ih":
                return product(dgx[:, of_gates], rows)
            case "weight_hh":
                before = layout.before(tensors.y[:, of_outputs], initial[0][direction], direction)
                return product(dgh[:, of_gates], before)
            case "bias_ih":
                return sums(bool(spec.facts.apart))[..., of_gates].clone()
            case "bias_hh":
                return sums(False)[..., of_gates].clone()
            case _:
                assert tensors.dprojected is not None
                saved = tensors.saved[direction].chunk(len(spec.facts.saved), -1)
                hidden = reference.hidden(spec, dict(zip(spec.facts.saved, saved, strict=True)))
                return product(tensors.dprojected[:, of_outputs], hidden)

    every = [(d, name) for d in range(spec.directions) for name in spec.weight_names]
    return [of_weight(*weight) for weight, wanted in zip(every, needed, strict=True) if wanted]


def _part(rows: Tensor, direction: int, spec: LayerSpec) -> slice:
    """The columns of one direction in [N, D*width]."""
    width = rows.shape[1] // spec.directions
    return slice(direction * width, (direction + 1) * width)


def _initial(spec: LayerSpec, state: Sequence[Tensor], w: Weights, layout: Layout) -> tuple[Tensor, ...]:
    if state:
        return tuple([aligned(s) for s in state])
    widths = spec.state_widths(w.hidden, w.outputs).values()
    return tuple([w.w_hh.new_zeros(layout.directions, layout.batch, width) for width in widths])
