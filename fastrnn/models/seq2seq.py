"""From one sequence to another of a different length: many to many."""

import math

import torch
from torch import Tensor, nn

from fastrnn.models.attention import Attention, Memory
from fastrnn.models.decoding import Advance, beam_search, check_decoding, collect, evaluating, rollout
from fastrnn.models.recurrence import (
    Recurrent,
    State,
    build,
    checked_lengths,
    map_state,
    mask_of,
    probe,
    read,
    state_parts,
)
from fastrnn.modules import LSTM

__all__ = ["Seq2Seq", "teacher_forcing_ratio"]


class Seq2Seq(nn.Module):
    """An encoder's final state is a decoder's initial one (Sutskever et al. 2014), with attention if asked for.

    ``attention`` is None, ``"dot"`` or ``"additive"`` (see ``fastrnn.models.attention.Attention``). It follows the
    decoder's recurrent layers, so that a step reads the target alone and, with full teacher forcing, all steps are one
    call of these layers. The states of a ``bidirectional`` encoder pass a linear layer on their way, one for each part
    of the state. ``dropout`` acts on embeddings, between layers and before the scores.

    Targets begin with ``start`` and end with ``stop``, and ``padding`` fills both sides' rows on the right; in the loss
    ``ignore_index=padding`` leaves it out.

    Two simpler tasks are special cases. Classification (many to one) is a decoder of one step without attention, where
    ``SequenceClassifier`` scores the encoder's states directly. Tagging (many to many of equal lengths) is attention
    to the position of the step alone, where ``SequenceTagger`` scores the encoder's output directly.

    Call: ``scores = model(source, source_lengths, target, teacher_forcing=1.0)``.
        source: int64 [B, S].
        source_lengths: integers [B], all S if None.
        target: int64 [B, T] beginning with start.
        teacher_forcing: the probability with which a decoder's input is the target's token, for each row and step;
        otherwise it is the token of the highest score (scheduled sampling, Bengio et al. 2015). Below 1 steps are taken
        one by one, and numbers drawn from the global generator.
        scores: [B, T - 1, target_vocabulary], of the tokens ``target[:, 1:]``.

    Raises:
        ValueError: unknown attention, an empty source, a target that does not begin with start or is nothing else, a
            probability outside 0 to 1.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        rnn: Recurrent = LSTM,
        embedding: int = 256,
        hidden: int = 256,
        layers: int = 1,
        bidirectional: bool = True,
        attention: str | None = None,
        dropout: float = 0.0,
        padding: int = 0,
        start: int = 1,
        stop: int = 2,
    ) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.source_embedding = nn.Embedding(source_vocabulary, embedding, padding_idx=padding)
        self.target_embedding = nn.Embedding(target_vocabulary, embedding, padding_idx=padding)
        self.encoder = build(rnn, embedding, hidden, layers, dropout=dropout, bidirectional=bidirectional)
        self.decoder = build(rnn, embedding, hidden, layers, dropout=dropout)
        self.bridge = _Bridge(probe(self.decoder, embedding)) if bidirectional else nn.Identity()
        self.attention = Attention(attention, hidden, (2 if bidirectional else 1) * hidden) if attention else None
        self.scores = nn.Linear(hidden, target_vocabulary)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, source: Tensor, source_lengths: Tensor | None, target: Tensor, teacher_forcing: float = 1.0
    ) -> Tensor:
        if not 0 <= teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing: expected a probability, got {teacher_forcing}")
        if target.dim() != 2 or target.size(1) < 2 or bool((target[:, 0] != self.start).any()):
            raise ValueError(f"target: expected [B, T] with T of at least 2 that begins with start, {self.start}")
        state, memory = self.encode(source, source_lengths)
        if teacher_forcing == 1:
            return self.decode(target[:, :-1], state, memory)[0]
        scores: list[Tensor] = []
        for taught in target[:, :-1].split(1, 1):
            if scores:
                keep = torch.rand(taught.shape, device=taught.device) < teacher_forcing
                taught = torch.where(keep, taught, scores[-1].argmax(2))
            step, state = self.decode(taught, state, memory)
            scores.append(step)
        return torch.cat(scores, 1)

    def chain(self) -> list[nn.Module]:
        raise TypeError(
            "Seq2Seq: expected one chain, got an encoder and a decoder: export [model.source_embedding, model.encoder] "
            "and, without attention, [model.target_embedding, model.decoder, model.scores]"
        )

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> tuple[State, Memory | None]:
        """The decoder's initial state, and what it attends to."""
        lengths = checked_lengths(source, source_lengths, "source_lengths")
        y, state = read(self.encoder, self.dropout(self.source_embedding(source)), lengths)
        if self.attention is None:
            return self.bridge(state), None
        return self.bridge(state), self.attention.memory(y, mask_of(lengths, y.size(1), y.device))

    def decode(self, tokens: Tensor, state: State, memory: Memory | None) -> tuple[Tensor, State]:
        """Scores [B, T, target_vocabulary] of what follows each of ``tokens`` int64 [B, T], and the new state."""
        y, state = self.decoder(self.dropout(self.target_embedding(tokens)), state)
        if self.attention is not None:
            y, _ = self.attention(y, memory)
        return self.scores(self.dropout(y)), state

    def greedy(self, source: Tensor, source_lengths: Tensor | None, longest: int) -> list[list[int]]:
        """For each row of ``source`` the tokens before stop, at most ``longest``, always the likeliest next one."""
        check_decoding(longest)
        with evaluating(self):
            state, memory = self.encode(source, source_lengths)
            start = torch.full((len(source), 1), self.start, device=source.device)
            return collect(rollout(self._advance(memory), start, state, longest), self.stop)

    def beam(
        self, source: Tensor, source_lengths: Tensor | None, longest: int, width: int, length_penalty: float = 0.6
    ) -> list[list[int]]:
        """As ``greedy``, the best of ``width`` hypotheses that are extended side by side.

        The log probability of one is divided by ``((5 + length) / 6) ** length_penalty`` (Wu et al. 2016), stop counted
        in the length: 0 ranks by probability alone, which favours short ones.

        Raises:
            ValueError: ``longest`` or ``width`` below 1.
        """
        check_decoding(longest)
        if width < 1:
            raise ValueError(f"width: expected at least 1, got {width}")
        with evaluating(self):
            state, memory = self.encode(source, source_lengths)
            state = map_state(lambda part: part.repeat_interleave(width, 1), state)
            memory = memory and Memory(*(part.repeat_interleave(width, 0) for part in memory))
            advance = self._advance(memory)
            return beam_search(advance, state, len(source), self.start, self.stop, longest, width, length_penalty)

    def _advance(self, memory: Memory | None) -> Advance:
        def advance(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            scores, state = self.decode(tokens, state, memory)
            return scores[:, -1], state

        return advance


class _Bridge(nn.Module):
    """Final states of two directions to initial states of one, by a linear layer for each part of the state."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(2 * part.size(2), part.size(2)) for part in state_parts(state))

    def forward(self, state: State) -> State:
        def join(part: Tensor, linear: nn.Module) -> Tensor:  # [layers * 2, B, H] -> [layers, B, H]
            return linear(torch.cat([part[0::2], part[1::2]], 2))

        return map_state(join, state, self.linears)


def teacher_forcing_ratio(step: int, steps: int, schedule: str = "linear") -> float:
    """The probability of teacher forcing at ``step`` of ``steps``, by a schedule of Bengio et al. (2015).

    ``"linear"`` falls from 1 to 0, ``"exponential"`` from 1 to 0.01, ``"inverse_sigmoid"`` from 0.99 to 0.01 with 0.5
    half-way. Afterwards the ratio stays where it is.

    Raises:
        ValueError: an unknown schedule, a negative step, steps below 1.
    """
    if schedule not in _SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(_SCHEDULES)}, got {schedule!r}")
    if step < 0 or steps < 1:
        raise ValueError(f"expected a step of at least 0 and steps of at least 1, got {step} and {steps}")
    return _SCHEDULES[schedule](min(step / steps, 1.0))


_SCHEDULES = {
    "linear": lambda done: 1 - done,
    "exponential": lambda done: 0.01**done,
    "inverse_sigmoid": lambda done: 1 / (1 + math.exp(math.log(99) * (2 * done - 1))),
}
