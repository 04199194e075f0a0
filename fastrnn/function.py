"""One layer with its gradient: the autograd Function around the operators, and the choice whether it is needed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn import reference
from fastrnn.dispatch import runs_fused
from fastrnn.ops import layer_backward, layer_forward

__all__ = ["layer", "needs_gradient"]

State = tuple[Tensor, ...]


def layer(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    directions: int = 1,
    has_bias: bool = True,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """One layer, all its directions, on the fastest backend that takes it. Contract of ``reference.layer``."""
    if not runs_fused(cell, x):
        return reference.layer(
            cell,
            x,
            state,
            weights,
            directions=directions,
            has_bias=has_bias,
            batch_first=batch_first,
            batch_sizes=batch_sizes,
        )
    tensors = (x, *state, *weights)
    if needs_gradient(tensors):
        y, *final, _ = _Layer.apply(cell, directions, has_bias, batch_first, batch_sizes, len(state), *tensors)
        return y, tuple(final)
    y, final, _ = layer_forward(
        x, list(state), list(weights), batch_sizes, cell, directions, has_bias, batch_first, False
    )
    return y, tuple(final)


def needs_gradient(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any([t.requires_grad for t in tensors])


# Arguments of _Layer before x. At module level: Dynamo does not read class attributes of a Function as constants.
_OPTIONS = 6


class _Layer(torch.autograd.Function):
    """Arguments: the options of the layer, then x, the states and the weights."""

    @staticmethod
    def forward(
        cell: str,
        directions: int,
        has_bias: bool,
        batch_first: bool,
        batch_sizes: Tensor | None,
        states: int,
        x: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        state, weights = list(tensors[:states]), list(tensors[states:])
        y, final, saved = layer_forward(x, state, weights, batch_sizes, cell, directions, has_bias, batch_first, True)
        return y, *final, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, ctx.directions, ctx.has_bias, ctx.batch_first, batch_sizes, ctx.states = inputs[:_OPTIONS]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(batch_sizes, output[0], output[-1], *inputs[_OPTIONS:])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate_and_saved: Tensor | None) -> tuple[Tensor | None, ...]:
        batch_sizes, y, saved, x, *tensors = ctx.saved_tensors
        dstate = list(dstate_and_saved[:-1])
        state, weights = tensors[: ctx.states], tensors[ctx.states :]
        needed = list(ctx.needs_input_grad[_OPTIONS:])
        options = {
            "batch_sizes": batch_sizes,
            "directions": ctx.directions,
            "has_bias": ctx.has_bias,
            "batch_first": ctx.batch_first,
        }
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = _differentiable_backward(dy, dstate, ctx.cell, x, state, weights, needed, options)
        else:
            gradients = layer_backward(dy, dstate, x, state, weights, y, saved, cell=ctx.cell, needed=needed, **options)
        given = iter(gradients)
        return (None,) * _OPTIONS + tuple([next(given) if wanted else None for wanted in needed])


def _differentiable_backward(
    dy: Tensor | None,
    dstate: Sequence[Tensor | None],
    cell: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    needed: Sequence[bool],
    options: dict[str, Any],
) -> tuple[Tensor | None, ...]:
    """The gradients as a graph (``create_graph=True``): the layer runs again, on the reference.

    It runs on views of its inputs, so that where one input is computed from another, or is the same tensor, the paths
    between them are left to autograd, which follows them outside.
    """
    x, state, weights = x.view_as(x), [s.view_as(s) for s in state], [w.view_as(w) for w in weights]
    y, final = reference.layer(cell, x, state, weights, **options)
    pairs = [(out, grad) for out, grad in zip((y, *final), (dy, *dstate), strict=True) if grad is not None]
    inputs = [t for t, wanted in zip((x, *state, *weights), needed, strict=True) if wanted]
    if not pairs:
        return (None,) * len(inputs)
    outputs, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, gradients, create_graph=True, allow_unused=True)
