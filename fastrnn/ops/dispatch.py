"""Chooses where a layer runs: on a fused backend, or on the reference where no backend takes it."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from fastrnn.backends import cpu, triton

__all__ = ["BACKENDS", "call_cell", "call_layers", "reasons_against", "runs_fused"]

BACKENDS = (cpu, triton)


def reasons_against(cell: str, device: torch.device, dtype: torch.dtype) -> dict[str, list[str]]:
    """For each backend by name, why it does not take a cell on this device and dtype; no reasons if it does."""
    return {backend.NAME: backend.reasons_against(cell, device, dtype) for backend in BACKENDS}


# The question is asked at every call and its answer does not change. A plain dict, which Dynamo traces through.
_answers: dict[tuple[str, str, torch.dtype], bool] = {}


def runs_fused(cell: str, x: torch.Tensor, layer_norm: bool = False) -> bool:
    """Whether a fused backend takes a cell on tensors like ``x``. Warns once for each kind that none takes.

    Inside ``torch.autograd.forward_ad`` the answer is no: the operators have no forward-mode derivative. So it is
    inside two gradients of ``torch.func``, one in the other: ``torch.vmap`` does not map the second derivative. With
    ``layer_norm`` it is in every transform: kernels give the gradients of its gains for all rows together.
    """
    if forward_ad._current_level >= 0 or _in_gradients(0 if layer_norm else 2):
        return False
    kind = (cell, x.device.type, x.dtype)
    answer = _answers.get(kind)
    if answer is None:
        answer = _ask(cell, x.device, x.dtype)
        if not torch.compiler.is_compiling():  # Dynamo would guard on the missing entry and compile again
            _answers[kind] = answer
    return answer


def _in_gradients(least: int) -> bool:
    """Inside a transform of ``torch.func``, and in so many gradients at least."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    levels = torch._C._functorch.get_interpreter_stack() or []
    return sum(level.key() == torch._C._functorch.TransformType.Grad for level in levels) >= least


def _ask(cell: str, device: torch.device, dtype: torch.dtype) -> bool:
    against = reasons_against(cell, device, dtype)
    if not all(against.values()):
        return True
    told = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in against.items())
    warnings.warn(
        f"fastrnn: {cell} layers on {device.type} in {dtype} run on the slow reference ({told})", stacklevel=4
    )
    return False


def _nothing(*arguments: object) -> None:
    pass


# What a module's forward returns, by a shorter way than the operators, or None where there is none:
# csrc/python/call.h. It saves 9 us a call, several times what a short step takes.
call_layers: Callable[..., Any] = cpu.extension.call_layers if cpu.extension else _nothing
call_cell: Callable[..., Any] = cpu.extension.call_cell if cpu.extension else _nothing
