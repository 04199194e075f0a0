"""From text to padded batches of indices."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

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
        counts = Counter(symbol for sequence in sequences for symbol in sequence)
        found = [symbol for symbol, count in counts.most_common() if count >= minimum and symbol not in SPECIALS]
        return cls(SPECIALS + found)

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


def bucket(lengths: Sequence[int], size: int, generator: torch.Generator | None, pool: int = 50) -> list[list[int]]:
    """Batches of indices of similar length: drawn at random with a generator, else sorted by length.

    Random batches are sorted within pools of so many batches, which keeps padding and regularity low.
    """
    if generator is None:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return [order[i : i + size] for i in range(0, len(order), size)]
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for first in range(0, len(order), size * pool):
        part = sorted(order[first : first + size * pool], key=lengths.__getitem__)
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
