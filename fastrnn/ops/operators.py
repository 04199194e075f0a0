"""The registered operators: one layer forward, one layer backward, one frozen layer forward, opaque to the compiler.

Their schemas stand in ``schemas.inc``. They, the CPU implementations and the gradients are registered by the compiled
extension (``csrc/torch/library.cpp``), so that programs without Python have them too. Where there is none, the schemas
are defined here and the gradients come from ``fallback.py``, for the GPU.

``x`` is [T, B, I]; [B, T, I] if ``batch_first``; packed [N, I] if ``batch_sizes`` (int64 [T], on the CPU) is given; or
a single step [B, I]. ``h_0`` is [D, B, P], ``c_0`` of a cell with a state of its own [D, B, H], without D for a single
step; both are None for zeros. ``weights`` lists w_ih [G*H, I], w_hh [G*H, P], with bias b_ih and b_hh [G*H], with a
projection w_hr [P, H], for each direction. ``y`` lies in memory step by step, also where its shape is [B, T, D*P], as
in ``torch.nn``.

``saved`` is [D, N, S*H], its rows those of y in memory, with N = 0 if ``save`` is false; on the CPU it is of the type
of computation, on a GPU of the type of ``x``. A gradient that is recorded saves what it needs unasked.

``layer_backward`` returns gradients for those of (x, *state, *weights) that ``needed`` flags, in order, the state being
``h_0`` and ``c_0`` as far as given. With ``samples`` > 1 those of the weights come for each sample, [samples, ...]:
row b of a batch belongs to sample ``b % samples``. ``layer_double_backward`` is its derivative: from the gradients of
its results to those of (dy, *dstate, x, *state, *weights) that ``wanted`` flags.

Where weights have one dimension more than said here, the first of size E, every tensor but ``batch_sizes`` has it:
these are E layers, the members of an ensemble.

``frozen_forward`` takes float32 ``x`` and ``state``, and ``weights`` without projection whose w_ih and w_hh are
bfloat16, or int8 with two more at the end of each direction: scale_ih and scale_hh, float32 [G*H].
"""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import cpu
from fastrnn.spec import LayerSpec, given

__all__ = ["frozen_forward", "layer_backward", "layer_double_backward", "layer_forward", "library"]

library = torch.library.Library("fastrnn", "FRAGMENT")
if cpu.extension is None:
    # String literals side by side are joined in Python as in C++.
    for _schema in ast.literal_eval(f"[{Path(__file__).with_name('schemas.inc').read_text()}]"):
        library.define(_schema)

layer_forward = torch.ops.fastrnn.layer_forward.default
layer_backward = torch.ops.fastrnn.layer_backward.default
layer_double_backward = torch.ops.fastrnn.layer_double_backward.default
frozen_forward = torch.ops.fastrnn.frozen_forward.default


class _Form:
    """Sizes of a call, and where its dimensions are."""

    def __init__(
        self,
        x: Tensor,
        state: Sequence[Tensor],
        weights: Sequence[Tensor],
        batch_sizes: Tensor | None,
        spec: LayerSpec,
    ) -> None:
        for t in (*state, *weights):
            # A call that mixes meta tensors with others would get memory that nobody has written.
            if t.device != x.device:
                raise RuntimeError(f"fastrnn: expected states and weights on {x.device} like the input, got {t.device}")
        self.spec = spec
        self.members = tuple(weights[1].shape[:-2])
        first = len(self.members)
        one_step = batch_sizes is None and x.dim() - first == 2
        self.swapped = spec.batch_first and batch_sizes is None and not one_step
        self.first = first
        leading = x.shape[first:-1]
        self.rows = leading[0] if len(leading) == 1 else leading[0] * leading[1]
        self.leading = tuple(reversed(leading)) if self.swapped else tuple(leading)
        self.batch: Any
        if batch_sizes is None:
            self.batch = self.leading[-1]
        elif state:
            self.batch = state[0].shape[-2]
        else:
            self.batch = torch.library.get_ctx().new_dynamic_size()
        self.directions = () if one_step else (spec.directions,)
        self.hidden, self.outputs = spec.hidden_and_outputs(weights[1])

    def sequence(self, like: Tensor, width: int) -> Tensor:
        """A new sequence tensor, step by step in memory."""
        t = like.new_empty((*self.members, *self.leading, width))
        return t.transpose(self.first, self.first + 1) if self.swapped else t

    def final_state(self, x: Tensor) -> list[Tensor]:
        widths = self.spec.state_widths(self.hidden, self.outputs).values()
        return [x.new_empty((*self.members, *self.directions, self.batch, width)) for width in widths]


@torch.library.register_fake("fastrnn::layer_forward", lib=library)
def _layer_forward_fake(
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
    spec = LayerSpec(cell, directions, has_bias, batch_first)
    form = _Form(x, given(h_0, c_0), weights, batch_sizes, spec)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    saved = x.new_empty(
        (*form.members, directions, form.rows if save else 0, len(spec.facts.saved) * form.hidden),
        dtype=x.dtype if x.is_cuda else wide,
    )
    return form.sequence(x, directions * form.outputs), form.final_state(x), saved


@torch.library.register_fake("fastrnn::frozen_forward", lib=library)
def _frozen_forward_fake(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    form = _Form(x, given(h_0, c_0), weights, batch_sizes, LayerSpec(cell, directions, has_bias, batch_first))
    return form.sequence(x, directions * form.outputs), form.final_state(x)


@torch.library.register_fake("fastrnn::layer_backward", lib=library)
def _layer_backward_fake(
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
    form = _Form(x, given(h_0, c_0), weights, batch_sizes, LayerSpec(cell, directions, has_bias, batch_first))
    gradients = [form.sequence(x, x.shape[-1]), *[s.new_empty(s.shape) for s in given(h_0, c_0)]]
    by_sample = () if samples == 1 else (samples,)
    gradients += [w.new_empty((*form.members, *by_sample, *w.shape[form.first :])) for w in weights]
    return [t for t, wanted in zip(gradients, needed, strict=True) if wanted]
