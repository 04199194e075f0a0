"""A Transformer that can be called as a recurrent layer, for comparison."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

HEADS = 4  # or 2 or 1, if the width is no multiple


class Transformer(nn.Module):
    """A Transformer encoder (Vaswani et al. 2017) with the constructor and the call of ``torch.nn.LSTM``, batch first.

    Its width is that of a recurrent layer's output, D * hidden_size, its feed-forward layers four times as wide; each
    layer normalises its input (Xiong et al. 2020). Positions are sines and cosines, added to the projected input.
    Without ``bidirectional`` a position sees itself and those before.

    There is no state to go on from, so ``state`` must be None. The final state that is returned is what a reader of a
    recurrent layer's expects: the output of the last position, or the first for the half that reads backwards.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        if not batch_first:
            raise ValueError("batch_first: expected True, got False")
        self.bidirectional = bidirectional
        width = hidden_size * (2 if bidirectional else 1)
        self.project = nn.Linear(input_size, width)
        heads = math.gcd(width, HEADS)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x: Tensor | PackedSequence, state: None = None) -> tuple[Tensor | PackedSequence, Tensor]:
        if state is not None:
            raise ValueError("state: expected None, a Transformer has no state to go on from")
        if isinstance(x, PackedSequence):
            padded, lengths = pad_packed_sequence(x, batch_first=True)
            y, final = self._encode(padded, lengths.to(padded.device))
            return pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False), final
        return self._encode(x, torch.full((len(x),), x.size(1), device=x.device))

    def _encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(x.size(1), device=x.device)
        padding = steps >= lengths[:, None]
        later = None if self.bidirectional else steps > steps[:, None]
        y = self.project(x)
        y = self.encoder(y + positions(x.size(1), y.size(2)).to(y), later, padding)
        last = y[torch.arange(len(y)), lengths - 1]
        if not self.bidirectional:
            return y, last[None]
        half = y.size(2) // 2
        return y, torch.stack([last[:, :half], y[:, 0, half:]])


def positions(steps: int, width: int) -> Tensor:
    """[T, width]: sines and cosines of the position, with wavelengths from 2 pi to 20000 pi."""
    angles = torch.arange(steps)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
