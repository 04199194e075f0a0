"""The next character of a text, here of classical Chinese poems; a model that continues what one begins.

Files: a poem a line; of a line with tabs (title, author, poem) what follows the last one. Any other text will do, too,
and with --level word, words between spaces take the place of characters. Lines longer than --longest of them (100) are
learned in pieces.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastrnn.models import LanguageModel

from .files import Refused, Source, note
from .records import Record, lengths
from .task import TextOptions, TextTask
from .text import PADDING, START, STOP, UNKNOWN, Vocabulary, pad

DATA = Path(__file__).parent / "data" / "poems.txt"
MARKS = re.compile("[，。！？；、：]")
SAMPLES, SAMPLE_LENGTH, TEMPERATURE = 64, 400, 0.7
LARGEST_EXPONENT = 700  # math.exp fails above 709


@dataclass(frozen=True)
class PoemsOptions(TextOptions):
    hidden: int = 256
    embedding: int = 256
    dropout: float = 0.5
    batch: int = 8
    rate: float = 4e-3
    longest: int = 100
    level: Literal["word", "char"] = "char"
    tied: bool = True


class Example(NamedTuple):
    symbols: list[str]  # with START and STOP where the line begins and ends here


class Poems(TextTask[LanguageModel]):
    Settings = PoemsOptions
    metric = "perplexity"
    epochs = 20
    is_better = staticmethod(operator.lt)
    reads_by = ("longest", "level")

    @property
    def _between(self) -> str:
        """What stands between two symbols of a text."""
        return " " if self.options.level == "word" else ""

    def read(self, path: Path | None) -> Sequence[Example]:
        with Source(path or DATA) as source:
            return self.read_examples(source)

    def records(self, source: Source) -> Iterator[Record]:
        poems = others = 0
        for number, line in source.numbered():
            poem = line.split("\t")[-1].strip()
            if poem:
                poems += 1
                symbols = self._symbols(poem)
                for piece in self._pieces(symbols):
                    yield Record(number, self._between.join(piece), len(piece), len(symbols))
            elif line.strip():
                others += 1
        if not poems:
            expected = "title TAB author TAB poem, or plain lines"
            raise Refused(f"{source.path}: expected {expected}; nothing follows the tabs")
        if others:
            note(source.path, f"lines left out in which nothing follows the last tab: {others}")

    def _symbols(self, text: str) -> list[str]:
        return text.split() if self.options.level == "word" else list(text)

    def _pieces(self, text: list[str]) -> Iterator[list[str]]:
        """With a zero, which no text has, for START and STOP."""
        symbols = ["\0", *text, "\0"]
        # The last symbol of a piece, which is only predicted there, is the first of the next one.
        cuts = [*range(0, len(symbols) - 1, self.options.longest or len(symbols)), len(symbols) - 1]
        for first, last in pairwise(cuts):
            yield symbols[first : last + 1]

    def example(self, text: str) -> Example:
        symbols = self._symbols(text)
        if text[0] == "\0":
            symbols[0] = "<start>"
        if text[-1] == "\0":
            symbols[-1] = "<stop>"
        return Example(symbols)

    def fit(self, examples: Sequence[Example]) -> None:
        self.vocabularies["characters"] = Vocabulary.of(example.symbols for example in examples)

    def build(self, rnn: Callable[..., nn.Module]) -> LanguageModel:
        return LanguageModel(
            len(self.vocabularies["characters"]),
            rnn=rnn,
            **self.sizes(),
            tied=self.options.tied,
        )

    def loss(self, model: LanguageModel, batch: Sequence[Example]) -> Tensor:
        total, number = self._loss(model, batch)
        return total / number

    def terms(self, batch: Sequence[Example]) -> int:
        """The symbols to predict that are known."""
        known = self.vocabularies["characters"]
        return sum(symbol in known for example in batch for symbol in example.symbols[1:])

    def _loss(self, model: LanguageModel, batch: Sequence[Example]) -> tuple[Tensor, int]:
        """The sum over the symbols that are known, and their number."""
        tokens, _ = pad([self.vocabularies["characters"].encode(example.symbols) for example in batch])
        scores, _ = model(tokens[:, :-1])
        targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == UNKNOWN, PADDING)
        total = nn.functional.cross_entropy(
            scores.flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="sum"
        )
        return total, max(int((targets != PADDING).sum()), 1)

    def evaluate(self, model: LanguageModel, examples: Sequence[Example]) -> dict[str, float]:
        """Perplexity per symbol that is known, and the share of those that are not."""
        sums = [self._loss(model, batch) for batch in self.batches(examples)]
        known = sum(number for _, number in sums)
        mean = sum(total.item() for total, _ in sums) / known
        perplexity = math.exp(mean) if mean < LARGEST_EXPONENT else math.inf
        return {"perplexity": perplexity, "unknown": 1 - known / (int(lengths(examples).sum()) - len(examples))}

    def report(self, model: LanguageModel, examples: Sequence[Example]) -> dict[str, float]:
        """With the share of sampled poems that keep the classical form: all verses of 5 or all of 7 characters."""
        if self.options.level == "word":
            return self.evaluate(model, examples)
        seeds = range(SAMPLES)
        poems = ["".join(self.generate(model, "", SAMPLE_LENGTH, temperature=TEMPERATURE, seed=s)) for s in seeds]
        return self.evaluate(model, examples) | {"form": sum(map(has_form, poems)) / SAMPLES}

    def predict(self, model: LanguageModel, text: str) -> str:
        """The perplexity per symbol, and the text."""
        self._check_known(text)
        pieces = map(self._between.join, self._pieces(self._symbols(text)))
        return f"{self.evaluate(model, list(map(self.example, pieces)))['perplexity']:.1f}\t{text}"

    def generate(self, model: LanguageModel, prefix: str, length: int, **sampling: Any) -> Iterator[str]:
        self._check_known(prefix)
        vocabulary = self.vocabularies["characters"]
        begun = self._symbols(prefix)
        begin = torch.tensor([START, *vocabulary.encode(begun)])
        before = self._between if begun else ""
        for index in model.stream(begin, length, stop=STOP, **sampling):
            if index > UNKNOWN:
                yield before + vocabulary.symbols[index]
                before = self._between

    def _check_known(self, text: str) -> None:
        if unknown := [c for c in self._symbols(text) if c not in self.vocabularies["characters"]]:
            raise Refused(f"the model has never seen {', '.join(map(repr, unknown))}")


def has_form(poem: str) -> bool:
    lengths = {len(verse) for verse in MARKS.split(poem) if verse}
    return lengths in ({5}, {7})
