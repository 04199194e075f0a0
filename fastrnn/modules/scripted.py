"""What ``torch.jit.script`` compiles in place of the modules' forward, in TorchScript's part of Python.

``torch.jit.script`` takes a module as it is: it compiles the methods of a layer that ``__overloads__`` names, for a
tensor and for a packed sequence, and what a cell has behind ``torch.jit.is_scripting()``. TorchScript wants the type
of ``hx`` in the source, so these come for cells of one state and for cells of two.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import dropout as apply_dropout
from torch.nn.utils.rnn import PackedSequence

__all__ = ["WEIGHTS", "ScriptedCell", "ScriptedLayers", "prepare"]

M = TypeVar("M", bound=Module)

# Of a scripted module, its weights in the order of the operators, and of a prepared one.
WEIGHTS = "_script_weights"


def prepare(module: M, forward: Callable[..., Any]) -> M:
    """The module itself, ready for ``torch.jit.script``. Its forward has to be the given function.

    Raises:
        RuntimeError: TorchScript would compile something else than the module computes.
    """
    name = type(module).__name__
    if getattr(module.forward, "__func__", None) is not forward:
        raise RuntimeError(
            f"torch.jit.script: expected the forward of fastrnn's own class, got another one in {name}; use "
            "torch.jit.trace, or torch.nn's modules by fastrnn.restore"
        )
    own: Any = getattr(module, "own_options", dict)()
    if own:
        raise RuntimeError(
            f"torch.jit.script: expected {name} without {' and '.join(own)}, which TorchScript lacks here"
        )
    stored = {id(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))}
    weights: Any = module._script_weights
    if not all(id(w) in stored for w in weights):
        raise RuntimeError(
            f"torch.jit.script: expected the weights of {name} to be Parameters, got some that are computed (by a "
            "parametrization or pruning), which it refuses in torch.nn's modules (fastrnn.restore) too; use "
            "torch.jit.trace, or make them Parameters"
        )
    # TorchScript makes an attribute of each entry here, and reads its value, for which there is a property.
    vars(module)[WEIGHTS] = torch.jit.Attribute([], list[Tensor])
    return module


def _run_layer(
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    frozen: bool,
) -> tuple[Tensor, list[Tensor]]:
    if frozen:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("a frozen layer is for inference only: expected an input that needs no gradient")
        return torch.ops.fastrnn.frozen_forward(x, h, c, weights, batch_sizes, cell, directions, has_bias, batch_first)
    y, final, _ = torch.ops.fastrnn.layer_forward(
        x, h, c, weights, batch_sizes, cell, directions, has_bias, batch_first
    )
    return y, final


def _permuted(s: Tensor | None, order: Tensor | None) -> Tensor | None:
    return s if s is None or order is None else s.index_select(1, order)


def _tensor_one(self: Any, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    y, final = self._scripted_tensor(input, hx, None)
    return y, final[0]


def _packed_one(self: Any, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]:
    y, final = self._scripted_packed(input, hx, None)
    return y, final[0]


def _tensor_two(
    self: Any, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    h, c = (None, None) if hx is None else hx
    y, final = self._scripted_tensor(input, h, c)
    return y, (final[0], final[1])


def _packed_two(
    self: Any, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None
) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
    h, c = (None, None) if hx is None else hx
    y, final = self._scripted_packed(input, h, c)
    return y, (final[0], final[1])


class _Exported:
    """A method that ``torch.jit.script`` compiles: the first for cells of one state, the second for those of two.

    Only modules that are prepared have it, as ``torch.jit.trace`` compiles what ``torch.jit.export`` marks as well.
    """

    def __init__(self, one: Callable[..., Any], two: Callable[..., Any]) -> None:
        self._by_states = {1: torch.jit.export(one), 2: torch.jit.export(two)}

    def __get__(self, module: Any, owner: type) -> Any:
        if module is None or WEIGHTS not in vars(module):
            raise AttributeError
        return MethodType(self._by_states[len(module.cell_spec.states)], module)


class ScriptedLayers:
    """A stack of layers as TorchScript."""

    __slots__ = ()

    __overloads__ = {"forward": ["forward_tensor", "forward_packed"]}

    def _scripted_stack(
        self: Any, x: Tensor, h: Tensor | None, c: Tensor | None, batch_sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        directions = 2 if self.bidirectional else 1
        by_layer = (self.num_layers, directions)
        h = None if h is None else h.unflatten(0, by_layer)
        c = None if c is None else c.unflatten(0, by_layer)
        per_layer = len(self._script_weights) // self.num_layers
        transposed = self.batch_first and batch_sizes is None
        finals: list[list[Tensor]] = []
        for i in range(self.num_layers):
            if i > 0 and self.training and self.dropout > 0.0:
                x = x.transpose(0, 1) if transposed else x  # as it lies in memory: the mask is that of torch.nn
                x = apply_dropout(x, self.dropout)
                x = x.transpose(0, 1) if transposed else x
            x, final = _run_layer(
                x,
                None if h is None else h[i],
                None if c is None else c[i],
                self._script_weights[i * per_layer : (i + 1) * per_layer],
                batch_sizes,
                self.mode.lower(),
                directions,
                self.bias,
                self.batch_first,
                hasattr(self, "stored_as"),
            )
            finals.append(final)
        if self.num_layers == 1:
            return x, finals[0]
        return x, [torch.cat([final[k] for final in finals]) for k in range(len(finals[0]))]

    def _scripted_tensor(self: Any, input: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        if input.dim() != 2:
            return self._scripted_stack(input, h, c, None)
        batch_dim = 0 if self.batch_first else 1
        h = None if h is None else h.unsqueeze(1)
        c = None if c is None else c.unsqueeze(1)
        y, final = self._scripted_stack(input.unsqueeze(batch_dim), h, c, None)
        return y.squeeze(batch_dim), [s.squeeze(1) for s in final]

    def _scripted_packed(
        self: Any, input: PackedSequence, h: Tensor | None, c: Tensor | None
    ) -> tuple[PackedSequence, list[Tensor]]:
        x, batch_sizes, sorted_indices, unsorted_indices = input
        y, final = self._scripted_stack(x, _permuted(h, sorted_indices), _permuted(c, sorted_indices), batch_sizes)
        if unsorted_indices is not None:
            final = [s.index_select(1, unsorted_indices) for s in final]
        return PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices), final

    forward_tensor = _Exported(_tensor_one, _tensor_two)
    forward_packed = _Exported(_packed_one, _packed_two)


class ScriptedCell:
    """One step of a cell as TorchScript, for its forward."""

    __slots__ = ()

    def _scripted_step(self: Any, input: Tensor, h: Tensor | None, c: Tensor | None) -> list[Tensor]:
        unbatched = input.dim() == 1
        if not unbatched and input.dim() != 2:
            raise RuntimeError(f"{self.mode}Cell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        new = _run_layer(
            input.unsqueeze(0) if unbatched else input,
            h.unsqueeze(0) if h is not None and unbatched else h,
            c.unsqueeze(0) if c is not None and unbatched else c,
            self._script_weights,
            None,
            self.mode.lower(),
            1,
            self.bias,
            False,
            hasattr(self, "stored_as"),
        )[1]
        return [s.squeeze(0) for s in new] if unbatched else new
