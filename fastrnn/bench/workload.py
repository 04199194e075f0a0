"""From a case to modules with equal weights, an input, and one pass over it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn
from fastrnn.bench.case import Case
from fastrnn.modules.layers import hx_of
from fastrnn.spec import LayerSpec
from fastrnn.testing import LAYERS, bfloat16_products_allowed, counterpart_of

__all__ = ["Workload", "build", "converted", "lengths_of", "make_workload", "run_inference", "run_training"]

State = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Workload:
    """What every provider is given. ``cotangents`` belong to the flat outputs: the output, then the final states.

    ``weights`` are those of fastrnn's module; ``build`` makes torch.nn's of them where its cell is another one.
    """

    case: Case
    weights: dict[str, Tensor]
    input: Tensor | PackedSequence
    state: State | None
    cotangents: list[Tensor]

    @property
    def values(self) -> Tensor:
        return self.input.data if isinstance(self.input, PackedSequence) else self.input


def build(library: ModuleType, case: Case, weights: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """``library``'s module for the case, ``torch.nn``'s or ``fastrnn``'s, with ``weights``, which are fastrnn's.

    A cell that torch.nn lacks is computed there by its counterpart, such as an LSTM with tied gates.
    """
    cell = case.cell
    if library is nn:
        counterpart = counterpart_of(cell)
        cell, weights = counterpart.cell, counterpart.weights(weights)
    device = next(iter(weights.values())).device
    module = _make(library, cell, case, device=device, dtype=dtype)
    module.load_state_dict(weights)
    return module


def _make(library: ModuleType, cell: str, case: Case, **made: Any) -> nn.Module:
    options: dict[str, Any] = {
        "num_layers": case.layers,
        "bidirectional": case.bidirectional,
        "batch_first": case.batch_first,
    }
    if case.proj_size:
        options["proj_size"] = case.proj_size
    class_name, arguments = LAYERS[cell]
    return getattr(library, class_name)(case.input_size, case.hidden_size, **arguments, **options, **made)


def lengths_of(case: Case) -> Tensor:
    """Lengths of a batch: all equal, or two-dice shaped around half of the longest."""
    if not case.ragged:
        return torch.full((case.batch,), case.steps)
    generator = torch.Generator().manual_seed(1)
    lengths = (torch.rand(2, case.batch, generator=generator).mean(0) * case.steps).long().clamp(1, case.steps)
    lengths[case.batch // 2] = case.steps
    return lengths


def make_workload(case: Case, device: str = "cpu") -> Workload:
    torch.manual_seed(0)
    made: dict[str, Any] = {"device": device, "dtype": getattr(torch, case.dtype)}
    weights = _make(fastrnn, case.cell, case, **made).state_dict()

    depth = case.layers * case.directions
    leading = (case.batch, case.steps) if case.batch_first else (case.steps, case.batch)
    padded = torch.randn(*leading, case.input_size, **made)
    lengths = lengths_of(case)
    spec = LayerSpec(case.cell)
    widths = spec.state_widths(case.hidden_size, case.output_size).values()
    final = [torch.randn(depth, case.batch, width, **made) for width in widths]
    state = tuple(torch.tanh(torch.randn_like(s)) for s in final) if case.steps == 1 else None
    rows = (int(lengths.sum()),) if case.ragged else leading
    output = torch.randn(*rows, case.directions * case.output_size, **made)
    return Workload(
        case,
        weights,
        pack_padded_sequence(padded, lengths, case.batch_first, enforce_sorted=False) if case.ragged else padded,
        None if state is None else hx_of(state),
        [output, *final],
    )


def converted(work: Workload, dtype: torch.dtype) -> Workload:
    """The same numbers in another dtype, to be multiplied as they are."""
    state = work.state
    if state is not None:
        state = state.to(dtype) if isinstance(state, Tensor) else tuple(s.to(dtype) for s in state)
    case = replace(work.case, dtype=str(dtype).removeprefix("torch."), fp32_precision="")
    weights = {name: value.to(dtype) for name, value in work.weights.items()}
    return Workload(case, weights, work.input.to(dtype), state, [g.to(dtype) for g in work.cotangents])


def _asked_precision(case: Case) -> AbstractContextManager[None]:
    return bfloat16_products_allowed() if case.fp32_precision == "bf16" else nullcontext()


def run_inference(module: nn.Module, work: Workload) -> list[Tensor]:
    """The output (packed rows when ragged) and the final states."""
    with _asked_precision(work.case):
        output, state = module(work.input, work.state)
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *([state] if isinstance(state, Tensor) else state)]


def run_training(module: nn.Module, work: Workload, wanted: list[Tensor]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Outputs, and the gradients of ``wanted`` for the loss ``sum(output * cotangent)`` over all outputs."""
    outputs = run_inference(module, work)
    with _asked_precision(work.case):
        return outputs, torch.autograd.grad(outputs, wanted, work.cotangents)
