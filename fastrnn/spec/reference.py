"""The oracle: every cell and the loop around it in plain PyTorch.

Any device, any floating dtype, differentiable to any order. The fused backends are checked against it in float64,
second derivatives are taken through it, and layers that no fused backend accepts run on it.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from fastrnn.spec.cell import CELLS
from fastrnn.spec.layer import NORM_EPSILON, LayerSpec
from fastrnn.spec.noise import NONE, Noise
from fastrnn.spec.segments import WHOLE, Segments

__all__ = ["gate_inputs", "hidden", "layer", "normalised", "one_step", "step"]

State = tuple[Tensor, ...]
# What the cell's own state goes through on its way to h.
Output = Callable[[Tensor], Tensor]


def _rnn_tanh(gx: Tensor, gh: Tensor, state: State, _: Output) -> State:
    return (torch.tanh(gx + gh),)


def _rnn_relu(gx: Tensor, gh: Tensor, state: State, _: Output) -> State:
    return (torch.relu(gx + gh),)


def _lstm(gx: Tensor, gh: Tensor, state: State, output: Output) -> State:
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), as in ``torch.nn.LSTM``."""
    i, f, g, o = (gx + gh).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(output(c)), c


def _gru(gx: Tensor, gh: Tensor, state: State, _: Output) -> State:
    """Cho et al. (2014) with the reset gate after the product, as in ``torch.nn.GRU``."""
    gx_r, gx_z, gx_n = gx.chunk(3, -1)
    gh_r, gh_z, gh_n = gh.chunk(3, -1)
    r = torch.sigmoid(gx_r + gh_r)
    z = torch.sigmoid(gx_z + gh_z)
    n = torch.tanh(gx_n + r * gh_n)
    return ((1 - z) * n + z * state[0],)


def _cifg(gx: Tensor, gh: Tensor, state: State, output: Output) -> State:
    """Greff et al. (2015), the coupled input and forget gate: an LSTM whose i is 1 - f."""
    f, g, o = (gx + gh).chunk(3, -1)
    f = torch.sigmoid(f)
    c = f * state[1] + (1 - f) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(output(c)), c


