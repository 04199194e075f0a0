"""One layer on the fastest backend that takes it, or on the reference."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops import flops
from fastrnn.ops.dispatch import runs_fused
from fastrnn.ops.operators import layer_forward
from fastrnn.spec import NONE, WHOLE, LayerSpec, Noise, Segments, pair_of, reference

__all__ = ["layer", "needs_gradient", "step"]

State = tuple[Tensor, ...]


def layer(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    segments: Segments = WHOLE,
    every_state: bool = False,
    recompute: bool = False,
    noise: Noise = NONE,
) -> tuple[Tensor, State]:
    """One layer, all its directions. Contract of ``reference.layer``, and ``state`` may be empty where it is packed.

    With ``recompute`` backward forms again what it needs besides inputs and outputs.
    """
    if not runs_fused(spec.cell, x, spec.layer_norm):
        return reference.layer(spec, x, state, weights, batch_sizes, segments, every_state, noise)
    return _fused(spec, x, state, weights, batch_sizes, segments, every_state, recompute, noise)


def step(spec: LayerSpec, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], noise: Noise = NONE) -> State:
    """One step of a layer of one direction. Contract of ``reference.one_step``; ``state`` may be empty for zeros."""
    if not runs_fused(spec.cell, x, spec.layer_norm):
        return reference.one_step(spec, x, tuple(state), weights, noise)
    return _fused(spec, x, state, weights, None, noise=noise)[1]


def _fused(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    segments: Segments = WHOLE,
    every_state: bool = False,
    recompute: bool = False,
    noise: Noise = NONE,
) -> tuple[Tensor, State]:
    flops.announce()
    if spec.layer_norm:
        spec, x, weights = reference.gate_inputs(spec, x, weights)
    arguments: Any = (x, *pair_of(state), list(weights), batch_sizes, *spec.arguments)
    if segments or every_state or recompute or noise or spec.layer_norm:
        lengths, reset, reset_state = segments
        arguments = (*arguments, False, lengths, reset, *pair_of(reset_state), every_state, recompute)
    if noise or spec.layer_norm:
        arguments = (*arguments, *noise, spec.layer_norm)
    y, final, _ = layer_forward(*arguments)
    return y, tuple(final)


def needs_gradient(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any([t.requires_grad for t in tensors])
