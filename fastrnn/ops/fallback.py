"""The gradients of the operators where there is no compiled extension: in C++ they are in csrc/torch/autograd.cpp."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from fastrnn.backends import cpu
from fastrnn.ops.operators import layer_backward, layer_double_backward, layer_forward, library
from fastrnn.spec import CELLS, CONSTANTS, BackwardCall, ForwardCall

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


_CONSTANTS = len(CONSTANTS)


class _Forward(_SingleLevelFunction):
    """Arguments: ``ForwardCall.form``, ``constants`` and ``inputs``. Results: y, the final states, ``saved``."""

    @staticmethod
    def forward(form: ForwardCall, *tensors: Any) -> tuple[Tensor, ...]:
        call = _filled(form, tensors)
        with torch._C._AutoDispatchBelowAutograd():
            y, final, saved = layer_forward(*call._replace(save=call.save or not _again(call)))
        return y, *final, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.form, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        saved = output[-1]
        ctx.save_for_backward(output[0], _none_of(saved) if _again(ctx.form) else saved, *tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *dstate_and_saved: Tensor | None) -> tuple[Tensor | None, ...]:
        y, saved, *tensors = ctx.saved_tensors
        dstate, needed = list(dstate_and_saved[:-1]), list(ctx.needs_input_grad[1 + _CONSTANTS :])
        if dy is None and all(d is None for d in dstate):
            return (None,) * len(ctx.needs_input_grad)
        call = _filled(ctx.form, tensors)
        if _again(call):
            with torch.no_grad():
                saved = layer_forward(*call._replace(save=True, every_state=False, recompute=False))[2]
        backward = BackwardCall.after(call, dy=dy, dstate=dstate, y=y, saved=saved, needed=needed)
        return *(None,) * (1 + _CONSTANTS), *_spread(layer_backward(*backward), needed)


class _Backward(_SingleLevelFunction):
    """Arguments: ``ForwardCall.form``, how many states have gradients, ``needed``, ``samples``, ``y``, ``saved``,
    ``ForwardCall.constants``, then dy, dstate and ``ForwardCall.inputs``."""

    @staticmethod
    def forward(
        form: ForwardCall, states: int, needed: list[bool], samples: int, y: Tensor, saved: Tensor, *others: Any
    ) -> tuple[Tensor, ...]:
        constants, (dy, *dstate), inputs = _split(others, states)
        backward = BackwardCall.after(
            _filled(form, (*constants, *inputs)), dy=dy, dstate=dstate, y=y, saved=saved, needed=needed, samples=samples
        )
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(layer_backward(*backward))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.form, ctx.states, ctx.needed, ctx.samples, _, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *ddgradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.samples != 1:
            raise NotImplementedError("fastrnn: gradients by sample have no derivative")
        constants, (dy, *dstate), inputs = _split(ctx.saved_tensors, ctx.states)
        call = _filled(ctx.form, (*constants, *inputs))
        before = 6 + _CONSTANTS
        wanted = list(ctx.needs_input_grad[before:])
        arguments = (call.x, call.h_0, call.c_0, call.weights, call.batch_sizes, *call.options, ctx.needed, wanted)
        found = layer_double_backward(list(ddgradients), dy, dstate, *arguments, *call.trailing_arguments)
        return *(None,) * before, *_spread(found, wanted)


def _filled(form: ForwardCall, tensors: Sequence[Any]) -> ForwardCall:
    return form.with_inputs(tensors[_CONSTANTS:]).with_constants(tensors[:_CONSTANTS])


def _split(tensors: Sequence[Any], states: int) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Constants, gradients of the results, inputs."""
    first = _CONSTANTS + 1 + states
    return tensors[:_CONSTANTS], tensors[_CONSTANTS:first], tensors[first:]


def _again(call: ForwardCall) -> bool:
    """Whether backward forms again what it needs, for a cell that needs anything."""
    return call.recompute and bool(CELLS[call.cell].saved)


def _none_of(saved: Tensor) -> Tensor:
    return saved.new_empty(*saved.shape[:-2], 0, saved.shape[-1])


def _forward(*args: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    call = ForwardCall(*args)
    if not _requires_gradient(call.inputs):
        with torch._C._AutoDispatchBelowAutograd():
            return layer_forward(*call)
    y, *final, saved = _apply(_Forward, call.form, *call.constants, *call.inputs)
    return y, final, saved if call.save else _none_of(saved)


def _backward(*args: Any) -> list[Tensor]:
    call = BackwardCall(*args)
    forward = call.forward
    differentiable: Any = (call.dy, *call.dstate, *forward.inputs)
    if not _requires_gradient(differentiable):
        with torch._C._AutoDispatchBelowAutograd():
            return layer_backward(*call)
    options = (forward.form, len(call.dstate), call.needed, call.samples)
    return list(_apply(_Backward, *options, call.y, call.saved, *forward.constants, *differentiable))


if cpu.extension is None:
    library.impl("layer_forward", _forward, "Autograd")
    library.impl("layer_backward", _backward, "Autograd")
