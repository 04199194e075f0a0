"""The operators of ``fastrnn.ops`` on CUDA tensors: the products over all steps around a regime's time loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fastrnn.backends.triton import persistent, stepwise
from fastrnn.backends.triton.checks import check_backward, check_layer
from fastrnn.backends.triton.launch import current_device
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.plans import Plan, make_plan
from fastrnn.spec import CELLS, LayerSpec

__all__ = ["layer_backward", "layer_forward", "plan_for"]


def plan_for(
    cell: str, batch: int, hidden: int, outputs: int, directions: int, dtype: torch.dtype, device: torch.device
) -> Plan:
    """``make_plan`` for a device that is here, with PyTorch's present setting for float32 products of such layers."""
    tf32 = torch.backends.cudnn.rnn.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return make_plan(cell, batch, hidden, outputs, directions, dtype, tf32, current_device(device))


@dataclass(frozen=True)
class _Weights:
    """A layer's weights, the directions one after another; ``w_ih`` [D*G*H, I], ``w_hh`` [D, G*H, P]."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor
    w_hr: Tensor | None

    @staticmethod
    def of(weights: Sequence[Tensor], directions: int, has_bias: bool) -> "_Weights":
        per_direction = len(weights) // directions
        each = [weights[i::per_direction] for i in range(per_direction)]
        w_ih, w_hh = each[:2]
        projected = per_direction % 2 == 1
        b_hh = _stack(each[3]) if has_bias else w_hh[0].new_zeros(directions, w_hh[0].shape[0])
        b_ih = _stack(each[2]).flatten() if has_bias else None
        return _Weights(_stack(w_ih).flatten(0, 1), _stack(w_hh), b_ih, b_hh, _stack(each[-1]) if projected else None)

    @property
    def hidden(self) -> int:
        return self.w_hr.shape[2] if self.w_hr is not None else self.w_hh.shape[2]

    @property
    def outputs(self) -> int:
        return self.w_hh.shape[2]


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return _aligned(tensors[0]).unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous, beginning at a multiple of 16 bytes: what kernels are compiled for."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def layer_forward(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    save: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    check_layer(x, state, weights, batch_sizes, cell, directions, has_bias, batch_first)
    w = _Weights.of(weights, directions, has_bias)
    layout = Layout.of(x, batch_sizes, batch_first, directions)
    initial = _initial(cell, state, w, layout)
    y = x.new_empty(layout.rows, directions * w.outputs)
    saved = x.new_empty(directions, layout.rows if save else 0, len(CELLS[cell].saved) * w.hidden)
    if layout.rows == 0:
        return y.view(*x.shape[:-1], y.shape[-1]), [s.clone() for s in initial], saved

    rows = x.reshape(layout.rows, -1)
    gx = rows @ w.w_ih.t() if w.b_ih is None else torch.addmm(w.b_ih, rows, w.w_ih.t())
    plan = plan_for(cell, layout.batch, w.hidden, w.outputs, directions, x.dtype, x.device)
    if plan.regime == "stepwise":
        final = stepwise.forward(cell, layout, gx, w.w_hh, w.b_hh, w.w_hr, initial, y, saved)
    else:
        final = persistent.forward(plan, cell, layout, gx, w.w_hh, w.b_hh, initial, y, saved)
    return y.view(*x.shape[:-1], -1), list(final), saved


def layer_backward(
    dy: Tensor | None,
    dstate: Sequence[Tensor | None],
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    y: Tensor,
    saved: Tensor,
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: Sequence[bool],
) -> list[Tensor]:
    check_backward(
        dy, dstate, x, state, weights, y, saved, batch_sizes, cell, directions, has_bias, batch_first, needed
    )
    w = _Weights.of(weights, directions, has_bias)
    layout = Layout.of(x, batch_sizes, batch_first, directions)
    initial = _initial(cell, state, w, layout)
    dfinal = [
        torch.zeros_like(s) if d is None else _aligned(d.to(s.dtype)) for s, d in zip(initial, dstate, strict=True)
    ]
    inputs = (x, *state, *weights)
    if layout.rows == 0:
        given = [torch.zeros_like(x), *dfinal[: len(state)], *[torch.zeros_like(v) for v in weights]]
        return [d.clone() for d, wanted in zip(given, needed, strict=True) if wanted]

    outputs, saved = _aligned(y.to(x.dtype).reshape(layout.rows, -1)), _aligned(saved)
    dy = torch.zeros_like(outputs) if dy is None else _aligned(dy.to(x.dtype).reshape(layout.rows, -1))
    dgx = x.new_empty(layout.rows, directions * w.w_hh.shape[1])
    dgh = torch.empty_like(dgx) if CELLS[cell].apart else dgx
    dprojected = None
    plan = plan_for(cell, layout.batch, w.hidden, w.outputs, directions, x.dtype, x.device)
    if plan.regime == "stepwise":
        dprojected = torch.empty_like(outputs) if w.w_hr is not None else None
        dinitial = stepwise.backward(
            cell, layout, dy, tuple(dfinal), w.w_hh, w.w_hr, outputs, saved, initial, dgx, dgh, dprojected
        )
    else:
        dinitial = persistent.backward(plan, cell, layout, dy, tuple(dfinal), w.w_hh, outputs, saved, initial, dgx, dgh)

    rows = x.reshape(layout.rows, -1)

    @cache
    def sums(apart: bool) -> Tensor:
        return (dgh if apart else dgx).sum(0)

    def of_weight(direction: int, name: str) -> Tensor:
        of_gates = slice(direction * w.w_hh.shape[1], (direction + 1) * w.w_hh.shape[1])
        of_outputs = slice(direction * w.outputs, (direction + 1) * w.outputs)
        match name:
            case "w_ih":
                return dgx[:, of_gates].t() @ rows
            case "w_hh":
                before = layout.before(outputs[:, of_outputs], initial[0][direction], direction)
                return dgh[:, of_gates].t() @ before
            case "b_ih":
                return sums(False)[of_gates].clone()
            case "b_hh":
                return sums(bool(CELLS[cell].apart))[of_gates].clone()
            case _:
                assert dprojected is not None
                return dprojected[:, of_outputs].t() @ _hidden(saved[direction], w.hidden)

    names = ["w_ih", "w_hh"] + ["b_ih", "b_hh"] * has_bias + ["w_hr"] * (w.w_hr is not None)
    wanted = iter(needed)
    gradients = [(dgx @ w.w_ih).view_as(x)] if next(wanted) else []
    gradients += [d for d in dinitial[: len(state)] if next(wanted)]
    gradients += [of_weight(d, name) for d in range(directions) for name in names if next(wanted)]
    assert len(gradients) == sum(needed) and len(needed) == len(inputs)
    return gradients


def _initial(cell: str, state: Sequence[Tensor], w: _Weights, layout: Layout) -> tuple[Tensor, ...]:
    if state:
        return tuple([_aligned(s) for s in state])
    widths = LayerSpec(cell).state_widths(w.hidden, w.outputs).values()
    return tuple([w.w_hh.new_zeros(layout.directions, layout.batch, width) for width in widths])


def _hidden(saved: Tensor, hidden: int) -> Tensor:
    """[N, H], before the projection. Only an LSTM has one: o tanh(c)."""
    *_, o, c = saved.split(hidden, -1)
    return o * torch.tanh(c)
