"""From text to padded batches of indices."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from .files import note

MOST = 100_000  # symbols; the embeddings of more outgrow the memory that all else takes

PADDING, START, STOP, UNKNOWN = range(4)
SPECIALS = ["<padding>", "<start>", "<stop>", "<unknown>"]

# Chinese and Japanese put no spaces between words: there every character is a word.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Vowel signs and accents, which \w leaves out, continue a word.
_MARK = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c) in ("Mn", "Mc"))
_LETTER = rf"(?:[^\W{_CHARACTER}]|[{_MARK}])"
_WORD = re.compile(rf"[{_CHARACTER}]|{_LETTER}+(?:'{_LETTER}+)*|[^\w\s]|_")


def words(text: str) -> list[str]:
    """Words and punctuation in lower case; every Chinese or Japanese character is one."""
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def split_words(text: str) -> list[str]:
    """What spaces and TABs separate; a no-break space is part of a word."""
    return re.findall("[^ \t]+", text)


def literal(symbols: Iterable[str]) -> list[str]:
    """Symbols of a user's text: one that looks like a special is an unknown one."""
    return [SPECIALS[UNKNOWN] if symbol in SPECIALS else symbol for symbol in symbols]


class Vocabulary:
    """Symbols and their indices; the first four are padding, start, stop and what is unknown."""

    def __init__(self, symbols: Sequence[str]):
        self.symbols = list(symbols)
        self.indices = {symbol: index for index, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, sequences: Iterable[Iterable[str]], minimum: int = 1) -> "Vocabulary":
        """Symbols that occur at least ``minimum`` times, the most frequent first."""
        return cls.frequent(Counter(chain.from_iterable(sequences)), minimum)

    @classmethod
    def frequent(cls, counts: "Counter[str]", minimum: int = 1, most: int = MOST) -> "Vocabulary":
        """As ``of``, but for counted symbols, and at most so many, which is said where there are more."""
        found = [symbol for symbol, count in counts.most_common() if count >= minimum and symbol not in SPECIALS]
        if len(found) > most:
            note("vocabulary", f"the most frequent {most} of {len(found)} symbols are known")
        return cls(SPECIALS + found[:most])

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self.indices

    def encode(self, sequence: Iterable[str]) -> list[int]:
        return [self.indices.get(symbol, UNKNOWN) for symbol in sequence]

    def decode(self, indices: Iterable[int]) -> list[str]:
        return [self.symbols[index] for index in indices]


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Sequences as rows [B, T], filled up with ``PADDING``, and their lengths [B]."""
    rows = [torch.tensor(sequence) for sequence in sequences]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING), lengths


def drop_words(tokens: Tensor, share: float) -> Tensor:
    """Tokens [B, T] of which a random share is ``UNKNOWN``, so that a model learns what to make of unknown words."""
    dropped = (torch.rand(tokens.shape) < share) & (tokens != PADDING)
    return tokens.masked_fill(dropped, UNKNOWN)
