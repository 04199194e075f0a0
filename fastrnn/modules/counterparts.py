"""Which class of fastrnn stands for which of ``torch.nn``, and what a recurrent module is."""

from typing import Any

import torch
from torch.nn import Module
from torch.nn.utils import parametrize

from fastrnn.modules import recurrent
from fastrnn.modules.cells import Cell
from fastrnn.modules.layers import Layers
from fastrnn.spec import CELLS, CellSpec

__all__ = ["FAST", "FASTRNN", "PLAIN", "cell_of", "is_fast", "plain_of", "written_class"]

# Every class of fastrnn, and those of torch.nn by the same names. A cell that torch.nn lacks has no counterpart.
FASTRNN: tuple[type[Module], ...] = tuple(getattr(recurrent, name) for name in recurrent.__all__)
FAST: dict[type[Module], type[Module]] = {
    getattr(torch.nn, cls.__name__): cls for cls in FASTRNN if hasattr(torch.nn, cls.__name__)
}
PLAIN = {fast: plain for plain, fast in FAST.items()}


def written_class(module: Module) -> type[Module]:
    """The class as written: ``parametrize`` puts a class of its own, made for the one module, in between."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def is_fast(module: Module) -> bool:
    """Whether it is fastrnn's own, for whatever cell, frozen or not."""
    return isinstance(module, (Layers, Cell))


def plain_of(cls: type[Module]) -> type[Module] | None:
    """The class of ``torch.nn`` that ``cls`` is or derives from; None if there is none."""
    return next((base for base in cls.__mro__ if base in FAST), None)


def cell_of(module: Module) -> CellSpec | None:
    """The cell of a layer or cell of fastrnn or ``torch.nn``, or of a subclass; None of any other module."""
    plain = plain_of(type(module))
    if plain is None and not is_fast(module):
        return None
    mode = getattr(module, "mode", None)
    if mode is None and plain:  # torch.nn's cells do not name theirs
        fast: Any = FAST[plain]
        mode = fast.mode
        if isinstance(mode, property) and mode.fget:  # it depends on the instance
            mode = mode.fget(module)
    return CELLS[str(mode).lower()]
