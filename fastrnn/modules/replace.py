"""``accelerate`` and ``restore``: torch.nn's recurrent modules to fastrnn's and back, in place.

A module is swapped by assigning its ``__class__``. The two classes keep the same attributes under the same names, so
the object stays what it was: its Parameters, buffers, hooks, mode, the attributes that users have put on it, and every
place that refers to it. Building a new module would have to copy all of this, and would break sharing.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.nn import Module, RNNBase
from torch.nn.utils import parametrize

from fastrnn.modules.counterparts import FAST, PLAIN, is_fast, plain_of, written_class
from fastrnn.modules.derived import derived_class, original_class, reason_against
from fastrnn.modules.layers import assigned_weights
from fastrnn.modules.options import OwnOptions
from fastrnn.modules.scripted import WEIGHTS

__all__ = ["accelerate", "restore"]

M = TypeVar("M", bound=Module)

# What becomes of a module: another class, a reason why not, or None where nothing is to be said.
Choice = type[Module] | str | None

_NAMES = {cls.__name__ for cls in FAST}


def accelerate(model: M, fullgraph: bool = False) -> M:
    """Swaps every ``torch.nn`` RNN, LSTM, GRU and cell in ``model``, itself included, for fastrnn's, in place.

    Nothing but the class of these modules changes: the same objects with the same Parameters, hooks, mode,
    parametrizations and attributes, in every place that shares them. ``restore`` goes back.

    The new class derives from fastrnn's and from the one before, whose name it has, so isinstance checks hold. An
    instance of a user's subclass keeps the methods of that class, and its ``super().forward`` is fastrnn's.

    Dynamo refuses instances of ``torch.nn``'s layers and subclasses. ``torch.compile(fullgraph=True)`` therefore takes
    what this leaves only while ``torch._dynamo.config.allow_rnn`` is set; otherwise the function that calls a layer
    runs uncompiled, as with ``torch.nn``.

    Recurrent modules that cannot be swapped are left as they are, and one warning names them with the reasons:
    subclasses with a ``forward`` that does not call ``super().forward``, or that change what ``torch.nn``'s ``forward``
    calls; quantized and scripted ones, and those with a ``forward`` set on the instance. Modules that
    ``model.named_modules()`` does not reach are not seen.

    Args:
        fullgraph: for ``torch.compile(fullgraph=True)``: the very classes of fastrnn, which are no subclasses of
            ``torch.nn.LSTM`` and its like. Instances of subclasses are left as they are and named. Either choice also
            changes over modules that came from the other, or were built as fastrnn's.

    Returns:
        ``model``.
    """
    return _swap(model, _without_plain if fullgraph else derived_for, "fastrnn")


def restore(model: M) -> M:
    """Swaps every fastrnn module in ``model`` for its ``torch.nn`` counterpart, in place: ``accelerate`` undone.

    Instances of a user's class have that class again. Modules that were built as fastrnn's become ``torch.nn``'s as
    well. What cannot be swapped, such as a cell that ``torch.nn`` lacks, is named in one warning.

    Returns:
        ``model``.
    """
    return _swap(model, _restored, "torch.nn")


def _swap(model: M, choose: Callable[[Module], Choice], target: str) -> M:
    for _, module, cls in swappable(model, choose, target, stacklevel=4):
        become(module, cls)
    return model


def swappable(
    model: Module, choose: Callable[[Module], Choice], target: str, stacklevel: int = 3
) -> list[tuple[str, Module, type[Module]]]:
    """Name, module and new class of what is to be swapped. Warns of what cannot be replaced by ``target``."""
    found, kept = [], []
    for name, module in model.named_modules():
        choice = decide(module, choose)
        if isinstance(choice, str):
            kept.append(f"  {name or '(the model itself)'}: {choice}")
        elif choice is not None:
            found.append((name, module, choice))
    if kept:
        warnings.warn("\n".join([f"not replaced by {target}:", *kept]), stacklevel=stacklevel)
    return found


def decide(module: Module, choose: Callable[[Module], Choice]) -> Choice:
    """The choice, for the module as it is now."""
    choice = choose(module)
    if choice is written_class(module):
        return None
    if isinstance(choice, type) and "forward" in vars(module):
        return "its forward is set on the instance"
    return choice


def own_class(module: Module) -> type[Module]:
    """The class that ``restore`` leaves where ``accelerate`` has derived another from it."""
    cls = written_class(module)
    return original_class(cls) or cls


def derived_for(module: Module) -> Choice:
    """What ``accelerate`` gives by default."""
    cls = written_class(module)
    own = PLAIN.get(cls, cls)
    if own is cls and is_fast(module):
        return None
    if plain_of(own) is None:
        return reason_of_foreign(module)
    return reason_against(module, own) or derived_class(own)


def _without_plain(module: Module) -> Choice:
    own = own_class(module)
    plain = plain_of(own)
    if plain is None:
        return reason_of_foreign(module)
    if own is not plain:
        return f"it is of {own.__qualname__}, a subclass of torch.nn.{plain.__name__}, which Dynamo refuses"
    return reason_against(module, own) or FAST[plain]


def _restored(module: Module) -> Choice:
    cls = written_class(module)
    own = PLAIN.get(cls) or own_class(module)
    if isinstance(module, OwnOptions) and (options := module.own_options()):
        return f"torch.nn has no {' and no '.join(options)}"
    if own is not cls or not is_fast(module):
        return own
    if isinstance(module, tuple(PLAIN)):
        return f"it is of {cls.__qualname__}, a subclass"
    return f"torch.nn has no {cls.__qualname__}"


def reason_of_foreign(module: Module) -> str | None:
    """Why a recurrent module that is neither ``torch.nn``'s nor fastrnn's cannot be swapped; None if it is no such."""
    if isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", None) in _NAMES:
        return "it is scripted"
    if type(module).__module__.startswith("torch.ao.nn.quant") and written_class(module).__name__ in _NAMES:
        return "it is quantized"
    return None


def become(module: Module, cls: type[Module]) -> None:
    assigned: Any = assigned_weights(module) if isinstance(module, RNNBase) else None
    if parametrize.is_parametrized(module):
        # A class of its own again, with the same properties: other modules may share the old one by deepcopy.
        members = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__", "__doc__")}
        cls = type(type(module).__name__, (cls,), members)
    module.__class__ = cls
    for name in (WEIGHTS, "__overloads__"):  # what torch.jit.script has left, for the old class
        vars(module).pop(name, None)
    if isinstance(module, RNNBase):
        # torch.nn.RNNBase mirrors its parameters here. fastrnn has a property of this name and keeps no references.
        vars(module).pop("_flat_weights", None)
        module._flat_weight_refs = []
        with torch.no_grad():
            module._init_flat_weights()
        if assigned is not None:
            module._flat_weights = assigned
