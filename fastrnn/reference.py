"""The oracle: every cell and the loop around it in plain PyTorch.

Any device, any floating dtype, differentiable to any order. The fused backends are checked against it in float64,
second derivatives are taken through it, and layers that no fused backend accepts run on it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from fastrnn.spec import CELLS

__all__ = ["layer", "step"]

State = tuple[Tensor, ...]


def _rnn_tanh(gx: Tensor, gh: Tensor, state: State) -> State:
    return (torch.tanh(gx + gh),)


def _rnn_relu(gx: Tensor, gh: Tensor, state: State) -> State:
    return (torch.relu(gx + gh),)


def _lstm(gx: Tensor, gh: Tensor, state: State) -> State:
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), as in ``torch.nn.LSTM``."""
    i, f, g, o = (gx + gh).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(gx: Tensor, gh: Tensor, state: State) -> State:
    """Cho et al. (2014) with the reset gate after the product, as in ``torch.nn.GRU``."""
    gx_r, gx_z, gx_n = gx.chunk(3, -1)
    gh_r, gh_z, gh_n = gh.chunk(3, -1)
    r = torch.sigmoid(gx_r + gh_r)
    z = torch.sigmoid(gx_z + gh_z)
    n = torch.tanh(gx_n + r * gh_n)
    return ((1 - z) * n + z * state[0],)


_CELL_FUNCTIONS = {"rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu, "lstm": _lstm, "gru": _gru}
assert _CELL_FUNCTIONS.keys() == CELLS.keys()


def step(cell: str, x: Tensor, state: State, weights: Sequence[Tensor], has_bias: bool) -> State:
    """One step of one direction: ``x`` [B, I] and ``state`` to the new state, projected if there is a projection."""
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if has_bias else (None, None)
    projection = rest[2 if has_bias else 0 :]
    h, *others = _CELL_FUNCTIONS[cell](linear(x, w_ih, b_ih), linear(state[0], w_hh, b_hh), state)
    if projection:
        h = linear(h, projection[0])
    return h, *others


def _direction(
    cell: str, steps: Sequence[Tensor], state: State, weights: Sequence[Tensor], has_bias: bool, reverse: bool
) -> tuple[list[Tensor], State]:
    outputs: list[Tensor] = [torch.empty(0)] * len(steps)
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        active = len(steps[t])
        new = step(cell, steps[t], tuple(s[:active] for s in state), weights, has_bias)
        outputs[t] = new[0]
        state = tuple(torch.cat([n, s[active:]]) for n, s in zip(new, state, strict=True))
    return outputs, state


def layer(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    directions: int = 1,
    has_bias: bool = True,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """One layer, the contract that every backend fulfils.

    Args:
        cell: key of ``CELLS``.
        x: [T, B, I]; [B, T, I] if ``batch_first``; [sum of batch_sizes, I] if ``batch_sizes`` is given.
        state: initial ``h`` [D, B, P] and the cell's other states [D, B, H]; empty for zeros, unless packed.
        weights: for each direction ``w_ih`` [G*H, I], ``w_hh`` [G*H, P], with bias ``b_ih`` and ``b_hh`` [G*H],
            with a projection ``w_hr`` [P, H]. P is H where there is no projection.
        batch_sizes: int64 [T] on the CPU, not increasing: rows active at each step, as in ``PackedSequence``.

    Returns:
        ``y`` shaped as ``x`` with D*P in the last dimension, and the final states shaped as ``state``.
    """
    steps = x.unbind(1 if batch_first else 0) if batch_sizes is None else x.split(batch_sizes.tolist())
    per_direction = len(weights) // directions
    if not state:
        widths = CELLS[cell].state_widths(*weights[1].shape)
        state = [x.new_zeros(directions, len(steps[0]), width) for width in widths]
    ys, finals = [], []
    for d in range(directions):
        mine = weights[d * per_direction : (d + 1) * per_direction]
        y, final = _direction(cell, steps, tuple(s[d] for s in state), mine, has_bias, reverse=d == 1)
        ys.append(torch.cat(y) if batch_sizes is not None else torch.stack(y, 1 if batch_first else 0))
        finals.append(final)
    return torch.cat(ys, -1), tuple(torch.stack(s) for s in zip(*finals, strict=True))
