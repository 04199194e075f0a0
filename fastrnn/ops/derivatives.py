"""The second derivative of a layer, which no kernel forms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from fastrnn.ops.operators import library
from fastrnn.spec import LayerSpec, given, reference

__all__: list[str] = []


def _run(
    spec: LayerSpec, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], batch_sizes: Tensor | None
) -> tuple[Tensor, ...]:
    """y and the final states by the reference, of every form that the operators take."""
    if weights[1].dim() == 3:
        states = zip(*state, strict=True) if state else [()] * len(x)
        members = zip(x, states, zip(*weights, strict=True), strict=True)
        each = [_run(spec, x_, state_, weights_, batch_sizes) for x_, state_, weights_ in members]
        return tuple([torch.stack(t) for t in zip(*each, strict=True)])
    if batch_sizes is None and x.dim() == 2:
        final = reference.step(spec, x, tuple(state), weights)
        return final[0], *final
    y, final = reference.layer(spec, x, state, weights, batch_sizes)
    return y, *final


def _pairs(tensors: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> dict[str, Any]:
    """Arguments of ``grad``: those of the tensors that are there, depend on something, and have a gradient."""
    pairs = [
        (t, d) for t, d in zip(tensors, gradients, strict=True) if t is not None and t.requires_grad and d is not None
    ]
    return {"outputs": [t for t, _ in pairs], "grad_outputs": [d for _, d in pairs]}


@torch.library.impl(library, "layer_double_backward", "Batched")  # is_grads_batched=True
@torch.library.impl(library, "layer_double_backward", "CompositeImplicitAutograd")
def _double_backward(
    ddgradients: Sequence[Tensor | None],
    dy: Tensor | None,
    dstate: Sequence[Tensor | None],
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: Sequence[bool],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Runs the layer again, on the reference, and differentiates it twice.

    On views of its inputs, so that where one input is computed from another, or is the same tensor, the paths between
    them are left to autograd, which follows them outside.
    """
    recorded = torch.is_grad_enabled()
    spec = LayerSpec.of_weights(cell, directions, has_bias, batch_first, weights)
    state = given(h_0, c_0)
    states = len(state)
    with torch.enable_grad():
        dresults = [d if d is None else d.view_as(d) for d in (dy, *dstate)]
        inputs = [t.view_as(t) for t in (x, *state, *weights)]
        results = _run(spec, inputs[0], inputs[1 : 1 + states], inputs[1 + states :], batch_sizes)
        of = [t for t, flag in zip(inputs, needed, strict=True) if flag]
        gradients: Any = grad(**_pairs(results, dresults), inputs=of, create_graph=True, allow_unused=True)
    variables = [t for t, flag in zip((*dresults, *inputs), wanted, strict=True) if flag and t is not None]
    found = _pairs(gradients, ddgradients)
    if not found["outputs"]:
        return [torch.zeros_like(t) for t in variables]
    second: Any = grad(**found, inputs=variables, create_graph=recorded, allow_unused=True)
    return [torch.zeros_like(t) if d is None else d for t, d in zip(variables, second, strict=True)]
