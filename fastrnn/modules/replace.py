"""``accelerate`` and ``restore``: torch.nn's recurrent modules to fastrnn's and back, in place.

A module is swapped by assigning its ``__class__``. The two classes keep the same attributes under the same names, so
the object stays what it was: its Parameters, buffers, hooks, mode, the attributes that users have put on it, and every
place that refers to it. Building a new module would have to copy all of this, and would break sharing.
"""

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch.nn import Module, RNNBase
from torch.nn.utils import parametrize

from fastrnn.modules import recurrent
from fastrnn.modules.cells import Cell
from fastrnn.modules.layers import Layers
from fastrnn.spec import CELLS, CellSpec

__all__ = ["accelerate", "restore"]

M = TypeVar("M", bound=Module)

# Every class of fastrnn, and those of torch.nn by the same names. A cell that torch.nn lacks has no counterpart.
FASTRNN: tuple[type[Module], ...] = tuple(getattr(recurrent, name) for name in recurrent.__all__)
FAST: dict[type[Module], type[Module]] = {
    getattr(torch.nn, cls.__name__): cls for cls in FASTRNN if hasattr(torch.nn, cls.__name__)
}
PLAIN = {fast: plain for plain, fast in FAST.items()}
_NAMES = {cls.__name__ for cls in FAST}


def accelerate(model: M) -> M:
    """Swaps every ``torch.nn`` RNN, LSTM, GRU and cell in ``model``, itself included, for fastrnn's, in place.

    Nothing but the class of these modules changes: the same objects with the same Parameters, hooks, mode,
    parametrizations and attributes, in every place that shares them. ``restore`` goes back.

    Recurrent modules that cannot be swapped are left as they are, and one warning names them with the reasons:
    subclasses of ``torch.nn``'s modules (their methods may depend on them), quantized and scripted ones, and those
    with a ``forward`` set on the instance. Modules that ``model.named_modules()`` does not reach are not seen.

    Returns:
        ``model``.
    """
    return _swap(model, FAST, "fastrnn")


def restore(model: M) -> M:
    """Swaps every fastrnn module in ``model`` for its ``torch.nn`` counterpart, in place: ``accelerate`` undone.

    Modules that were built as fastrnn's become ``torch.nn``'s as well. What cannot be swapped, such as a cell that
    ``torch.nn`` lacks, is named in one warning.

    Returns:
        ``model``.
    """
    return _swap(model, PLAIN, "torch.nn")


def _swap(model: M, counterparts: Mapping[type[Module], type[Module]], target: str) -> M:
    for _, module, cls in swappable(model, counterparts, target, stacklevel=4):
        become(module, cls)
    return model


def swappable(
    model: Module, counterparts: Mapping[type[Module], type[Module]], target: str, stacklevel: int = 3
) -> list[tuple[str, Module, type[Module]]]:
    """Name, module and counterpart of what is to be swapped. Warns of what cannot be replaced by ``target``."""
    found, kept = [], []
    for name, module in model.named_modules():
        cls = written_class(module)
        reason = reason_to_keep(module, cls, counterparts)
        if reason:
            kept.append(f"  {name or '(the model itself)'}: {reason}")
        elif cls in counterparts:
            found.append((name, module, counterparts[cls]))
    if kept:
        warnings.warn("\n".join([f"not replaced by {target}:", *kept]), stacklevel=stacklevel)
    return found


def written_class(module: Module) -> type[Module]:
    """The class as written: ``parametrize`` puts a class of its own, made for the one module, in between."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def reason_to_keep(module: Module, cls: type[Module], counterparts: Mapping[type[Module], type[Module]]) -> str | None:
    """None where the module is to be swapped, or is no recurrent module at all."""
    if cls in counterparts:
        return "its forward is set on the instance" if "forward" in vars(module) else None
    if isinstance(module, tuple(counterparts)) and cls not in counterparts.values():
        return f"it is of {cls.__qualname__}, a subclass"
    if counterparts is PLAIN and is_fast(module):
        return f"torch.nn has no {cls.__qualname__}"
    if counterparts is not PLAIN:
        if isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", None) in _NAMES:
            return "it is scripted"
        if cls.__module__.startswith("torch.ao.nn.quant") and cls.__name__ in _NAMES:
            return "it is quantized"
    return None


def is_fast(module: Module) -> bool:
    """Whether it is fastrnn's own, for whatever cell, frozen or not."""
    return isinstance(module, (Layers, Cell))


def cell_of(module: Module) -> CellSpec | None:
    """The cell of a layer or cell of fastrnn or ``torch.nn``, or of a subclass; None of any other module."""
    if not is_fast(module) and not isinstance(module, tuple(FAST)):
        return None
    mode = getattr(module, "mode", None)
    if mode is None:  # torch.nn's cells do not name theirs
        fast: Any = next(fast for plain, fast in FAST.items() if isinstance(module, plain))
        mode = fast.mode
        if isinstance(mode, property) and mode.fget:  # it depends on the instance
            mode = mode.fget(module)
    return CELLS[str(mode).lower()]


def become(module: Module, cls: type[Module]) -> None:
    if parametrize.is_parametrized(module):
        # A class of its own again, with the same properties: other modules may share the old one by deepcopy.
        members = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__", "__doc__")}
        cls = type(type(module).__name__, (cls,), members)
    module.__class__ = cls
    if isinstance(module, RNNBase):
        # torch.nn.RNNBase mirrors its parameters here. fastrnn has a property of this name and keeps no references.
        vars(module).pop("_flat_weights", None)
        module._flat_weight_refs = []
        with torch.no_grad():
            module._init_flat_weights()
