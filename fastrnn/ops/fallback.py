"""The gradients of the operators where there is no compiled extension: in C++ they are in csrc/torch/autograd.cpp."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from fastrnn.backends import cpu
from fastrnn.ops.operators import layer_backward, layer_double_backward, layer_forward, library

__all__: list[str] = []

Gradients = tuple[Tensor | None, ...]


def _requires_gradient(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _spread(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """None where none was wanted."""
    remaining = iter(gradients)
    return [next(remaining) if flag else None for flag in wanted]


def _of_given(flags: Sequence[bool], h_0: Tensor | None, c_0: Tensor | None) -> list[bool]:
    """Those of x, h_0, c_0 and weights, without states that are not given."""
    x, of_h, of_c, *weights = flags
    return [x, *[flag for flag, s in ((of_h, h_0), (of_c, c_0)) if s is not None], *weights]


def _apply(function: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """Under a transform of ``torch.func`` too, whose level has been entered before a kernel is called."""
    with enable_single_level_autograd_function():
        return function.apply(*arguments)


class _Forward(_SingleLevelFunction):
    """Arguments: those of ``layer_forward``, with the weights at the end. Results: y, the final states, ``saved``."""

    @staticmethod
    def forward(
        options: tuple[Any, ...],
        batch_sizes: Tensor | None,
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            y, final, saved = layer_forward(x, h_0, c_0, list(weights), batch_sizes, *options, True)
        return y, *final, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(output[0], output[-1], *tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate_and_saved: Tensor | None) -> Gradients:
        y, saved, batch_sizes, x, h_0, c_0, *weights = ctx.saved_tensors
        dstate, wanted = list(dstate_and_saved[:-1]), ctx.needs_input_grad[2:]
        if dy is None and all(d is None for d in dstate):
            return (None,) * len(ctx.needs_input_grad)
        needed = _of_given(wanted, h_0, c_0)
        gradients = layer_backward(dy, dstate, x, h_0, c_0, weights, y, saved, batch_sizes, *ctx.options, needed)
        return None, None, *_spread(gradients, wanted)


class _Backward(_SingleLevelFunction):
    """Arguments: those of ``layer_backward``, with dy, dstate and the weights at the end."""

    @staticmethod
    def forward(
        options: tuple[Any, ...],
        needed: list[bool],
        samples: int,
        states: int,
        y: Tensor,
        saved: Tensor,
        batch_sizes: Tensor | None,
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        dy: Tensor | None,
        *others: Tensor | None,
    ) -> tuple[Tensor, ...]:
        dstate, weights = list(others[:states]), list(others[states:])
        with torch._C._AutoDispatchBelowAutograd():
            kept = (x, h_0, c_0, weights, y, saved, batch_sizes)
            return tuple(layer_backward(dy, dstate, *kept, *options, needed, samples))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, ctx.needed, ctx.samples, ctx.states, _, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *ddgradients: Tensor | None) -> Gradients:
        if ctx.samples != 1:
            raise NotImplementedError("fastrnn: gradients by sample have no derivative")
        batch_sizes, x, h_0, c_0, dy, *others = ctx.saved_tensors
        dstate, weights = others[: ctx.states], others[ctx.states :]
        of_x, of_h, of_c, of_dy, *of_others = ctx.needs_input_grad[7:]
        of_dstate, of_weights = of_others[: ctx.states], of_others[ctx.states :]
        of_inputs = (of_x, of_h, of_c, *of_weights)
        wanted = [of_dy, *of_dstate, *_of_given(of_inputs, h_0, c_0)]
        arguments = (dy, dstate, x, h_0, c_0, weights, batch_sizes, *ctx.options, ctx.needed, wanted)
        found = layer_double_backward(list(ddgradients), *arguments)
        ddy, *others = _spread(found, [of_dy, *of_dstate, *of_inputs])
        ddstate, (dx, dh, dc, *dweights) = others[: ctx.states], others[ctx.states :]
        return *(None,) * 7, dx, dh, dc, ddy, *ddstate, *dweights


def _forward(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    save: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor]:
    options = (cell, directions, has_bias, batch_first)
    if not _requires_gradient((x, h_0, c_0, *weights)):
        with torch._C._AutoDispatchBelowAutograd():
            return layer_forward(x, h_0, c_0, weights, batch_sizes, *options, save)
    y, *final, saved = _apply(_Forward, options, batch_sizes, x, h_0, c_0, *weights)
    return y, final, saved if save else saved.new_empty(*saved.shape[:-2], 0, saved.shape[-1])


def _backward(
    dy: Tensor | None,
    dstate: list[Tensor | None],
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: list[Tensor],
    y: Tensor,
    saved: Tensor,
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: list[bool],
    samples: int = 1,
) -> list[Tensor]:
    options = (cell, directions, has_bias, batch_first)
    tensors: Any = (y, saved, batch_sizes, x, h_0, c_0, dy, *dstate, *weights)
    arguments = (options, needed, samples, len(dstate), *tensors)
    if _requires_gradient(tensors[3:]):
        return list(_apply(_Backward, *arguments))
    return list(_Backward.forward(*arguments))


if cpu.extension is None:
    library.impl("layer_forward", _forward, "Autograd")
    library.impl("layer_backward", _backward, "Autograd")
