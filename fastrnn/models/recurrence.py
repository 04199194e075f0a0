"""What the models share about recurrent layers: building one, what its state is made of, rows of unequal length.

A state is a Tensor [layers * D, B, H], or a tuple of such with the hidden state first. Nothing here asks for a class.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = [
    "Recurrent",
    "State",
    "build",
    "checked_lengths",
    "detach",
    "last_hidden",
    "lengths_of",
    "map_state",
    "mask_of",
    "probe",
    "read",
    "state_parts",
]

Recurrent = Callable[..., nn.Module]
State = Tensor | tuple[Tensor, ...]


def build(
    rnn: Recurrent, inputs: int, hidden: int, layers: int = 1, *, dropout: float = 0.0, bidirectional: bool = False
) -> nn.Module:
    """A stack of layers of the class ``rnn``, batch first. One layer has no place for ``dropout``."""
    between = dropout if layers > 1 else 0.0
    return rnn(inputs, hidden, num_layers=layers, batch_first=True, dropout=between, bidirectional=bidirectional)


def state_parts(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def map_state(function: Callable[..., Tensor], state: State, *others: Any) -> State:
    """``function`` of every part of ``state``, with the corresponding items of ``others``: a state like it."""
    if isinstance(state, tuple):
        return tuple(function(*items) for items in zip(state, *others, strict=True))
    return function(state, *(next(iter(other)) for other in others))


def detach(state: State | None) -> State | None:
    """The state cut from what computed it, for truncated back-propagation through time (Williams and Peng, 1990)."""
    return None if state is None else map_state(Tensor.detach, state)


def last_hidden(state: State, directions: int) -> Tensor:
    """Final hidden states of the last layer, both directions side by side: [B, D * H]."""
    return state_parts(state)[0][-directions:].transpose(0, 1).flatten(1)


@torch.no_grad()
def probe(rnn: nn.Module, inputs: int) -> State:
    """A state of the layer, which takes ``inputs`` features, for one row. It shows the parts and their widths."""
    like = next(rnn.parameters())
    mode = rnn.training
    _, state = rnn.eval()(like.new_zeros(1, 1, inputs))  # in training mode dropout would draw numbers
    rnn.train(mode)
    return state


def checked_lengths(tokens: Tensor, lengths: Tensor | None, name: str = "lengths") -> Tensor:
    """``lengths`` of the rows of ``tokens`` [B, T], int64 [B] on the CPU; all T if there are none.

    Raises:
        ValueError: where shapes do not fit, or a row is empty or longer than T.
    """
    if tokens.dim() != 2:
        raise ValueError(f"tokens: expected [B, T], got {tuple(tokens.shape)}")
    batch, steps = tokens.shape
    if lengths is None:
        lengths = torch.full((batch,), steps)
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise ValueError(f"{name}: expected {batch} integers, got {lengths.dtype} of shape {tuple(lengths.shape)}")
    lengths = lengths.to("cpu", torch.int64)
    wrong = ((lengths < 1) | (lengths > steps)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{name}: expected 1 to {steps} in every row, got {int(lengths[row])} in row {row}")
    return lengths


def lengths_of(mask: Tensor, name: str) -> Tensor:
    """How many positions of each row of ``mask`` [B, T] are real: int64 [B].

    Raises:
        ValueError: where padding stands before a real position.
    """
    lengths = mask.sum(1)
    wrong = (mask != mask_of(lengths, mask.size(1))).any(1).nonzero()
    if len(wrong):
        raise ValueError(
            f"{name}: expected padding on the right only, got it before a real position in row {wrong[0, 0]}"
        )
    return lengths


def mask_of(lengths: Tensor, steps: int, device: torch.device | None = None) -> Tensor:
    """Bool [B, T], true where a position is real."""
    lengths = lengths.to(device or lengths.device)
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def read(rnn: nn.Module, x: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Every row of ``x`` [B, T, I] up to its own length: the output [B, T, D * H], zero beyond, and the final state."""
    lengths = lengths.cpu()
    if bool((lengths == x.size(1)).all()):
        return rnn(x, state)
    packed, state = rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), state)
    return pad_packed_sequence(packed, batch_first=True, total_length=x.size(1))[0], state
