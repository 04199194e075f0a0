"""What code relies on that has a layer of ``torch.nn``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fastrnn
from benches.compatibility.rows import HIDDEN, INPUTS, Side, batch, pair, row, same


@row("state.detach_() after a cell")
def _(side: Side) -> None:
    state = side.cell(INPUTS, HIDDEN)(batch()[0])
    for s in state if isinstance(state, tuple) else (state,):
        s.detach_()
        assert not s.requires_grad


@row("y[:, -1].view(-1), y.transpose(0, 1).view(...)")
def _(side: Side) -> None:
    model, expected = pair(side)
    x = batch()
    y, wanted = model.layer(x)[0], expected.layer(x)[0]
    same(y.transpose(0, 1).view(-1), wanted.transpose(0, 1).view(-1))
    same(y[:1, -1].view(-1), wanted[:1, -1].view(-1))
    assert y.stride() == wanted.stride(), f"strides {y.stride()}"


@row("the same dropout for the same seed")
def _(side: Side) -> None:
    x, found = batch(), []
    for model in pair(side, dropout=0.5, bidirectional=True, num_layers=3):
        torch.manual_seed(3)
        found.append(model.layer(x)[0])
    same(*found)


@row("FlopCounterMode")
def _(side: Side) -> None:
    model, expected = pair(side)
    # In float64 no kernel of oneDNN hides the products.
    counts = flops(model, batch()), flops(expected.double(), batch().double())
    assert counts[0] == counts[1], f"counts {counts[0]} of {counts[1]}"


def flops(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


@row("RNNCell and GRUCell, a pair as state: torch.nn's error")
def _(side: Side) -> None:
    for name in ("RNNCell", "GRUCell"):
        errors = [error_of_pair(getattr(library, name)(INPUTS, HIDDEN)) for library in (side.library, nn)]
        assert errors[0] is errors[1], f"{errors[0]}, not {errors[1]}"


def error_of_pair(cell: nn.Module) -> type[Exception] | None:
    h = torch.zeros(3, HIDDEN)
    try:
        cell(batch()[:, 0], (h, h))
    except Exception as error:
        return type(error)
    return None


def accelerated(side: Side, layer: nn.Module) -> Any:
    """Inside a model, on fastrnn after ``accelerate``."""
    model = nn.Sequential(layer)
    return (fastrnn.accelerate(model) if side.ours else model)[0]


@row("accelerate: isinstance of torch.nn's class")
def _(side: Side) -> None:
    layer = accelerated(side, side.of_torch.layer(INPUTS, HIDDEN))
    assert isinstance(layer, side.of_torch.layer) and isinstance(layer, side.layer)


@row("accelerate: a subclass with a forward of its own")
def _(side: Side) -> None:
    class Derived(side.of_torch.layer):
        def forward(self, *args: Any) -> Any:
            y, state = super().forward(*args)
            return y + 1, state

    layer, x = Derived(INPUTS, HIDDEN), batch()
    expected = layer(x)
    layer = accelerated(side, layer)
    assert isinstance(layer, Derived) and isinstance(layer, side.layer)
    same(layer(x), expected)
