"""One tag for every token: many to many, of equal lengths."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from fastrnn.models.recurrence import Recurrent, build, checked_lengths, last_hidden, lengths_of, mask_of, read
from fastrnn.modules import LSTM

__all__ = ["SequenceTagger", "TagScores", "tag_scores"]


class SequenceTagger(nn.Module):
    """Embedding, recurrent layers, and scores of the tags at each token.

    With ``characters``, the size of an alphabet whose 0 is padding, a small bidirectional recurrent layer of the same
    class reads the characters of each word, and its final states stand beside the word's embedding (Ling et al. 2015;
    Lample et al. 2016). ``dropout`` acts on this input, between layers and before the scores.

    Call: ``scores = model(tokens, lengths=None, characters=None)``.
        tokens: int64 [B, T].
        lengths: integers [B], all T if None.
        characters: int64 [B, T, C], padded on the right; a word without characters contributes zeros.
        scores: [B, T, tags]. Those at padding mean nothing, and ``loss`` leaves them out.

    Raises:
        ValueError: lengths that do not fit, an empty row, characters missing or unexpected or padded inside a word.
    """

    def __init__(
        self,
        vocabulary: int,
        tags: int,
        *,
        rnn: Recurrent = LSTM,
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        padding: int = 0,
        characters: int = 0,
        character_embedding: int = 32,
        character_hidden: int = 32,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=padding)
        self.characters = _Characters(rnn, characters, character_embedding, character_hidden) if characters else None
        inputs = embedding + (2 * character_hidden if characters else 0)
        self.rnn = build(rnn, inputs, hidden, layers, dropout=dropout, bidirectional=bidirectional)
        self.scores = nn.Linear((2 if bidirectional else 1) * hidden, tags)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, characters: Tensor | None = None) -> Tensor:
        if (characters is None) != (self.characters is None):
            expected = "none" if self.characters is None else "[B, T, C]"
            got = "none" if characters is None else tuple(characters.shape)
            raise ValueError(f"characters: expected {expected}, as the model was built, got {got}")
        lengths = checked_lengths(tokens, lengths)
        x = self.embedding(tokens)
        if self.characters is not None:
            x = torch.cat([x, self.characters(characters, tokens.shape)], 2)
        y, _ = read(self.rnn, self.dropout(x), lengths)
        return self.scores(self.dropout(y))

    def chain(self) -> list[nn.Module]:
        """What ``fastrnn.export`` writes, for rows of equal length.

        Raises:
            TypeError: the model reads characters, which are beside the words, not before them.
        """
        if self.characters is not None:
            raise TypeError("SequenceTagger: expected one that reads no characters, whose layers are no chain")
        return [self.embedding, self.rnn, self.scores]

    def loss(self, scores: Tensor, tags: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Cross entropy of ``scores`` [B, T, tags] and ``tags`` int64 [B, T], the mean over all real tokens."""
        real = mask_of(checked_lengths(tags, lengths), tags.size(1), tags.device)
        return cross_entropy(scores[real], tags[real])


class _Characters(nn.Module):
    """A vector for each word from its characters: the final states of both directions."""

    def __init__(self, rnn: Recurrent, alphabet: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, embedding, padding_idx=0)
        self.rnn = build(rnn, embedding, hidden, bidirectional=True)
        self.width = 2 * hidden

    def forward(self, characters: Tensor, shape: torch.Size) -> Tensor:  # [B, T, C] -> [B, T, 2 * H]
        if characters.shape[:-1] != shape:
            raise ValueError(f"characters: expected {(*shape, 'C')}, got {tuple(characters.shape)}")
        words = characters.flatten(0, 1)
        lengths = lengths_of(words != 0, "characters")
        spelt = lengths > 0
        embedded = self.embedding(words)
        vectors = embedded.new_zeros(len(words), self.width)
        if spelt.any():
            _, state = read(self.rnn, embedded[spelt], lengths[spelt])
            found = last_hidden(state, 2)
            vectors = vectors.to(found.dtype).index_put((spelt,), found)
        return vectors.unflatten(0, shape)


class TagScores(NamedTuple):
    """Of each tag, float64 [tags]; zero where nothing was found or nothing was there."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def tag_scores(predicted: Tensor, tags: Tensor, number: int, lengths: Tensor | None = None) -> TagScores:
    """Precision, recall and F1 of each of ``number`` tags over all real tokens.

    ``predicted`` and ``tags`` are int64 [B, T], ``lengths`` integers [B], all T if None.
    """
    if predicted.shape != tags.shape:
        raise ValueError(f"predicted: expected {tuple(tags.shape)} as tags, got {tuple(predicted.shape)}")
    real = mask_of(checked_lengths(tags, lengths), tags.size(1), tags.device)
    found, there = one_hot(predicted[real], number), one_hot(tags[real], number)
    right = (found & there).sum(0).double()
    found, there = found.sum(0), there.sum(0)
    return TagScores(right / found.clamp(min=1), right / there.clamp(min=1), 2 * right / (found + there).clamp(min=1))
