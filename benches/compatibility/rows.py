"""The rows of the table, and what they share: models, and how their results are compared."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn

INPUTS, HIDDEN = 5, 6
SIZES = ((3, 4), (1, 1), (5, 7))  # rows of the batch and steps: of the example, and of other calls


@dataclass(frozen=True)
class Side:
    """A column: the layer of this name and its cell, torch.nn's or fastrnn's."""

    name: str
    ours: bool

    @property
    def library(self) -> Any:
        return fastrnn if self.ours else nn

    @property
    def layer(self) -> Any:
        return getattr(self.library, self.name)

    @property
    def cell(self) -> Any:
        return getattr(self.library, f"{self.name}Cell")

    @property
    def of_torch(self) -> Side:
        return Side(self.name, ours=False)


Row = Callable[[Side], None]
ROWS: dict[str, Row] = {}


def row(name: str, *packages: str) -> Callable[[Row], Row]:
    """Registers a function that raises where something does not work."""

    def register(function: Row) -> Row:
        def run(side: Side) -> None:
            for package in packages:
                importlib.import_module(package)
            torch.manual_seed(0)
            function(side)

        ROWS[name] = run
        return function

    return register


class Model(nn.Module):
    def __init__(self, layer: Any, **options: Any) -> None:
        super().__init__()
        self.layer = layer(INPUTS, HIDDEN, **{"num_layers": 2, "batch_first": True} | options)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


class Ragged(Model):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])


def pair(side: Side, cls: Callable[..., Any] = Model, **options: Any) -> tuple[Any, Any]:
    """A model, and the same on torch.nn."""
    model, expected = cls(side.layer, **options), cls(side.of_torch.layer, **options)
    expected.load_state_dict(model.state_dict())
    return model, expected


def batch(rows: int = SIZES[0][0], steps: int = SIZES[0][1]) -> Tensor:
    return torch.randn(rows, steps, INPUTS)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def same_at(sizes: tuple[tuple[int, int], ...], program: Callable[..., Tensor], expected: nn.Module) -> None:
    for size in sizes:
        x = batch(*size)
        same(program(x), expected(x))


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))
