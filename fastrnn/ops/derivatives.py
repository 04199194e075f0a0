"""Derivatives that no kernel forms: the second ones, and all of them where there is no compiled extension."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from fastrnn.backends import cpu
from fastrnn.ops.operators import layer_backward, layer_double_backward, library
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


# In C++ these are in csrc/torch/autograd.cpp. ``inputs`` are all the arguments of an operator, in order.


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor], Tensor]) -> None:
    x, h_0, c_0, weights, batch_sizes, *ctx.options, _ = inputs
    y, _, saved = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(batch_sizes, y, saved, x, h_0, c_0, *weights)


def _flags(x: bool, h_0: bool, c_0: bool, weights: Sequence[bool]) -> list[bool]:
    return [x, h_0, c_0, *weights]


def _spread(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Any, ...]:
    """The gradients of x, h_0, c_0 and weights, None where none was wanted."""
    remaining = iter(gradients)
    x, h_0, c_0, *weights = [next(remaining) if flag else None for flag in wanted]
    return x, h_0, c_0, weights


def _of_given(flags: list[bool], h_0: Tensor | None, c_0: Tensor | None) -> list[bool]:
    """Without those of states that are not given."""
    x, of_h, of_c, *weights = flags
    return [x, *[flag for flag, s in ((of_h, h_0), (of_c, c_0)) if s is not None], *weights]


def _backward(ctx: Any, dy: Tensor | None, dfinal: list[Tensor | None] | None, _: Any) -> tuple[Any, ...]:
    batch_sizes, y, saved, x, h_0, c_0, *weights = ctx.saved_tensors
    spec = LayerSpec(*ctx.options)
    wanted = _flags(*ctx.needs_input_grad[:4])
    needed = _of_given(wanted, h_0, c_0)
    dstate = dfinal or [None] * len(spec.facts.states)
    gradients = layer_backward(dy, dstate, x, h_0, c_0, weights, y, saved, batch_sizes, *spec.arguments, needed)
    return *_spread(gradients, wanted), *(None,) * 6


def _keep_of_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    dy, dstate, x, h_0, c_0, weights, _, _, batch_sizes, *ctx.options, ctx.needed, ctx.samples = inputs
    ctx.states = len(dstate)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(batch_sizes, x, h_0, c_0, dy, *dstate, *weights)


def _of_backward(ctx: Any, ddgradients: list[Tensor | None]) -> tuple[Any, ...]:
    if ctx.samples != 1:
        raise NotImplementedError("fastrnn: gradients by sample have no derivative")
    batch_sizes, x, h_0, c_0, dy, *others = ctx.saved_tensors
    dstate, weights = others[: ctx.states], others[ctx.states :]
    of_dresults = [ctx.needs_input_grad[0], *ctx.needs_input_grad[1]]
    of_inputs = _flags(*ctx.needs_input_grad[2:6])
    gradients = layer_double_backward(
        ddgradients,
        dy,
        dstate,
        x,
        h_0,
        c_0,
        weights,
        batch_sizes,
        *LayerSpec(*ctx.options).arguments,
        ctx.needed,
        [*of_dresults, *_of_given(of_inputs, h_0, c_0)],
    )
    remaining = iter(gradients)
    ddy, *ddstate = [next(remaining) if flag else None for flag in of_dresults]
    return ddy, ddstate, *_spread(list(remaining), of_inputs), *(None,) * 9


if cpu.extension is None:
    torch.library.register_autograd("fastrnn::layer_forward", _backward, setup_context=_keep, lib=library)
    torch.library.register_autograd(
        "fastrnn::layer_backward", _of_backward, setup_context=_keep_of_backward, lib=library
    )
