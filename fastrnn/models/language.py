"""A language model: scores of the next token after every token."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastrnn.models.decoding import check_decoding, evaluating, rollout
from fastrnn.models.recurrence import Recurrent, State, build
from fastrnn.modules import LSTM

__all__ = ["LanguageModel"]


class LanguageModel(nn.Module):
    """Embedding, recurrent layers, and scores of the next token (Mikolov et al. 2010).

    With ``tied`` the scores use the embedding's matrix (Press and Wolf, 2017; Inan et al. 2017), initialised as that of
    a linear layer; where ``hidden`` differs from ``embedding`` a linear layer without bias stands between, as in Press
    and Wolf. ``dropout`` acts on embeddings, between layers and before the scores.

    Call: ``scores, state = model(tokens, state=None)``.
        tokens: int64 [B, T].
        state: what an earlier call returned, to go on from there; zeros if None. For truncated back-propagation
            through time pass ``fastrnn.models.detach(state)``.
        scores: [B, T, vocabulary], of the token that follows each.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        rnn: Recurrent = LSTM,
        embedding: int = 128,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        projected = tied and hidden != embedding
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.rnn = build(rnn, embedding, hidden, layers, dropout=dropout)
        self.projection = nn.Linear(hidden, embedding, bias=False) if projected else nn.Identity()
        self.scores = nn.Linear(embedding if tied else hidden, vocabulary)
        if tied:
            self.embedding.weight = self.scores.weight
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.rnn(self.dropout(self.embedding(tokens)), state)
        return self.scores(self.projection(self.dropout(y))), state

    def chain(self) -> list[nn.Module]:
        """What ``fastrnn.export`` writes."""
        return [self.embedding, self.rnn, self.projection, self.scores]

    def generate(
        self,
        prefix: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """At most ``length`` tokens that follow ``prefix``, int64; arguments and errors as of ``stream``."""
        tokens = self.stream(prefix, length, temperature=temperature, top_k=top_k, seed=seed, stop=stop)
        return torch.tensor(list(tokens), dtype=torch.int64, device=prefix.device)

    def stream(
        self,
        prefix: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: int | None = None,
    ) -> Iterator[int]:
        """Yields at most ``length`` tokens that follow ``prefix``, int64 [T], without dropout.

        The prefix is read once, then each new token with the state carried along. The scores are divided by
        ``temperature``; at 0 the likeliest token is taken. ``top_k`` leaves the so many likeliest, 0 all. With ``seed``
        numbers come from a generator of its own, otherwise from the global one. ``stop`` ends the text and is not
        yielded.

        Raises:
            ValueError: an empty prefix, length below 1, negative top_k, a temperature that is negative or not finite.
        """
        if prefix.dim() != 1 or len(prefix) == 0:
            raise ValueError(f"prefix: expected [T] with at least one token, got {tuple(prefix.shape)}")
        check_decoding(length, temperature, top_k)
        steps = rollout(
            self._advance, prefix.unsqueeze(0), None, length, temperature=temperature, top_k=top_k, seed=seed
        )
        return _until(stop, steps)

    def _advance(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        with evaluating(self):
            scores, state = self(tokens, state)
        return scores[:, -1], state


def _until(stop: int | None, steps: Iterator[Tensor]) -> Iterator[int]:
    for step in steps:
        token = int(step)
        if token == stop:
            return
        yield token
