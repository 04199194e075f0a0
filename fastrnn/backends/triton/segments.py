"""Batches whose rows begin anew at some steps, by way of packed batches: there every segment of a row is a row.

Segments do not depend on one another, so they run side by side, in as many steps as the longest has, and the kernels
of packed batches run them as they are. The CPU waits for the device, once in forward and once in backward, to learn how
many segments have each step: so many rows tensors have. Marks inside the time loops would need no wait, but a load and
a choice for every state and step, and all steps one after another.
"""

import torch
from torch import Tensor

from fastrnn.backends.triton.checks import Inputs
from fastrnn.spec import LayerSpec

__all__ = ["Packing"]


class Packing:
    """Which of T * B steps of rows make up the packed batch, and what of one belongs to what of the other.

    Direction 0 enters a segment at its first step and leaves it at the last, direction 1 the other way round. A row of
    the call without steps is its own segment, behind the others: what it is left with is what it began with.

    Attributes:
        inputs: of the packed batch, whose row S at step k is the k-th step of segment S.
    """

    def __init__(self, spec: LayerSpec, inputs: Inputs) -> None:
        x, (lengths, reset, reset_state) = inputs.x, inputs.segments
        assert reset is not None
        self._extent = steps, batch = x.shape[:2]
        self._directions, self._device = spec.directions, x.device
        length, begin, ends = _segments(reset, lengths)
        counts = len(length) - torch.searchsorted(length.flip(0), torch.arange(steps, device=x.device), right=True)
        sizes = _to_cpu(counts)
        sizes = sizes[sizes > 0]
        segments = int(sizes[0]) if len(sizes) else 0

        length, begin = length[:segments], begin[:segments]
        at_least_one = max(batch, 1)  # a divisor
        self._row = row = begin % at_least_one
        first, last = begin < batch, begin // at_least_one + length == ends[row]
        self._entered = self._by_direction(begin, begin + (length - 1) * batch)
        self._anew = self._by_direction(reset.flatten()[begin], ~last)
        self._leaving = self._by_direction(last, first)
        firsts, lasts = self._segment_of_rows(first), self._segment_of_rows(last)
        self._entered_by, self._left_by = self._by_direction(firsts, lasts), self._by_direction(lasts, firsts)

        rows = int(sizes.sum())
        step = torch.arange(len(sizes), device=x.device).repeat_interleave(counts[: len(sizes)], output_size=rows)
        segment = torch.arange(rows, device=x.device) - (counts.cumsum(0) - counts)[step]
        place = begin[segment] + step * batch
        self._places = (place // at_least_one, place % at_least_one)

        widths = spec.state_widths(*spec.hidden_and_outputs(inputs.weights[spec.w_hh])).values()
        self._initial = list(inputs.state) or [x.new_zeros(spec.directions, batch, width) for width in widths]
        self._resets = list(reset_state)
        given = inputs.state or reset_state  # zeros throughout otherwise
        state = [self._initial_of_segments(i) for i in range(len(widths))] if given else []
        noise = inputs.noise
        if noise.h_mask is not None:
            noise = noise._replace(h_mask=noise.h_mask[:, row])
        self.inputs = Inputs(self.pack(x), state, inputs.weights, sizes, noise=noise, places=place)

    @property
    def rows(self) -> int:
        return len(self.inputs.x)

    def pack(self, t: Tensor) -> Tensor:
        """[T, B, width] to [N, width]."""
        return t[self._places]

    def pack_states(self, t: Tensor) -> Tensor:
        """[D, T, B, width] to [D, N, width]."""
        step, row = self._places
        return t[:, step, row]

    def unpack(self, t: Tensor) -> Tensor:
        """``pack`` undone, zeros elsewhere."""
        out = t.new_zeros(*self._extent, t.shape[-1])
        out[self._places] = t
        return out

    def unpack_states(self, t: Tensor) -> Tensor:
        step, row = self._places
        out = t.new_zeros(self._directions, *self._extent, t.shape[-1])
        out[:, step, row] = t
        return out

    def final(self, of_segments: Tensor, state: int) -> Tensor:
        """One of the final states, from that of the segments."""
        return _take(torch.cat((of_segments, self._initial[state]), 1), self._left_by)

    def dfinal(self, of_call: Tensor | None) -> Tensor | None:
        """For the segments, from that of one of the final states."""
        return None if of_call is None else torch.where(self._leaving, of_call[:, self._row], 0.0)

    def dinitial(self, of_segments: Tensor, dfinal: Tensor | None) -> Tensor:
        """Of one of the initial states, from that of the segments and what came for the final one."""
        own = torch.where(self._anew, 0.0, of_segments)
        if dfinal is None:
            dfinal = own.new_zeros(self._directions, self._extent[1], own.shape[-1])
        return _take(torch.cat((own, dfinal.to(own.dtype)), 1), self._entered_by)

    def dreset(self, of_segments: Tensor, state: int) -> Tensor:
        """Of one of the states of a reset, from that of the segments. No addition is atomic."""
        width = of_segments.shape[-1]
        by_step = of_segments.new_zeros(self._directions, self._extent[0] * self._extent[1], width)
        values = torch.where(self._anew, of_segments, 0.0)
        by_step.scatter_(1, self._entered.expand_as(values), values)
        by_step = by_step.view(self._directions, *self._extent, width)
        return by_step if self._resets[state].dim() == 4 else by_step.sum(1)

    def _initial_of_segments(self, state: int) -> Tensor:
        initial = self._initial[state][:, self._row]
        if not self._resets:
            return torch.where(self._anew, 0.0, initial)
        reset = self._resets[state]
        by_segment = _take(reset.flatten(1, 2), self._entered) if reset.dim() == 4 else reset[:, self._row]
        return torch.where(self._anew, by_segment, initial)

    def _by_direction(self, forward: Tensor, reverse: Tensor) -> Tensor:
        """[D, size, 1], to be expanded along the width of a state."""
        return torch.stack((forward, reverse)[: self._directions]).unsqueeze(-1)

    def _segment_of_rows(self, chosen: Tensor) -> Tensor:
        """[B], for each row of the call the one of its segments that is ``chosen``."""
        batch, segments = self._extent[1], len(chosen)
        found = torch.arange(segments, segments + batch + 1, device=self._device)
        at = torch.where(chosen, self._row, batch)
        return found.scatter_(0, at, torch.arange(segments, device=self._device))[:batch]


def _segments(reset: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each step of each row [T * B] how long the segment is that begins there and which step it is, the longest
    first, those where none begins with 0; and [B], the steps of each row."""
    steps, batch = reset.shape
    t = torch.arange(steps, device=reset.device).unsqueeze(1)
    whole = torch.full((batch,), steps, device=reset.device)
    ends = whole if lengths is None else lengths.long().clamp(0, steps)
    begins = (t < ends) & (reset | (t == 0))
    next_begins = torch.where(begins, t, steps).flip(0).cummin(0).values.flip(0)
    stops = torch.minimum(torch.cat((next_begins[1:], whole.unsqueeze(0))), ends)
    length, begin = torch.where(begins, stops - t, 0).flatten().sort(descending=True, stable=True)
    return length, begin, ends


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Of [D, M, width] those at [D, K, 1]."""
    return rows.take_along_dim(index, 1)


def _to_cpu(counts: Tensor) -> Tensor:
    if counts.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("fastrnn: expected no CUDA graph capture of a reset: the CPU waits for its marks")
    return counts.cpu()
