"""A layer in parts of some steps each, so that backward holds what it needs of one part at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastrnn.ops.function import layer
from fastrnn.spec import LayerSpec, Noise, Segments

__all__ = ["in_parts"]

State = tuple[Tensor, ...]


def in_parts(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    segments: Segments,
    every_state: bool,
    noise: Noise,
    size: int,
) -> tuple[Tensor, State]:
    """``layer`` of a batch that is not packed, in parts of ``size`` steps, each with ``recompute``.

    Between parts stand the states alone. The second direction is a layer of its own, on the steps turned round; it
    takes neither segments nor zoneout, which tell rows by their step.
    """
    one = spec._replace(directions=1)
    per_direction = len(weights) // spec.directions
    axis = int(spec.batch_first)
    outputs, others = [], []
    for d in range(spec.directions):
        steps = x if d == 0 else x.flip(axis)
        mine = weights[d * per_direction : (d + 1) * per_direction]
        of_state = noise if noise.h_mask is None else noise._replace(h_mask=noise.h_mask[d : d + 1])
        y, *states = _direction(one, steps, [s[d : d + 1] for s in state], mine, segments, every_state, of_state, size)
        if d == 1:
            count = len(spec.facts.states)
            y, states = y.flip(axis), [*states[:count], *[s.flip(1) for s in states[count:]]]
        outputs.append(y)
        others.append(states)
    if spec.directions == 1:
        return outputs[0], tuple(others[0])
    return torch.cat(outputs, -1), tuple([torch.cat(s) for s in zip(*others, strict=True)])


def _direction(
    spec: LayerSpec,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    segments: Segments,
    every_state: bool,
    noise: Noise,
    size: int,
) -> tuple[Tensor, ...]:
    axis, count = int(spec.batch_first), len(spec.facts.states)
    batch = x.size(1 - axis)
    ys, every = [], []
    for first, of_part in _parts(segments, x.size(axis), axis, size):
        part = x.narrow(axis, first, min(size, x.size(axis) - first))
        y, final = layer(spec, part, state, weights, None, of_part, every_state, True, noise.from_row(first * batch))
        state = final[:count]
        ys.append(y)
        every.append(final[count:])
    return torch.cat(ys, axis), *state, *[torch.cat(s, 1) for s in zip(*every, strict=True)]


def _parts(segments: Segments, steps: int, axis: int, size: int) -> Iterator[tuple[int, Segments]]:
    """The first step of each part, and its segments."""
    lengths, reset, reset_state = segments
    for first in range(0, steps, size):
        last = min(first + size, steps)
        yield (
            first,
            Segments(
                None if lengths is None else _within(lengths.long() - first, first > 0, last < steps, last - first),
                None if reset is None else reset.narrow(axis, first, last - first),
                [s[:, first:last] if s.dim() == 4 else s for s in reset_state],
            ),
        )


def _within(lengths: Tensor, begun: bool, goes_on: bool, steps: int) -> Tensor:
    """Lengths in one part. What is wrong with those of the whole stays so, for the layer to refuse."""
    lengths = lengths.clamp(min=0) if begun else lengths
    return lengths.clamp(max=steps) if goes_on else lengths
