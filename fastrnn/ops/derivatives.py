"""The second derivative of a layer, which no kernel forms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from fastrnn.ops.operators import library
from fastrnn.spec import ForwardCall, reference

__all__: list[str] = []


def _run(call: ForwardCall) -> tuple[Tensor, ...]:
    """y and the final states by the reference, of every form that the operators take."""
    if call.members:
        pairs = enumerate(zip(*call.inputs, strict=True))
        each = [_run(call.with_inputs(inputs).with_noise(call.noise.of_member(i))) for i, inputs in pairs]
        return tuple([torch.stack(t) for t in zip(*each, strict=True)])
    if call.one_step:
        final = reference.one_step(call.spec, call.x, tuple(call.state), call.weights, call.noise)
        return final[0], *final
    y, final = reference.layer(
        call.spec, call.x, call.state, call.weights, call.batch_sizes, call.segments, call.every_state, call.noise
    )
    return y, *final


_PLAIN = 11  # arguments up to ``wanted``; those of segments and noise are left out where they have their defaults


def _pairs(tensors: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> dict[str, Any]:
    """Arguments of ``grad``: those of the tensors that are there, depend on something, and have a gradient."""
    pairs = [
        (t, d) for t, d in zip(tensors, gradients, strict=True) if t is not None and t.requires_grad and d is not None
    ]
    return {"outputs": [t for t, _ in pairs], "grad_outputs": [d for _, d in pairs]}


@torch.library.impl(library, "layer_double_backward", "Batched")  # is_grads_batched=True
@torch.library.impl(library, "layer_double_backward", "CompositeImplicitAutograd")
def _double_backward(
    ddgradients: Sequence[Tensor | None], dy: Tensor | None, dstate: Sequence[Tensor | None], *others: Any
) -> list[Tensor]:
    """Runs the layer again, on the reference, and differentiates it twice.

    On views of its inputs, so that where one input is computed from another, or is the same tensor, the paths between
    them are left to autograd, which follows them outside.
    """
    recorded = torch.is_grad_enabled()
    *arguments, needed, wanted = others[:_PLAIN]
    call = ForwardCall.of(arguments, others[_PLAIN:])
    call = call._replace(every_state=len(dstate) > len(call.spec.facts.states))
    with torch.enable_grad():
        dresults = [d if d is None else d.view_as(d) for d in (dy, *dstate)]
        inputs = [t.view_as(t) for t in call.inputs]
        results = _run(call.with_inputs(inputs))
        of = [t for t, flag in zip(inputs, needed, strict=True) if flag]
        gradients: Any = grad(**_pairs(results, dresults), inputs=of, create_graph=True, allow_unused=True)
    variables = [t for t, flag in zip((*dresults, *inputs), wanted, strict=True) if flag and t is not None]
    found = _pairs(gradients, ddgradients)
    if not found["outputs"]:
        return [torch.zeros_like(t) for t in variables]
    second: Any = grad(**found, inputs=variables, create_graph=recorded, allow_unused=True)
    return [torch.zeros_like(t) if d is None else d for t, d in zip(variables, second, strict=True)]
