"""The registered operators: one layer forward, one layer backward, one frozen layer forward, opaque to the compiler.

Schemas and fake implementations stand here, CPU implementations in ``csrc/torch/operators.cpp``. The schemas need no
compiled extension. ``torch.library.Library`` rather than the ``custom_op`` decorator: it saves about 10 us a call.

``x`` is [T, B, I], [B, T, I] if ``batch_first``, or packed [N, I] if ``batch_sizes`` (int64 [T], on the CPU) is
given. ``state`` is empty for zeros (not for a packed input), else ``h`` [D, B, P] and the cell's other states [D, B,
H]. ``weights`` lists w_ih [G*H, I], w_hh [G*H, P], with bias b_ih and b_hh [G*H], with a projection w_hr [P, H], for
each direction. ``saved`` is [D, N, S*H] with N = 0 if ``save`` is false, its layout the backend's own; on the CPU it
is of the type of computation, on a GPU of the type of ``x``. ``layer_backward`` returns gradients for those of (x,
*state, *weights) that ``needed`` flags, in order.

``frozen_forward`` takes float32 ``x`` and ``state``, and ``weights`` without projection whose w_ih and w_hh are
bfloat16, or int8 with two more at the end of each direction: scale_ih and scale_hh, float32 [G*H].
"""

import math

import torch
from torch import Tensor

from fastrnn.spec import LayerSpec

__all__ = ["frozen_forward", "layer_backward", "layer_forward"]

_library = torch.library.Library("fastrnn", "DEF")
_library.define(
    "layer_forward(Tensor x, Tensor[] state, Tensor[] weights, Tensor? batch_sizes, str cell, int directions, "
    "bool has_bias, bool batch_first, bool save) -> (Tensor y, Tensor[] final_state, Tensor saved)"
)
_library.define(
    "layer_backward(Tensor? dy, Tensor?[] dstate, Tensor x, Tensor[] state, Tensor[] weights, Tensor y, Tensor saved, "
    "Tensor? batch_sizes, str cell, int directions, bool has_bias, bool batch_first, bool[] needed) -> Tensor[]"
)

_library.define(
    "frozen_forward(Tensor x, Tensor[] state, Tensor[] weights, Tensor? batch_sizes, str cell, int directions, "
    "bool has_bias, bool batch_first) -> (Tensor y, Tensor[] final_state)"
)

layer_forward = torch.ops.fastrnn.layer_forward.default
layer_backward = torch.ops.fastrnn.layer_backward.default
frozen_forward = torch.ops.fastrnn.frozen_forward.default


def _outputs(spec: LayerSpec, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    _check_devices(x, state, weights)
    batch = state[0].shape[1] if state else x.shape[0 if spec.batch_first else 1]
    hidden, outputs = spec.hidden_and_outputs(weights[1])
    y = x.new_empty((*x.shape[:-1], spec.directions * outputs))
    widths = spec.state_widths(hidden, outputs).values()
    return y, [x.new_empty((spec.directions, batch, width)) for width in widths]


def _check_devices(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> None:
    # A call that mixes meta tensors with others comes here too, and would get memory that nobody has written.
    for t in (*state, *weights):
        if t.device != x.device:
            raise RuntimeError(f"fastrnn: expected states and weights on {x.device} like the input, got {t.device}")


@torch.library.register_fake("fastrnn::layer_forward", lib=_library)
def _layer_forward_fake(
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    save: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    spec = LayerSpec(cell, directions, has_bias, batch_first)
    y, final_state = _outputs(spec, x, state, weights)
    rows = math.prod(x.shape[:-1])  # Size.numel() would fix a symbolic length
    width = len(spec.facts.saved) * spec.hidden_and_outputs(weights[1])[0]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    dtype = x.dtype if x.is_cuda else wide
    saved = x.new_empty((directions, rows if save else 0, width), dtype=dtype)
    return y, final_state, saved


@torch.library.register_fake("fastrnn::frozen_forward", lib=_library)
def _frozen_forward_fake(
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    return _outputs(LayerSpec(cell, directions, has_bias, batch_first), x, state, weights)


@torch.library.register_fake("fastrnn::layer_backward", lib=_library)
def _layer_backward_fake(
    dy: Tensor | None,
    dstate: list[Tensor | None],
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor],
    y: Tensor,
    saved: Tensor,
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: list[bool],
) -> list[Tensor]:
    _check_devices(x, state, weights)
    inputs = (x, *state, *weights)
    return [
        torch.empty(t.shape, dtype=t.dtype, device=t.device) for t, wanted in zip(inputs, needed, strict=True) if wanted
    ]
