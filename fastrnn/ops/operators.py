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
of computation, on a GPU of the type of ``x``. S is that of the cell, and with zoneout ``saved_by_zoneout`` more. A
gradient that is recorded saves what it needs unasked.

``lengths``, ``reset`` and, of its ``reset_state``, ``h_reset`` and ``c_reset`` are those of ``fastrnn.spec.Segments``.
Lengths that are not from 0 to T are refused on the CPU; on a GPU, which is not waited for, the nearest are taken.
With ``every_state`` the final states are followed by the cell's own states after every step, [D, T, B, H], [D, N, H] of
a packed batch, so that ``dstate`` has one more. With ``recompute`` a gradient that is recorded saves only y, and runs
forward once more. ``h_mask``, ``zoneout_h``, ``zoneout_c`` and ``zoneout_seed`` are those of ``fastrnn.spec.Noise``,
the mask shaped as ``h_0``.

With ``layer_norm`` x are the gates' normalised products with it, [..., D*G*H], bias included: what forms them, of every
step at once, is for the caller. ``weights`` then lists w_hh, with bias b_hh, with a projection w_hr, the gains w_ln_hh
[G*H] of the products with h, and of a cell with a state of its own w_ln_c and, with bias, b_ln_c [H]. These products
are saved besides.

``layer_backward`` returns gradients for those of (x, *state, *weights, *reset_state) that ``needed`` flags, in order,
the state being ``h_0`` and ``c_0`` as far as given. With ``samples`` > 1 those of the weights come for each sample,
[samples, ...]: row b of a batch belongs to sample ``b % samples``. ``layer_double_backward`` is its derivative: from
the gradients of its results to those of (dy, *dstate, x, *state, *weights, *reset_state) that ``wanted`` flags.

Where weights have one dimension more than said here, the first of size E, every tensor has it but ``batch_sizes``,
``lengths`` and ``reset``: these are E layers, the members of an ensemble.

``frozen_forward`` takes float32 ``x`` and ``state``, and ``weights`` without projection whose w_ih and w_hh are
bfloat16, or int8 with two more at the end of each direction: scale_ih and scale_hh, float32 [G*H].
"""

import ast
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import cpu
from fastrnn.spec import BackwardCall, ForwardCall, LayerSpec

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


class _Results:
    """New tensors of the form of a call's results, or of its arguments' gradients."""

    def __init__(self, call: ForwardCall) -> None:
        for t in (*call.state, *call.weights):
            # A call that mixes meta tensors with others would get memory that nobody has written.
            if t.device != call.x.device:
                raise RuntimeError(
                    f"fastrnn: expected states and weights on {call.x.device} like the input, got {t.device}"
                )
        self.call = call
        self.members = tuple(call.w_hh.shape[: call.members])
        self.leading = tuple(call.x.shape[call.members : -1])
        if call.swapped:
            self.leading = self.leading[::-1]
        self.spec = LayerSpec(*call.options)  # projected or not; frozen weights are more than a layer's
        self.hidden, self.outputs = self.spec.hidden_and_outputs(call.w_hh)

    def sequence(self, width: int) -> Tensor:
        """Step by step in memory."""
        t = self.call.x.new_empty((*self.members, *self.leading, width))
        return t.transpose(self.call.members, self.call.members + 1) if self.call.swapped else t

    def y(self) -> Tensor:
        return self.sequence(self.call.directions * self.outputs)

    def final_state(self) -> list[Tensor]:
        call = self.call
        directions = () if call.one_step else (call.directions,)
        batch: Any
        if call.batch_sizes is None:
            batch = self.leading[-1]
        elif call.state:
            batch = call.state[0].shape[-2]
        else:
            batch = torch.library.get_ctx().new_dynamic_size()
        widths = self.spec.state_widths(self.hidden, self.outputs).values()
        states = [call.x.new_empty((*self.members, *directions, batch, width)) for width in widths]
        if call.every_state:
            by_step = (*self.members, *directions, *self.leading)
            states += [call.x.new_empty((*by_step, width)) for width in [*widths][1:]]
        return states

    def saved(self) -> Tensor:
        call = self.call
        rows = math.prod(self.leading) if call.save else 0
        wide = torch.float64 if call.x.dtype == torch.float64 else torch.float32
        shape = (*self.members, call.directions, rows, call.saved_width * self.hidden)
        return call.x.new_empty(shape, dtype=call.x.dtype if call.x.is_cuda else wide)


@torch.library.register_fake("fastrnn::layer_forward", lib=library)
def _layer_forward_fake(*args: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    new = _Results(ForwardCall(*args))
    return new.y(), new.final_state(), new.saved()


@torch.library.register_fake("fastrnn::frozen_forward", lib=library)
def _frozen_forward_fake(*args: Any) -> tuple[Tensor, list[Tensor]]:
    new = _Results(ForwardCall.of_frozen(*args))
    return new.y(), new.final_state()


@torch.library.register_fake("fastrnn::layer_backward", lib=library)
def _layer_backward_fake(*args: Any) -> list[Tensor]:
    call = BackwardCall(*args)
    new = _Results(call.forward)
    by_sample = () if call.samples == 1 else (call.samples,)
    gradients = [new.sequence(call.x.shape[-1]), *[s.new_empty(s.shape) for s in call.forward.state]]
    for w in call.weights:
        gradients.append(w.new_empty((*new.members, *by_sample, *w.shape[len(new.members) :])))
    gradients += [s.new_empty(s.shape) for s in call.forward.reset_state]
    return [t for t, wanted in zip(gradients, call.needed, strict=True) if wanted]
