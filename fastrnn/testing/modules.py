"""The modules of every cell, what torch.nn has in their place, and a module that computes by the reference."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import Module, RNNBase
from torch.nn.utils.rnn import PackedSequence

from fastrnn.modules import Cell, Layers
from fastrnn.modules.counterparts import FAST, FASTRNN, cell_of
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, LayerSpec, Noise, Segments, reference

__all__ = ["CELL_MODULES", "IN_TORCH", "LAYERS", "TIED", "Counterpart", "Kind", "counterpart_of", "on_reference"]

M = TypeVar("M", bound=Module)


class Kind(NamedTuple):
    """The name of a class, in fastrnn and in torch.nn if it has it, and the arguments that choose the cell."""

    class_name: str
    arguments: dict[str, str]


def _kinds(base: type[Module], suffix: str) -> dict[str, Kind]:
    found = {}
    written = {cls.__name__ for cls in FASTRNN if issubclass(cls, base)}
    for cell in CELLS:
        kind, _, nonlinearity = cell.partition("_")
        class_name = kind.upper() + suffix
        assert class_name in written, f"{cell} has no module {class_name}"
        found[cell] = Kind(class_name, {"nonlinearity": nonlinearity} if nonlinearity else {})
    return found


LAYERS = _kinds(Layers, "")
CELL_MODULES = _kinds(Cell, "Cell")

_IN_TORCH_NAMES = {cls.__name__ for cls in FAST}
# The cells whose modules torch.nn has.
IN_TORCH = tuple(cell for cell, kind in LAYERS.items() if kind.class_name in _IN_TORCH_NAMES)


@dataclass(frozen=True)
class Counterpart:
    """A cell of torch.nn that computes a cell of fastrnn, given other weights.

    Attributes:
        cell: torch.nn's.
        of: fastrnn's.
        gates: for each gate of torch.nn's cell the gate whose weights it takes, and their sign.
    """

    cell: str
    of: str
    gates: tuple[tuple[str, int], ...]

    def weights(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From weights of fastrnn's module by name to those of torch.nn's."""
        names = CELLS[self.of].gates

        def change(name: str, value: Tensor) -> Tensor:
            if "weight_hr" in name:
                return value
            blocks = value.unflatten(0, (len(names), -1))
            return torch.cat([sign * blocks[names.index(gate)] for gate, sign in self.gates])

        return {name: change(name, value) for name, value in given.items()}

    def gradients(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From gradients of torch.nn's weights by name to those of fastrnn's, by the chain rule."""

        def change(name: str, value: Tensor) -> Tensor:
            if "weight_hr" in name:
                return value
            blocks = value.unflatten(0, (len(self.gates), -1))
            taken = [[s * b for (gate, s), b in zip(self.gates, blocks, strict=True) if gate == own] for own in names]
            return torch.cat([torch.stack(parts).sum(0) for parts in taken])

        names = CELLS[self.of].gates
        return {name: change(name, value) for name, value in found.items()}


# Cells that torch.nn lacks, but computes by another cell with some of its weights tied.
TIED = {
    # 1 - sigmoid(f) = sigmoid(-f)
    "cifg": Counterpart("lstm", "cifg", (("f", -1), ("f", 1), ("g", 1), ("o", 1))),
}


def counterpart_of(cell: str) -> Counterpart:
    """Itself where torch.nn has it.

    Raises:
        ValueError: nothing in torch.nn computes this cell.
    """
    if cell in IN_TORCH:
        return Counterpart(cell, cell, tuple((gate, 1) for gate in CELLS[cell].gates))
    if cell not in TIED:
        raise ValueError(f"expected a cell that torch.nn computes: {', '.join((*IN_TORCH, *TIED))}; got {cell}")
    return TIED[cell]


def on_reference(module: M) -> M:
    """A copy of a layer or cell, fastrnn's or torch.nn's, that computes by the reference.

    Stacking, packing and the order of dimensions are written here once more, so that they are checked as well.
    """
    twin = copy.deepcopy(module)
    twin.__class__ = _on_reference(type(module))  # type: ignore[assignment, arg-type]
    return twin


@cache
def _on_reference(cls: type[Module]) -> type[Module]:
    forward = _forward_of_layers if issubclass(cls, RNNBase) else _forward_of_cell
    return type(cls.__name__, (cls,), {"forward": forward})


def _forward_of_layers(
    self: Any,
    input: Tensor | PackedSequence,
    hx: Any = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Any = None,
    return_states: bool | None = None,
) -> Any:
    own: dict[str, Any] = getattr(self, "own_options", dict)()
    directions, projected = 2 if self.bidirectional else 1, self.proj_size > 0
    spec = LayerSpec(_cell(self), directions, self.bias, False, projected, own.get("layer_norm", False))
    state, resets = _tuple_of(hx), _tuple_of(reset_state)
    packed, unbatched = isinstance(input, PackedSequence), False
    batch_sizes = None
    if isinstance(input, PackedSequence):
        x, batch_sizes, order, back = input
        state = tuple(s if order is None else s[:, order] for s in state)
    elif input.dim() == 2:
        unbatched = True
        x, state, resets = (
            input.unsqueeze(1),
            tuple(s.unsqueeze(1) for s in state),
            tuple(s.unsqueeze(-2) for s in resets),
        )
        reset = None if reset is None else reset.unsqueeze(1)
        lengths = None if lengths is None else lengths.unsqueeze(0)
    else:
        x = input.transpose(0, 1) if self.batch_first else input
        reset = reset.t() if self.batch_first and reset is not None else reset

    finals, every = [], []
    of_layer = spec.directions
    for i in range(self.num_layers):
        if i > 0 and self.dropout and self.training:
            x = torch.dropout(x, self.dropout, True)
        names: list[str] = sum(self._all_weights[i * of_layer : (i + 1) * of_layer], [])
        weights = [getattr(self, name) for name in names]
        rows = slice(i * of_layer, (i + 1) * of_layer)
        segments = Segments(lengths, reset, [s[rows] for s in resets])
        initial = [s[rows] for s in state]
        noise = _noise(self, own, spec, x, batch_sizes)
        x, final = reference.layer(spec, x, initial, weights, batch_sizes, segments, True, noise)
        count = len(spec.facts.states)
        finals.append(final[:count])
        every.append((torch.stack(x.chunk(of_layer, -1)), *final[count:]))
    state = tuple(torch.cat(s) for s in zip(*finals, strict=True))
    states = tuple(torch.cat(s) for s in zip(*every, strict=True))

    y: Any = x
    if packed:
        state = tuple(s if back is None else s[:, back] for s in state)
        y = PackedSequence(x, batch_sizes, order, back)
    elif unbatched:
        y, state, states = x.squeeze(1), tuple(s.squeeze(1) for s in state), tuple(s.squeeze(2) for s in states)
    elif self.batch_first:
        y = x.transpose(0, 1)
    return (y, hx_of(state), states) if return_states else (y, hx_of(state))


def _noise(self: Any, own: dict[str, Any], spec: LayerSpec, x: Tensor, batch_sizes: Tensor | None) -> Noise:
    """That of a layer, drawn in its order."""
    mask = seed = None
    if self.training and "recurrent_dropout" in own:
        batch = x.size(1) if batch_sizes is None else int(batch_sizes[0])
        ones = x.new_ones(spec.directions, batch, self.proj_size or self.hidden_size)
        mask = torch.dropout(ones, own["recurrent_dropout"], True)
    if self.training and "zoneout" in own:
        seed = torch.cat([torch.randint(2**63 - 1, (1,)), torch.zeros(1, dtype=torch.int64)])
    of_h, of_c = own.get("zoneout", (0.0, 0.0))
    return Noise(mask, of_h, of_c, seed)


def _tuple_of(hx: Any) -> tuple[Tensor, ...]:
    return () if hx is None else tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)


def _forward_of_cell(self: Any, input: Tensor, hx: Any = None) -> Any:
    own: dict[str, Any] = getattr(self, "own_options", dict)()
    spec = LayerSpec(_cell(self), has_bias=self.bias, layer_norm=own.get("layer_norm", False))
    weights = [getattr(self, name) for name in spec.weight_names]
    x = input if input.dim() == 2 else input.unsqueeze(0)
    if hx is None:
        state = tuple(x.new_zeros(len(x), self.hidden_size) for _ in spec.facts.states)
    else:
        state = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        state = state if input.dim() == 2 else tuple(s.unsqueeze(0) for s in state)
    noise = _noise(self, own, spec, x.unsqueeze(0), None)
    new = reference.one_step(spec, x, state, weights, noise)
    return hx_of(new if input.dim() == 2 else tuple(s.squeeze(0) for s in new))


def _cell(module: Module) -> str:
    spec = cell_of(module)
    assert spec is not None
    return spec.name
