"""fastrnn's modules in ``torch.fx.symbolic_trace``: leaves of the graph, as ``torch.nn``'s are."""

from typing import Any

from torch.fx import Proxy
from torch.fx.proxy import TraceError
from torch.nn import Module

__all__ = ["record", "tracer_of"]


def tracer_of(*arguments: Any) -> Any:
    """The Tracer in whose graph an argument of a module stands for a value, or None."""
    for argument in arguments:
        for value in argument if isinstance(argument, (tuple, list)) else (argument,):
            if isinstance(value, Proxy):
                return value.tracer
    return None


def record(tracer: Any, module: Module, input: Any, hx: Any, others: dict[str, Any] | None = None) -> Any:
    """The module's results in the graph, as those of a leaf; of ``others`` those that are neither None nor False.

    A Tracer takes only ``torch.nn``'s modules for leaves by itself, so it has entered this one when it comes here.

    Raises:
        TraceError: the module is what is traced, not a part of it; or it has hooks, which were traced on the way here
            and would run once more with the module.
    """
    name = type(module).__name__
    if module is tracer.root:
        raise TraceError(f"fastrnn's {name} is a leaf: expected a model that contains it")
    path = tracer.path_of_module(module)
    if module._forward_pre_hooks or module._forward_hooks:
        raise TraceError(f"{path} has forward hooks: expected a Tracer whose is_leaf_module() takes {name} for a leaf")
    given = {name: value for name, value in (others or {}).items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", path, (input,) if hx is None else (input, hx), given)
