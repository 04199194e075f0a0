"""The chain of modules that a model's ``forward`` is, found by tracing it with ``torch.fx``."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Node, symbolic_trace
from torch.nn import functional

from fastrnn.exporting.links import Pool
from fastrnn.modules.counterparts import cell_of

__all__ = ["traced_chain"]

_FUNCTIONS: dict[Callable[..., Any] | str, Callable[[], nn.Module]] = {
    torch.relu: nn.ReLU,
    functional.relu: nn.ReLU,
    "relu": nn.ReLU,
    torch.tanh: nn.Tanh,
    functional.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
    functional.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    functional.dropout: nn.Identity,
}
_SOFTMAX = (torch.softmax, functional.softmax, "softmax")


def traced_chain(model: nn.Module) -> list[nn.Module]:
    """
    Raises:
        TypeError: a step is none of a chain, or tracing fails; the step is named.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    chosen = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    try:
        graph = symbolic_trace(model, chosen).graph
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__}: expected a forward that torch.fx traces, or a list of modules: {error}"
        ) from error
    walk = _Walk(model)
    for node in graph.nodes:
        walk.take(node)
    return walk.links


class _Walk:
    """Along a graph. What a node gives is the chain's value so far, a layer's two results, or its final state."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.links = model, list[nn.Module]()
        self.modules = dict(model.named_modules())
        self.value: Node | None = None
        self.pairs: dict[Node, nn.Module] = {}
        self.states: dict[Node, nn.Module] = {}  # the whole state, or h
        self.layer: nn.Module | None = None  # the last one of the chain

    def take(self, node: Node) -> None:
        if node.op == "placeholder":
            self.value = self.value or node
        elif node.op == "output":
            self._end(node)
        elif any(other is self.value or other in self.pairs or other in self.states for other in node.all_input_nodes):
            self._step(node)

    def _step(self, node: Node) -> None:
        source = node.args[0] if node.args else None
        if node.op == "call_function" and node.target is operator.getitem and self._item(node, source, node.args[1]):
            return
        link = self._link(node) if source is self.value else None
        if link is None:
            raise self._refusal(node)
        self.links.append(link)
        self.value = node
        if cell_of(link) is not None:
            self.pairs[node], self.layer, self.value = link, link, None

    def _link(self, node: Node) -> nn.Module | None:
        if node.op == "call_module":
            return None if node.kwargs else self.modules[str(node.target)]
        target: Any = node.target
        if target in _SOFTMAX:
            dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
            return nn.Softmax(dim) if isinstance(dim, int) else None
        return _FUNCTIONS[target]() if target in _FUNCTIONS else None

    def _item(self, node: Node, source: Any, index: Any) -> bool:
        """Results of a layer, its final hidden state, and the last step of its output."""
        if source in self.pairs:
            if index == 0:
                self.value = node
            else:
                self.states[node] = self.pairs[source]
            return index in (0, 1)
        if source in self.states:
            return self._state_item(node, source, index)
        layer: Any = self.layer
        if source is not self.value or layer is None:
            return False
        last_step = (slice(None), -1)
        accepted = [last_step, (*last_step, slice(None))] if layer.batch_first else [-1]
        return index in accepted and self._last(node, layer)

    def _state_item(self, node: Node, source: Node, index: Any) -> bool:
        layer: Any = self.states[source]
        cell = cell_of(layer)
        if cell and len(cell.states) > 1 and source.args[0] in self.pairs:
            if index == 0:
                self.states[node] = layer
            return index in (0, 1)
        is_last_output = layer is self.links[-1] and not layer.bidirectional
        return index == -1 and is_last_output and self._last(node, layer)

    def _last(self, node: Node, layer: Any) -> bool:
        self.links.append(Pool("last", batch_first=layer.batch_first))
        self.value = node
        return True

    def _end(self, node: Node) -> None:
        result: Any = node.args[0]
        first = result[0] if isinstance(result, (tuple, list)) else result
        if first is not self.value and first not in self.pairs:
            raise self._refusal(node)

    def _refusal(self, node: Node) -> TypeError:
        name = getattr(node.target, "__name__", node.target)
        return TypeError(
            f"{type(self.model).__name__}: expected a chain, each step taking what the one before gives, of modules, "
            f"relu, tanh, sigmoid, softmax and y[:, -1]; got '{node.name}', {node.op.replace('_', ' ')} {name}"
        )
