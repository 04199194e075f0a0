"""A recurrent module run one step at a time, so that autograd sees the state between any two steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from fastrnn.functional import step
from fastrnn.spec import LayerSpec, Noise

__all__ = ["Reading", "State", "parts_of", "run_stepped"]

State = tuple[Tensor, ...]


class Reading(NamedTuple):
    """A direction of a layer: its states after each step, in reading order, and which rows have that step.

    The state of a row that is padded at a step is the one before. ``real`` holds for each step a bool [B], or [1] where
    all rows are alike.
    """

    layer: int
    reverse: bool
    states: list[State]
    real: list[Tensor]

    def followed_by(self, other: "Reading") -> "Reading":
        return self._replace(states=self.states + other.states, real=self.real + other.real)


def parts_of(hx: Any) -> State:
    """The tensors of a state as a layer takes it: none, one, or several."""
    return () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)


def run_stepped(module: Any, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any, list[Reading]]:
    """Output and final state as of ``module(input, hx)`` in evaluation mode, to rounding, and what each layer read.

    ``module`` is an RNN, LSTM or GRU of ``torch.nn`` or fastrnn. The next step and the output are computed from the
    very tensors in the ``Reading``, h [B, P] and an LSTM's c [B, H], so that derivatives by them are total ones.
    """
    own: dict[str, Any] = getattr(module, "own_options", dict)()
    projected, layer_norm = module.proj_size > 0, own.get("layer_norm", False)
    spec = LayerSpec(module.mode.lower(), has_bias=module.bias, projected=projected, layer_norm=layer_norm)
    noise = Noise(None, *own.get("zoneout", ()))
    x, lengths = _time_major(module, input)
    backwards = _backwards(len(x), lengths)
    real = [t < lengths for t in range(len(x))]
    unbatched = isinstance(input, Tensor) and input.dim() == 2
    given = parts_of(hx)
    readings: list[Reading] = []
    outputs = [x]
    for k, weights in enumerate(module.all_weights):
        layer, reverse = divmod(k, 2) if module.bidirectional else (k, 0)
        if not reverse:
            x, outputs = torch.cat(outputs, 2), []
        state = [s[k].unsqueeze(0) if unbatched else s[k] for s in given]
        widths = spec.state_widths(*spec.hidden_and_outputs(weights[1])).values()
        state = state or [x.new_zeros(x.size(1), width) for width in widths]
        source = _reordered(x, backwards) if reverse else x
        states = _run(spec, source, real, state, weights, noise)
        y = torch.stack([h for h, *_ in states])
        outputs.append(_reordered(y, backwards) if reverse else y)
        readings.append(Reading(layer, bool(reverse), states, real))
    finals = (torch.stack(parts) for parts in zip(*(reading.states[-1] for reading in readings), strict=True))
    final = tuple(part.squeeze(1) if unbatched else part for part in finals)
    return _shaped_as(module, input, torch.cat(outputs, 2)), final if len(final) > 1 else final[0], readings


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
    spec: LayerSpec,
    x: Tensor,
    real: list[Tensor],
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    noise: Noise,
) -> list[State]:
    # A state that requires grad makes all that follow do so, even if no weight does.
    state = tuple(s if s.requires_grad else s.detach().requires_grad_() for s in initial)
    states = []
    for row, alive in zip(x, real, strict=True):
        new = step(spec, row, state, weights, noise)
        state = tuple(torch.where(alive[:, None], n, s) for n, s in zip(new, state, strict=True))
        states.append(state)
    return states
