"""Classes that are fastrnn's and ``torch.nn``'s at once, for modules that ``accelerate`` swaps.

fastrnn's class stands before ``torch.nn``'s in the method resolution order, so fastrnn's computes and every isinstance
check of a program holds. For a class that a user has derived from ``torch.nn``'s, one is made on the spot: its
``super().forward`` is then fastrnn's.

Such a class has the name and the module of the one that it stands for: programs also look at these, as torch.fx does.
"""

import copyreg
import inspect
import types
from typing import Any

from torch.nn import Module, RNNBase

from fastrnn.modules.counterparts import FAST, plain_of
from fastrnn.spec import CELLS

__all__ = ["derived_class", "original_class", "reason_against"]


# What torch.nn's forward calls on the way, or reads. fastrnn's does so at other times or not at all.
_ASKED_BY_FORWARD = {
    "_flat_weights",
    "_init_flat_weights",
    "_update_flat_weights",
    "_weights_have_changed",
    "check_forward_args",
    "check_hidden_size",
    "check_input",
    "get_expected_cell_size",
    "get_expected_hidden_size",
    "permute_hidden",
}


def original_class(cls: type[Module]) -> type[Module] | None:
    """The class for which ``derived_class`` made ``cls``; None if it did not."""
    return vars(cls).get("_stands_for")


def derived_class(cls: type[Module]) -> type[Module]:
    """The one class that stands for a class of ``torch.nn`` or a subclass of it.

    Raises:
        TypeError: the class does not allow it.
    """
    if cls in _DERIVED:
        return _DERIVED[cls]
    # It lives as long as the classes or their modules do: a table of them would keep the user's class alive.
    made = (other for other in type.__subclasses__(cls) if original_class(other) is cls)
    return next(made, None) or _derive_from_users(cls)


def _derive_from_users(cls: type[Module]) -> type[Module]:
    plain = plain_of(cls)
    if plain is None:
        raise TypeError(f"expected a subclass of a recurrent class of torch.nn, got {cls.__qualname__}")
    # The user's class is the first base, so that Python lays out instances in the same way.
    derived = _derive(cls, (cls, _DERIVED[plain]))
    object.__setattr__(object.__new__(cls), "__class__", derived)  # raises where it does not all the same
    return derived


def _derive(cls: type[Module], bases: tuple[type, ...]) -> type[Module]:
    members = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return types.new_class(cls.__name__, bases, {}, lambda body: body.update({**members, "_stands_for": cls}))


class _Pickled:
    """The last base. Pickle cannot find a class that was derived, but can derive it again."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(max(protocol, 2))
        if not isinstance(reduced, tuple) or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced  # a user's class with a way of its own
        _, (cls, *arguments), *rest = reduced
        original = original_class(cls)
        return (_new, (original, *arguments), *rest) if original else reduced


def _new(original: type[Module], *arguments: Any) -> Module:
    cls: Any = derived_class(original)
    return cls.__new__(cls, *arguments)


_DERIVED = {plain: _derive(plain, (fast, plain, _Pickled)) for plain, fast in FAST.items()}


def reason_against(module: Module, cls: type[Module]) -> str | None:
    """Why the class of ``torch.nn``, or a subclass of it, cannot be derived from for this module; None if it can."""
    plain = plain_of(cls)
    assert plain is not None
    owners = [owner for owner in cls.__mro__ if owner not in plain.__mro__]
    attributes = vars(module)
    for owner in owners:
        if "forward" in vars(owner) and not _calls_super(owner):
            return f"it is of {cls.__qualname__}, whose forward does not call super().forward()"
    changed = _ASKED_BY_FORWARD & {name for owner in owners for name in vars(owner)}
    changed |= _ASKED_BY_FORWARD & (attributes.keys() - {"_flat_weights"})
    if changed:
        return f"its {min(changed)} is its own, which torch.nn's forward uses"
    taken = _names_of_fastrnn(plain) & set().union(
        attributes, *(attributes[kind] for kind in ("_parameters", "_buffers", "_modules")), *map(vars, owners)
    )
    if isinstance(module, RNNBase) and str(module.mode).lower() not in CELLS:
        taken.add("mode")
    if taken:
        return f"its attribute {min(taken)} has another meaning in fastrnn"
    try:
        derived_class(cls)
    except TypeError as error:
        return f"no class can be derived from {cls.__qualname__} and fastrnn's: {error}"
    return None


def _names_of_fastrnn(plain: type[Module]) -> set[str]:
    """What fastrnn's class has and ``torch.nn``'s modules have not."""
    names = {name for name in dir(FAST[plain]) if not name.startswith("__")} - set(dir(plain))
    return names - {"mode", "_flat_weights"} if issubclass(plain, RNNBase) else names


def _calls_super(owner: type) -> bool:
    """Whether a method of the class calls ``super().forward``, as far as its code shows."""
    return any(
        _has_super_forward(getattr(inspect.unwrap(f), "__code__", None)) for f in vars(owner).values() if callable(f)
    )


def _has_super_forward(code: Any) -> bool:
    if not isinstance(code, types.CodeType):
        return False
    return {"super", "forward"} <= set(code.co_names) or any(map(_has_super_forward, code.co_consts))
