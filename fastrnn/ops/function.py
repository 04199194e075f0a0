"""One layer with its gradient: the autograd Function around the operators, and the choice whether it is needed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops.dispatch import runs_fused
from fastrnn.ops.operators import layer_backward, layer_forward
from fastrnn.spec import LayerSpec, reference

__all__ = ["layer", "needs_gradient"]

State = tuple[Tensor, ...]


def layer(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """One layer, all its directions, on the fastest backend that takes it. Contract of ``reference.layer``."""
    if not runs_fused(spec.cell, x):
        return reference.layer(spec, x, state, weights, batch_sizes)
    tensors = (x, *state, *weights)
    if needs_gradient(tensors):
        y, *final, _ = _Layer.apply(spec, len(state), batch_sizes, *tensors)
        return y, tuple(final)
    y, final, _ = layer_forward(x, list(state), list(weights), batch_sizes, *spec.arguments, False)
    return y, tuple(final)


def needs_gradient(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any([t.requires_grad for t in tensors])


# Arguments of _Layer before x. At module level: Dynamo does not read class attributes of a Function as constants.
_BEFORE_X = 3


class _Layer(torch.autograd.Function):
    """Arguments: the layer, how many states are given, ``batch_sizes``, then x, the states and the weights."""

    @staticmethod
    def forward(
        spec: LayerSpec, states: int, batch_sizes: Tensor | None, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        state, weights = list(tensors[:states]), list(tensors[states:])
        y, final, saved = layer_forward(x, state, weights, batch_sizes, *spec.arguments, True)
        return y, *final, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.spec, ctx.states, batch_sizes = inputs[:_BEFORE_X]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(batch_sizes, output[0], output[-1], *inputs[_BEFORE_X:])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate_and_saved: Tensor | None) -> tuple[Tensor | None, ...]:
        batch_sizes, y, saved, x, *tensors = ctx.saved_tensors
        dstate = list(dstate_and_saved[:-1])
        state, weights = tensors[: ctx.states], tensors[ctx.states :]
        needed = list(ctx.needs_input_grad[_BEFORE_X:])
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = _differentiable_backward(ctx.spec, (dy, *dstate), x, state, weights, batch_sizes, needed)
        else:
            gradients = layer_backward(
                dy, dstate, x, state, weights, y, saved, batch_sizes, *ctx.spec.arguments, needed
            )
        given = iter(gradients)
        return (None,) * _BEFORE_X + tuple([next(given) if wanted else None for wanted in needed])


def _differentiable_backward(
    spec: LayerSpec,
    dresults: Sequence[Tensor | None],
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients as a graph (``create_graph=True``): the layer runs again, on the reference.

    It runs on views of its inputs, so that where one input is computed from another, or is the same tensor, the paths
    between them are left to autograd, which follows them outside.
    """
    x, state, weights = x.view_as(x), [s.view_as(s) for s in state], [w.view_as(w) for w in weights]
    y, final = reference.layer(spec, x, state, weights, batch_sizes)
    pairs = [(out, grad) for out, grad in zip((y, *final), dresults, strict=True) if grad is not None]
    inputs = [t for t, wanted in zip((x, *state, *weights), needed, strict=True) if wanted]
    if not pairs:
        return (None,) * len(inputs)
    outputs, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, gradients, create_graph=True, allow_unused=True)
