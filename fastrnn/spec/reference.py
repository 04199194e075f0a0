"""The oracle: every cell and the loop around it in plain PyTorch.

Any device, any floating dtype, differentiable to any order. The fused backends are checked against it in float64,
second derivatives are taken through it, and layers that no fused backend accepts run on it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from fastrnn.spec.cell import CELLS
from fastrnn.spec.layer import LayerSpec

__all__ = ["hidden", "layer", "step"]

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


def _cifg(gx: Tensor, gh: Tensor, state: State) -> State:
    """Greff et al. (2015), the coupled input and forget gate: an LSTM whose i is 1 - f."""
    f, g, o = (gx + gh).chunk(3, -1)
    f = torch.sigmoid(f)
    c = f * state[1] + (1 - f) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


_CELL_FUNCTIONS = {"rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu, "lstm": _lstm, "gru": _gru, "cifg": _cifg}
assert _CELL_FUNCTIONS.keys() == CELLS.keys()


def _hidden_of_lstm(saved: Mapping[str, Tensor]) -> Tensor:
    return saved["o"] * torch.tanh(saved["c"])


_HIDDEN_FUNCTIONS = {"lstm": _hidden_of_lstm, "cifg": _hidden_of_lstm}
assert _HIDDEN_FUNCTIONS.keys() == {name for name, facts in CELLS.items() if facts.projectable}


def hidden(spec: LayerSpec, saved: Mapping[str, Tensor]) -> Tensor:
    """The cell's own ``h``, before its projection, from the values that a fused forward saves, by name."""
    return _HIDDEN_FUNCTIONS[spec.cell](saved)


def step(spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    """One step of one direction: ``x`` [B, I] and ``state``, empty for zeros, to the new state.

    It is projected if there is a projection.
    """
    w = dict(zip(spec.weight_names, weights, strict=True))
    if not state:
        widths = spec.state_widths(*spec.hidden_and_outputs(w["weight_hh"])).values()
        state = tuple([x.new_zeros(len(x), width) for width in widths])
    gx = linear(x, w["weight_ih"], w.get("bias_ih"))
    gh = linear(state[0], w["weight_hh"], w.get("bias_hh"))
    h, *others = _CELL_FUNCTIONS[spec.cell](gx, gh, state)
    return linear(h, w["weight_hr"]) if spec.projected else h, *others


def _direction(
    spec: LayerSpec, steps: Sequence[Tensor], state: State, weights: Sequence[Tensor], reverse: bool
) -> tuple[list[Tensor], State]:
    outputs: list[Tensor] = [torch.empty(0)] * len(steps)
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        active = len(steps[t])
        new = step(spec, steps[t], tuple(s[:active] for s in state), weights)
        outputs[t] = new[0]
        state = tuple(torch.cat([n, s[active:]]) for n, s in zip(new, state, strict=True))
    return outputs, state


def layer(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """One layer, the contract that every backend fulfils.

    Args:
        x: [T, B, I]; [B, T, I] if ``spec.batch_first``; [sum of batch_sizes, I] if ``batch_sizes`` is given.
        state: initial ``h`` [D, B, P] and the cell's other states [D, B, H]; empty for zeros.
        weights: for each direction ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, P], with bias ``bias_ih`` and
            ``bias_hh`` [G*H], with a projection ``weight_hr`` [P, H]. P is H where there is no projection.
        batch_sizes: int64 [T] on the CPU, not increasing: rows active at each step, as in ``PackedSequence``.

    Returns:
        ``y`` shaped as ``x`` with D*P in the last dimension, step by step in memory, and the final states shaped as
        ``state``.
    """
    steps = x.unbind(1 if spec.batch_first else 0) if batch_sizes is None else x.split(batch_sizes.tolist())
    if not state:
        widths = spec.state_widths(*spec.hidden_and_outputs(weights[1])).values()
        state = [x.new_zeros(spec.directions, len(steps[0]), width) for width in widths]
    per_direction = len(spec.weight_names)
    directions, finals = [], []
    for d in range(spec.directions):
        mine = weights[d * per_direction : (d + 1) * per_direction]
        outputs, final = _direction(spec, steps, tuple(s[d] for s in state), mine, reverse=d == 1)
        directions.append(torch.cat(outputs) if batch_sizes is not None else torch.stack(outputs))
        finals.append(final)
    y = torch.cat(directions, -1)
    swapped = spec.batch_first and batch_sizes is None
    return y.transpose(0, 1) if swapped else y, tuple(torch.stack(s) for s in zip(*finals, strict=True))