_CELL_FUNCTIONS = {"rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu, "lstm": _lstm, "gru": _gru, "cifg": _cifg}
assert _CELL_FUNCTIONS.keys() == CELLS.keys()


def _hidden_of_lstm(saved: Mapping[str, Tensor], output: Output) -> Tensor:
    return saved["o"] * torch.tanh(output(saved["c"]))


_HIDDEN_FUNCTIONS = {"lstm": _hidden_of_lstm, "cifg": _hidden_of_lstm}
assert _HIDDEN_FUNCTIONS.keys() == {name for name, facts in CELLS.items() if facts.projectable}


def hidden(spec: LayerSpec, saved: Mapping[str, Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The cell's own ``h``, before its projection, from the values that a fused forward of one direction saves, by
    name."""
    w = dict(zip(spec.weight_names, weights, strict=True))
    return _HIDDEN_FUNCTIONS[spec.cell](saved, lambda c: _normalised_state(w, c))


# Which units' h and other states stay as they are: bool, or shares.
Stays = tuple[Tensor | float, Tensor | float]


def step(
    spec: LayerSpec,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    h_mask: Tensor | None = None,
    stays: Stays | None = None,
) -> State:
    """One step of one direction: ``x`` [B, I] and ``state``, empty for zeros, to the new state.

    It is projected if there is a projection. Mask and what stays are those of ``Noise``, of one direction.
    """
    w = dict(zip(spec.weight_names, weights, strict=True))
    if not state:
        widths = spec.state_widths(*spec.hidden_and_outputs(w["weight_hh"])).values()
        state = tuple([x.new_zeros(len(x), width) for width in widths])
    h = state[0] if h_mask is None else state[0] * h_mask
    gx, gh = x if spec.gates_given else _gates(spec, w, "ih", x), _gates(spec, w, "hh", h)
    new = _CELL_FUNCTIONS[spec.cell](gx, gh, state, lambda c: _normalised_state(w, c))
    if spec.projected:
        new = (linear(new[0], w["weight_hr"]), *new[1:])
    if stays is None:
        return new
    of_h, of_c = stays
    return _mixed(of_h, state[0], new[0]), *[_mixed(of_c, s, n) for s, n in zip(state[1:], new[1:], strict=True)]


def gate_inputs(spec: LayerSpec, x: Tensor, weights: Sequence[Tensor]) -> tuple[LayerSpec, Tensor, list[Tensor]]:
    """A layer as one whose gates are given: that, the gates' products with ``x`` [..., D*G*H], the other weights."""
    names = spec.weight_names
    given = spec._replace(gates_given=True)
    products, others = [], []
    for d in range(spec.directions):
        w = dict(zip(names, weights[d * len(names) :], strict=False))
        products.append(_gates(spec, w, "ih", x))
        others += [w[name] for name in given.weight_names]
    return given, products[0] if spec.directions == 1 else torch.cat(products, -1), others


def normalised(spec: LayerSpec, products: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Gates' products [..., G*H], Ba et al. (2016): over the gates that are added together."""
    hidden = products.size(-1) // len(spec.facts.gates)
    sizes = [count * hidden for count in spec.facts.normalised]
    gains, biases = ([None] * len(sizes) if t is None else t.split(sizes) for t in (gain, bias))
    groups = zip(products.split(sizes, -1), gains, biases, strict=True)
    parts = [layer_norm(part, part.shape[-1:], g, b, NORM_EPSILON) for part, g, b in groups]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _gates(spec: LayerSpec, w: Mapping[str, Tensor], side: str, x: Tensor) -> Tensor:
    """A product with its bias; before that, of a layer with ``layer_norm``, normalised."""
    weight, bias = w[f"weight_{side}"], w.get(f"bias_{side}")
    if not spec.layer_norm:
        return linear(x, weight, bias)
    return normalised(spec, linear(x, weight), w[f"weight_ln_{side}"], bias)


def _normalised_state(w: Mapping[str, Tensor], c: Tensor) -> Tensor:
    if "weight_ln_c" not in w:
        return c
    return layer_norm(c, c.shape[-1:], w["weight_ln_c"], w.get("bias_ln_c"), NORM_EPSILON)


def _mixed(stays: Tensor | float, old: Tensor, new: Tensor) -> Tensor:
    if isinstance(stays, Tensor):
        return torch.where(stays, old, new)
    return stays * old + (1 - stays) * new if stays > 0 else new


def one_step(spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor], noise: Noise = NONE) -> State:
    """``step`` of a layer that has one direction and takes a single step, with mask and states [B, width]."""
    if not noise.zoneout:
        return step(spec, x, state, weights, noise.h_mask)
    hidden, _ = spec.hidden_and_outputs(weights[spec.w_hh])
    rows = torch.arange(len(x), device=x.device)
    return step(spec, x, state, weights, noise.h_mask, noise.stays(0, rows, hidden))


class _Batch:
    """The steps of a batch, each with the rows that have it, in whichever way it is given."""

    def __init__(
        self,
        spec: LayerSpec,
        x: Tensor,
        weights: Sequence[Tensor],
        batch_sizes: Tensor | None,
        segments: Segments,
        noise: Noise,
    ) -> None:
        self.spec, self.segments, self.noise, self.packed = spec, segments, noise, batch_sizes is not None
        self.steps = x.split(batch_sizes.tolist()) if batch_sizes is not None else x.unbind(int(spec.batch_first))
        self.rows = len(self.steps[0])
        self.first_rows = list(accumulate([len(s) for s in self.steps], initial=0))
        self.hidden, outputs = spec.hidden_and_outputs(weights[spec.w_hh])
        self.widths = spec.state_widths(self.hidden, outputs).values()
        self.x = x

    def zeros(self) -> State:
        return tuple([self.x.new_zeros(self.spec.directions, self.rows, width) for width in self.widths])

    def active(self, t: int) -> Tensor | None:
        """The rows [B, 1] that have step t; None for all of ``steps[t]``."""
        lengths = self.segments.lengths
        return None if lengths is None else (lengths > t).unsqueeze(1)

    def anew(self, t: int, reverse: bool) -> Tensor | None:
        """The rows [B, 1] that enter a segment at step t otherwise than with the initial state; None for none."""
        reset, lengths = self.segments.reset, self.segments.lengths
        if reset is None or (reverse and t + 1 == len(self.steps)):
            return None
        mark = t + 1 if reverse else t
        marked = reset[:, mark] if self.spec.batch_first else reset[mark]
        return (marked if lengths is None else marked & (lengths > mark)).unsqueeze(1)

    def reset_state(self, d: int, t: int) -> State:
        if not self.segments.reset_state:
            return tuple([s[d] for s in self.zeros()])
        return tuple([s[d, t] if s.dim() == 4 else s[d] for s in self.segments.reset_state])

    def inputs(self, d: int, t: int) -> Tensor:
        x, width = self.steps[t], self.spec.gates_width(self.hidden)
        return x[..., d * width : (d + 1) * width] if self.spec.gates_given else x

    def h_mask(self, d: int, rows: int) -> Tensor | None:
        return None if self.noise.h_mask is None else self.noise.h_mask[d, :rows]

    def stays(self, d: int, t: int) -> Stays | None:
        """Of the rows that have step t, by their places in y."""
        if not self.noise.zoneout:
            return None
        rows = torch.arange(self.first_rows[t], self.first_rows[t + 1], device=self.x.device)
        return self.noise.stays(d, rows, self.hidden)

    def joined(self, by_step: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(by_step)) if self.packed else torch.stack(list(by_step))


def _direction(batch: _Batch, state: State, weights: Sequence[Tensor], d: int) -> tuple[list[State], State]:
    """The states after each step, as far as it has rows, and the final ones."""
    after: list[State] = [()] * len(batch.steps)
    for t in reversed(range(len(batch.steps))) if d == 1 else range(len(batch.steps)):
        if (anew := batch.anew(t, reverse=d == 1)) is not None:
            state = tuple([torch.where(anew, r, s) for r, s in zip(batch.reset_state(d, t), state, strict=True)])
        rows = len(batch.steps[t])
        old = tuple([s[:rows] for s in state])
        new = step(batch.spec, batch.inputs(d, t), old, weights, batch.h_mask(d, rows), batch.stays(d, t))
        if (active := batch.active(t)) is None:
            after[t] = new
            state = tuple([torch.cat([n, s[rows:]]) for n, s in zip(new, state, strict=True)])
        else:
            after[t] = tuple([torch.where(active, n, 0.0) for n in new])
            state = tuple([torch.where(active, n, s) for n, s in zip(new, state, strict=True)])
    return after, state


def layer(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    segments: Segments = WHOLE,
    every_state: bool = False,
    noise: Noise = NONE,
) -> tuple[Tensor, State]:
    """One layer, the contract that every backend fulfils.

    Args:
        x: [T, B, I]; [B, T, I] if ``spec.batch_first``; [sum of batch_sizes, I] if ``batch_sizes`` is given.
        state: initial ``h`` [D, B, P] and the cell's other states [D, B, H]; empty for zeros.
        weights: for each direction ``weight_ih`` [G*H, I], ``weight_hh`` [G*H, P], with bias ``bias_ih`` and
            ``bias_hh`` [G*H], with a projection ``weight_hr`` [P, H], with ``layer_norm`` its gains. P is H where there
            is no projection.
        batch_sizes: int64 [T] on the CPU, not increasing: rows active at each step, as in ``PackedSequence``.
        segments: of a batch that is not packed.
        every_state: the cell's own states after each step are asked for.
        noise: of the states between steps.

    Returns:
        ``y`` shaped as ``x`` with D*P in the last dimension, step by step in memory, and the final states shaped as
        ``state``, with ``every_state`` followed by the cell's other states after every step [D, T, B, H], of a packed
        batch [D, N, H].
    """
    batch = _Batch(spec, x, weights, batch_sizes, segments, noise)
    state = state or batch.zeros()
    per_direction = len(spec.weight_names)
    outputs, finals, others = [], [], []
    for d in range(spec.directions):
        mine = weights[d * per_direction : (d + 1) * per_direction]
        after, final = _direction(batch, tuple([s[d] for s in state]), mine, d)
        h, *of_cell = [batch.joined(s) for s in zip(*after, strict=True)]
        outputs.append(h)
        finals.append(final)
        others.append(of_cell)
    y = torch.cat(outputs, -1)
    y = y.transpose(0, 1) if spec.batch_first and not batch.packed else y
    results = [torch.stack(s) for s in zip(*finals, strict=True)]
    if every_state:
        results += [torch.stack(s) for s in zip(*others, strict=True)]
    return y, tuple(results)
