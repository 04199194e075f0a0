"""One class for a whole sequence: many to one."""

import torch
from torch import Tensor, nn

from fastrnn.exporting.links import Pool
from fastrnn.models.recurrence import Recurrent, State, build, checked_lengths, last_hidden, lengths_of, mask_of, read
from fastrnn.modules import LSTM

__all__ = ["SequenceClassifier"]

POOLINGS = ("max", "last", "mean")


class SequenceClassifier(nn.Module):
    """Embedding, recurrent layers, pooling over the real positions, and one score for each class.

    ``pooling`` is ``"max"`` (max over time, Collobert et al. 2011), ``"last"`` (the final states of the last layer, of
    both directions if there are two) or ``"mean"``. Padding takes no part: a sequence has the same scores alone and in
    any batch. ``dropout`` acts on embeddings, between layers and on the pooled vector.

    Call: ``scores = model(tokens, lengths=None, mask=None)``.
        tokens: int64 [B, T].
        lengths: integers [B]; or
        mask: bool [B, T], true at real positions, which stand on the left. Without either every row has T tokens.
        scores: [B, classes].

    Raises:
        ValueError: unknown pooling; lengths and mask both given; an empty row; a mask with padding before a token.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        rnn: Recurrent = LSTM,
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = False,
        pooling: str = "max",
        dropout: float = 0.0,
        padding: int = 0,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.pooling = pooling
        self.directions = 2 if bidirectional else 1
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=padding)
        self.rnn = build(rnn, embedding, hidden, layers, dropout=dropout, bidirectional=bidirectional)
        self.scores = nn.Linear(self.directions * hidden, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            if lengths is not None:
                raise ValueError("expected lengths or mask, got both")
            if mask.shape != tokens.shape or mask.dtype != torch.bool:
                expected = tuple(tokens.shape)
                raise ValueError(f"mask: expected bool of shape {expected}, got {mask.dtype} of {tuple(mask.shape)}")
            lengths = lengths_of(mask, "mask")
        lengths = checked_lengths(tokens, lengths)
        y, state = read(self.rnn, self.dropout(self.embedding(tokens)), lengths)
        return self.scores(self.dropout(self._pool(y, state, lengths)))

    def chain(self) -> list[nn.Module]:
        """What ``fastrnn.export`` writes, for rows of equal length."""
        return [self.embedding, self.rnn, Pool(self.pooling, self.directions), self.scores]

    def _pool(self, y: Tensor, state: State, lengths: Tensor) -> Tensor:
        if self.pooling == "last":
            return last_hidden(state, self.directions)
        if self.pooling == "mean":
            return y.sum(1) / lengths.to(y.device, y.dtype)[:, None]
        real = mask_of(lengths, y.size(1), y.device)
        return y.masked_fill(~real[:, :, None], -torch.inf).amax(1)
