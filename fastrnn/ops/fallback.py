"""The gradients of the operators where there is no compiled extension: in C++ they are in csrc/torch/autograd.cpp."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from fastrnn.backends import cpu
from fastrnn.ops.operators import layer_backward, layer_double_backward, layer_forward, library
from fastrnn.spec import BackwardCall, ForwardCall

__all__: list[str] = []


def _requires_gradient(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _spread(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """None where none was wanted."""
    remaining = iter(gradients)
    return [next(remaining) if flag else None for flag in wanted]


def _apply(function: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """Under a transform of ``torch.func`` too, whose level has been entered before a kernel is called."""
    with enable_single_level_autograd_function():
        return function.apply(*arguments)


class _Forward(_SingleLevelFunction):
    """Arguments: how many states are given, the options, ``batch_sizes``, then ``ForwardCall.inputs``.

    Results: y, the final states, ``saved``.
    """

    @staticmethod
    def forward(states: int, options: Any, batch_sizes: Tensor | None, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            y, final, saved = layer_forward(*ForwardCall.of(inputs, states, batch_sizes, *options, True))
        return y, *final, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.states, ctx.options, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(output[0], output[-1], *tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate_and_saved: Tensor | None) -> tuple[Tensor | None, ...]:
        y, saved, batch_sizes, *inputs = ctx.saved_tensors
        dstate, needed = list(dstate_and_saved[:-1]), list(ctx.needs_input_grad[3:])
        if dy is None and all(d is None for d in dstate):
            return (None,) * len(ctx.needs_input_grad)
        x, h_0, c_0, weights, *_ = ForwardCall.of(inputs, ctx.states, batch_sizes, *ctx.options)
        arguments = (x, h_0, c_0, weights, y, saved, batch_sizes, *ctx.options)
        return None, None, None, *_spread(layer_backward(dy, dstate, *arguments, needed), needed)


class _Backward(_SingleLevelFunction):
    """Arguments: how many states are given and how many the cell has, the options, ``needed``, ``samples``, ``y``,
    ``saved``, ``batch_sizes``, then dy, dstate and ``ForwardCall.inputs``."""

    @staticmethod
    def forward(
        states: int,
        cell_states: int,
        options: Any,
        needed: list[bool],
        samples: int,
        y: Tensor,
        saved: Tensor,
        batch_sizes: Tensor | None,
        *others: Any,
    ) -> tuple[Tensor, ...]:
        (dy, *dstate), inputs = others[: 1 + cell_states], others[1 + cell_states :]
        x, h_0, c_0, weights, *_ = ForwardCall.of(inputs, states, batch_sizes, *options)
        with torch._C._AutoDispatchBelowAutograd():
            arguments = (x, h_0, c_0, weights, y, saved, batch_sizes, *options)
            return tuple(layer_backward(dy, dstate, *arguments, needed, samples))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.states, ctx.cell_states, ctx.options, ctx.needed, ctx.samples, _, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *ddgradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.samples != 1:
            raise NotImplementedError("fastrnn: gradients by sample have no derivative")
        batch_sizes, *tensors = ctx.saved_tensors
        (dy, *dstate), inputs = tensors[: 1 + ctx.cell_states], tensors[1 + ctx.cell_states :]
        *arguments, _ = ForwardCall.of(inputs, ctx.states, batch_sizes, *ctx.options)
        wanted = list(ctx.needs_input_grad[8:])
        found = layer_double_backward(list(ddgradients), dy, dstate, *arguments, ctx.needed, wanted)
        return *(None,) * 8, *_spread(found, wanted)


def _forward(*args: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    call = ForwardCall(*args)
    if not _requires_gradient(call.inputs):
        with torch._C._AutoDispatchBelowAutograd():
            return layer_forward(*call)
    y, *final, saved = _apply(_Forward, len(call.state), call.options, call.batch_sizes, *call.inputs)
    return y, final, saved if call.save else saved.new_empty(*saved.shape[:-2], 0, saved.shape[-1])


def _backward(*args: Any) -> list[Tensor]:
    call = BackwardCall(*args)
    forward = call.forward
    differentiable: Any = (call.dy, *call.dstate, *forward.inputs)
    if not _requires_gradient(differentiable):
        with torch._C._AutoDispatchBelowAutograd():
            return layer_backward(*call)
    options = (len(forward.state), len(call.dstate), forward.options, call.needed, call.samples)
    return list(_apply(_Backward, *options, call.y, call.saved, call.batch_sizes, *differentiable))


if cpu.extension is None:
    library.impl("layer_forward", _forward, "Autograd")
    library.impl("layer_backward", _backward, "Autograd")
