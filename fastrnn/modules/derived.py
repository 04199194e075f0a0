"""Classes that are fastrnn's and ``torch.nn``'s at once, for modules that ``accelerate`` swaps.

fastrnn's class stands before ``torch.nn``'s in the method resolution order, so fastrnn's computes and every isinstance
check of a program holds. For a class that a user has derived from ``torch.nn``'s, one is made on the spot: its
``super().forward`` is then fastrnn's.
"""

import copyreg
import inspect
import types
from typing import Any

from torch.nn import Module, RNNBase

from fastrnn.modules.counterparts import FAST, plain_of
from fastrnn.spec import CELLS

__all__ = ["DERIVED", "derived_class", "reason_against", "users_class"]


def _derived(plain: type[Module], fast: type[Module]) -> type[Module]:
    doc = f"``torch.nn.{plain.__name__}`` after ``accelerate``."
    return type(plain.__name__, (fast, plain), {"__module__": __name__, "__doc__": doc})


# One for every class of torch.nn that has a counterpart, under its name in this module, where pickle looks for it.
DERIVED = {plain: _derived(plain, fast) for plain, fast in FAST.items()}
globals().update({derived.__name__: derived for derived in DERIVED.values()})

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


def users_class(cls: type[Module]) -> type[Module] | None:
    """The class for which ``derived_class`` made ``cls``; None if it did not."""
    return vars(cls).get("_made_for")


def derived_class(users: type[Module]) -> type[Module]:
    """The one class that stands for a class of ``torch.nn`` or a subclass of it.

    Raises:
        TypeError: the class does not allow it.
    """
    if users in DERIVED:
        return DERIVED[users]
    # It lives as long as the classes or their modules do: a table of them would keep the user's class alive.
    made = (cls for cls in type.__subclasses__(users) if users_class(cls) is users)
    return next(made, None) or _make(users)


def _make(users: type[Module]) -> type[Module]:
    plain = plain_of(users)
    if plain is None:
        raise TypeError(f"expected a subclass of a recurrent class of torch.nn, got {users.__qualname__}")
    members = {"_made_for": users, "__reduce_ex__": _reduce_ex, "__doc__": users.__doc__}
    members |= {"__module__": users.__module__, "__qualname__": users.__qualname__}
    # The user's class is the first base, so that Python lays out instances in the same way.
    made = types.new_class(users.__name__, (users, DERIVED[plain]), {}, lambda body: body.update(members))
    object.__setattr__(object.__new__(users), "__class__", made)  # raises where it does not all the same
    return made


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """Pickle cannot find a class that was made, but can make it again."""
    made: Any = next(cls for cls in type(self).__mro__ if users_class(cls))
    reduced = super(made, self).__reduce_ex__(max(protocol, 2))
    if isinstance(reduced, tuple) and reduced[0] is copyreg.__newobj__ and reduced[1][0] is made:  # type: ignore[attr-defined]
        _, (_, *arguments), *rest = reduced
        return (_new, (users_class(made), *arguments), *rest)
    return reduced  # a class with a way of its own


def _new(users: type[Module], *arguments: Any) -> Module:
    cls: Any = derived_class(users)
    return cls.__new__(cls, *arguments)


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
