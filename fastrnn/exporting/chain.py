"""A model as a chain of modules, each applied to what the one before gives: what every exported format is made of."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrnn.exporting.graph import traced_chain
from fastrnn.exporting.links import Affine, Pool
from fastrnn.modules.counterparts import cell_of
from fastrnn.modules.replace import accelerate

__all__ = ["Chain", "Model", "chain_of"]

Model = nn.Module | Sequence[nn.Module]


class Chain(nn.Module):
    """Modules one after another, with the states of the recurrent ones as arguments and results.

    Call: ``y, *states = chain(x, *states)``.
        x: int64 tokens or float32 features, [T, B, ...], or [B, T, ...] if ``batch_first``.
        states: of each recurrent module in turn, as its ``hx``: [layers * D, B, P or H] each; none for zeros.
        y: as x, or without T where a ``Pool`` is among the modules.
    """

    def __init__(self, links: Sequence[nn.Module]) -> None:
        super().__init__()
        self.links = nn.ModuleList(links)
        self.batch_first = _batch_first(links)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given, finals = list(states), []
        for link in self.links:
            cell = cell_of(link)
            if cell is None:
                x = link(x)
                continue
            count = len(cell.states)
            own, given = given[:count], given[count:]
            x, final = link(x, None if not own else own[0] if count == 1 else tuple(own))
            finals += [final] if count == 1 else list(final)
        return x, *finals

    @property
    def takes_tokens(self) -> bool:
        return isinstance(self.links[0], nn.Embedding)

    @property
    def pools(self) -> bool:
        return any(isinstance(link, Pool) for link in self.links)

    @property
    def recurrent(self) -> list[Any]:
        return [link for link in self.links if cell_of(link) is not None]

    def example(self, batch: int, steps: int, seed: int = 0) -> Tensor:
        """An input of so many rows and steps."""
        leading = (batch, steps) if self.batch_first else (steps, batch)
        generator = torch.Generator().manual_seed(seed)
        first: Any = next(link for link in self.links if not isinstance(link, (nn.Dropout, nn.Identity)))
        if self.takes_tokens:
            return torch.randint(first.num_embeddings, leading, generator=generator)
        width = next((getattr(first, name) for name in _INPUTS if hasattr(first, name)), None)
        if width is None:
            raise TypeError(f"{type(first).__name__}: expected a module first that says how many features it takes")
        return torch.randn(*leading, width, generator=generator)

    def zeros(self, batch: int) -> list[Tensor]:
        """The initial states."""
        return [
            torch.zeros(link.num_layers * (2 if link.bidirectional else 1), batch, width)
            for link in self.recurrent
            for width in link.layer_spec.state_widths(link.hidden_size, link.proj_size or link.hidden_size).values()
        ]


_INPUTS = ("input_size", "in_features", "features")


def _batch_first(links: Sequence[nn.Module]) -> bool:
    found = {name: link.batch_first for name, link in enumerate(links) if hasattr(link, "batch_first")}
    if len(set(found.values())) > 1:
        raise ValueError(f"expected layers that are all batch_first or none, got {found} by their place")
    return bool(next(iter(found.values()), False))


def chain_of(model: Model) -> Chain:
    """That of a model with a method ``chain``, of one module, of a sequence of modules, or of what ``forward`` does.

    Where the ``forward`` of a model gives something else, its ``chain_output(x)`` gives what its chain does. The result
    is a copy, in ``eval()`` mode, on fastrnn's layers.

    Raises:
        TypeError: a module or a step of ``forward`` is none of a chain; it is named.
    """
    own_chain: Any = getattr(model, "chain", None)
    if isinstance(model, (Sequence, nn.Sequential)):
        links = list(model)
    elif own_chain is not None:
        links = own_chain()
    elif cell_of(model) is not None or isinstance(model, (nn.Linear, nn.Embedding, Affine)):
        links = [model]
    else:
        links = traced_chain(model)
    if not links:
        raise TypeError("expected a model of a module at least, got none")
    for link in links:
        if isinstance(link, nn.RNNCellBase):
            raise TypeError(f"{type(link).__name__}: expected layers, which take sequences, got a cell")
    return accelerate(copy.deepcopy(Chain(links)).eval(), fullgraph=True)
