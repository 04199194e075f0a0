"""A sequence from one vector: one to many."""

import torch
from torch import Tensor, nn

from fastrnn.models.decoding import check_decoding, collect, evaluating, rollout
from fastrnn.models.recurrence import Recurrent, State, build, probe, state_parts
from fastrnn.modules import LSTM

__all__ = ["SequenceGenerator"]


class SequenceGenerator(nn.Module):
    """A vector, such as the features of an image or a one-hot class, becomes the initial state of a language model.

    Each part of the state (h, and c where the class has one) is a linear function of the vector (Karpathy and Fei-Fei,
    2015, and Xu et al. 2015 condition captions on images in this way). ``dropout`` acts on embeddings, between layers
    and before the scores.

    Call: ``scores = model(vector, tokens)``.
        vector: [B, features] in the parameters' dtype. tokens: int64 [B, T].
        scores: [B, T, vocabulary], of the token that follows each.
    """

    def __init__(
        self,
        features: int,
        vocabulary: int,
        *,
        rnn: Recurrent = LSTM,
        embedding: int = 128,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.rnn = build(rnn, embedding, hidden, layers, dropout=dropout)
        state = probe(self.rnn, embedding)
        self.layers = layers
        self.state_is_tuple = isinstance(state, tuple)
        self.initial = nn.ModuleList(nn.Linear(features, layers * part.size(2)) for part in state_parts(state))
        self.scores = nn.Linear(hidden, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector: Tensor, tokens: Tensor) -> Tensor:
        return self._continue(tokens, self._initial(vector))[0]

    def chain(self) -> list[nn.Module]:
        raise TypeError(
            "SequenceGenerator: expected one chain, got a vector beside the tokens: export [model.embedding, "
            "model.rnn, model.scores], whose initial state the modules of model.initial give, a file each"
        )

    def generate(
        self,
        vector: Tensor,
        start: int,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: int | None = None,
    ) -> list[list[int]]:
        """For each row of ``vector`` [B, features], at most ``length`` tokens that follow ``start``, without dropout.

        ``temperature``, ``top_k`` and ``seed`` as of ``LanguageModel.stream``. ``stop`` ends a row and is left out.

        Raises:
            ValueError: length below 1, negative top_k, a temperature that is negative or not finite.
        """
        check_decoding(length, temperature, top_k)
        tokens = torch.full((len(vector), 1), start, device=vector.device)
        with evaluating(self):
            state = self._initial(vector)
            steps = rollout(self._advance, tokens, state, length, temperature=temperature, top_k=top_k, seed=seed)
            return collect(steps, stop)

    def _initial(self, vector: Tensor) -> State:
        parts = [linear(vector).unflatten(1, (self.layers, -1)).transpose(0, 1).contiguous() for linear in self.initial]
        return tuple(parts) if self.state_is_tuple else parts[0]

    def _continue(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.rnn(self.dropout(self.embedding(tokens)), state)
        return self.scores(self.dropout(y)), state

    def _advance(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        scores, state = self._continue(tokens, state)
        return scores[:, -1], state
