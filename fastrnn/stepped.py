"""A recurrent module run one step at a time, so that autograd sees the hidden state between any two steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from fastrnn.functional import step
from fastrnn.spec import CELLS

__all__ = ["Reading", "run_stepped"]

State = tuple[Tensor, ...]


class Reading(NamedTuple):
    """One direction of one layer: its hidden states [B, P] in the order of reading; how many of them are real, [B]."""

    layer: int
    reverse: bool
    hidden: list[Tensor]
    lengths: Tensor


def run_stepped(module: Any, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any, list[Reading]]:
    """Output and final state as of ``module(input, hx)`` in evaluation mode, to rounding, and what each layer read.

    ``module`` is an RNN, LSTM or GRU of ``torch.nn`` or fastrnn. Every step reads the hidden state that stands in the
    ``Reading``, so derivatives with respect to it are total ones.
    """
    cell = CELLS[module.mode.lower()]
    x, lengths = _time_major(module, input)
    backwards = _backwards(len(x), lengths)
    unbatched = isinstance(input, Tensor) and input.dim() == 2
    given = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    readings, finals, outputs = [], [], [x]
    for k, weights in enumerate(module.all_weights):
        layer, reverse = divmod(k, 2) if module.bidirectional else (k, 0)
        if not reverse:
            x, outputs = torch.cat(outputs, 2), []
        widths = cell.state_widths(*weights[1].shape)
        state = [s[k].unsqueeze(0) if unbatched else s[k] for s in given]
        state = state or [x.new_zeros(x.size(1), width) for width in widths]
        source = _reordered(x, backwards) if reverse else x
        hidden, final = _run(cell.name, source, lengths, state, weights, module.bias)
        y = torch.stack(hidden)
        outputs.append(_reordered(y, backwards) if reverse else y)
        readings.append(Reading(layer, bool(reverse), hidden, lengths))
        finals.append(final)
    states = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
    if unbatched:
        states = tuple(s.squeeze(1) for s in states)
    return _shaped_as(module, input, torch.cat(outputs, 2)), states if len(states) > 1 else states[0], readings


def _time_major(module: Any, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor]:
    """[T, B, I] and the lengths of the rows."""
    if isinstance(input, PackedSequence):
        x, lengths = pad_packed_sequence(input)
        return x, lengths.to(x.device)
    x = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if module.batch_first else input
    return x, torch.full((x.size(1),), len(x), device=x.device)


def _shaped_as(module: Any, input: Tensor | PackedSequence, y: Tensor) -> Any:
    if isinstance(input, PackedSequence):
        if input.sorted_indices is not None:
            y = y[:, input.sorted_indices]
        return input._replace(data=torch.cat([row[:n] for row, n in zip(y, input.batch_sizes.tolist(), strict=True)]))
    return y.squeeze(1) if input.dim() == 2 else y.transpose(0, 1) if module.batch_first else y


def _backwards(steps: int, lengths: Tensor) -> Tensor:
    """[T, B]: where each step of a backward reading lies. Padding stays in place."""
    places = torch.arange(steps, device=lengths.device)[:, None]
    return torch.where(places < lengths, lengths - 1 - places, places)


def _reordered(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(0, places[:, :, None].expand(-1, -1, x.size(2)))


def _run(
    cell: str, x: Tensor, lengths: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor], has_bias: bool
) -> tuple[list[Tensor], State]:
    # A state that requires grad makes all that follow do so, even if no weight does.
    state = tuple(s if s.requires_grad else s.detach().requires_grad_() for s in initial)
    hidden = []
    for t, row in enumerate(x):
        new = step(cell, row, state, weights, has_bias=has_bias)
        alive = (t < lengths)[:, None]
        state = tuple(torch.where(alive, n, s) for n, s in zip(new, state, strict=True))
        hidden.append(state[0])
    return hidden, state
