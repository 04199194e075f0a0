"""From a sentence to its translation, by an encoder, a decoder and attention.

Files: lines ``source TAB target``, already separated into words by spaces (--level char takes characters). Without a
file, dates in words are to be translated into numbers, character by character: "3 March 1987" into "1987-03-03".
"""

import random
from calendar import month_name
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor, nn

from fastrnn.models import Seq2Seq

from .files import Refused, Source
from .pairs import read_examples
from .records import Record, pack, unpack
from .task import TextOptions, TextTask
from .text import PADDING, SPECIALS, Vocabulary, literal, pad, split_words

MOST = 30_000  # words of either language that are known
MINIMUM = 2  # how often a word must occur to be known; the scores of all words are most of the work
BEAM = 4
SMOOTHING = 0.1


@dataclass(frozen=True)
class TranslateOptions(TextOptions):
    bidirectional: bool = True
    hidden: int = 256
    embedding: int = 256
    batch: int = 64
    attention: Literal["none", "dot", "additive"] = "dot"
    level: Literal["word", "char"] = "word"


class Example(NamedTuple):
    source: list[str]
    target: list[str]


class Translate(TextTask[Seq2Seq]):
    Settings = TranslateOptions
    metric = "BLEU"
    epochs = 4
    reads_by = ("level",)

    def read(self, path: Path | None) -> Sequence[Example]:
        if path is None:
            self.options = replace(self.options, level="char")
            return [Example(*map(self._symbols, pair)) for pair in write_dates(2000)]
        with Source(path) as source:
            return self.read_examples(source, self.options.longest)

    def records(self, source: Source) -> Iterator[Record]:
        for line, *pair in read_examples(source, "source", "target"):
            sides = [self._symbols(text) for text in pair]
            yield Record(line, pack(*sides), len(sides[0]), max(map(len, sides)))

    def example(self, text: str) -> Example:
        return Example(*map(self.cut, unpack(text)))

    def _symbols(self, text: str) -> list[str]:
        return literal(split_words(text)) if self.options.level == "word" else list(text)

    def fit(self, examples: Sequence[Example]) -> None:
        minimum = MINIMUM if self.options.level == "word" else 1
        counts: dict[str, Counter[str]] = {"source": Counter(), "target": Counter()}
        for example in examples:
            counts["source"].update(example.source)
            counts["target"].update(example.target)
        for side in counts:
            vocabulary = Vocabulary.frequent(counts[side], minimum, MOST)
            if len(vocabulary) == len(SPECIALS):
                raise Refused(f"expected words that occur at least {minimum} times in the {side}, found none")
            self.vocabularies[side] = vocabulary

    def build(self, rnn: Callable[..., nn.Module]) -> Seq2Seq:
        return Seq2Seq(
            len(self.vocabularies["source"]),
            len(self.vocabularies["target"]),
            rnn=rnn,
            **self.sizes(),
            bidirectional=self.options.bidirectional,
            attention=None if self.options.attention == "none" else self.options.attention,
        )

    def loss(self, model: Seq2Seq, batch: Sequence[Example]) -> Tensor:
        source, lengths = self._encode(batch)
        target, _ = pad(
            [self.vocabularies["target"].encode(["<start>", *example.target, "<stop>"]) for example in batch]
        )
        scores = model(source, lengths, target)
        return nn.functional.cross_entropy(
            scores.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PADDING, label_smoothing=SMOOTHING
        )

    def terms(self, batch: Sequence[Example]) -> int:
        return sum(len(example.target) + 1 for example in batch)  # and where it stops

    def evaluate(self, model: Seq2Seq, examples: Sequence[Example]) -> dict[str, float]:
        return self._judge(model, examples, 1)

    def report(self, model: Seq2Seq, examples: Sequence[Example]) -> dict[str, float]:
        return self._judge(model, examples, BEAM)

    def _judge(self, model: Seq2Seq, examples: Sequence[Example], width: int) -> dict[str, float]:
        """BLEU on the symbols as they stand in the file (Papineni et al. 2002), and the share of exact translations."""
        from sacrebleu import corpus_bleu  # training needs it, translating does not

        found, wanted = [], []
        for batch in self.batches(examples):
            found += [" ".join(symbols) for symbols in self._translate(model, batch, width)]
            wanted += [" ".join(example.target) for example in batch]
        bleu = corpus_bleu(found, [wanted], tokenize="none", force=True).score
        return {"BLEU": bleu, "exact": sum(map(str.__eq__, found, wanted)) / len(wanted)}

    def predict(self, model: Seq2Seq, text: str) -> str:
        example = Example(self.cut(self._symbols(text)), [])
        if not any(symbol in self.vocabularies["source"] for symbol in example.source):
            raise Refused(f"no word is known of {text!r}")
        return (" " if self.options.level == "word" else "").join(self._translate(model, [example], BEAM)[0])

    def _translate(self, model: Seq2Seq, batch: Sequence[Example], width: int) -> list[list[str]]:
        source, lengths = self._encode(batch)
        longest = 2 * int(lengths.max()) + 10
        tokens = model.beam(source, lengths, longest, width) if width > 1 else model.greedy(source, lengths, longest)
        return [self.vocabularies["target"].decode(row) for row in tokens]

    def _encode(self, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
        return pad([self.vocabularies["source"].encode(example.source) for example in batch])


def write_dates(number: int) -> list[tuple[str, str]]:
    """Dates from 1900 to 2099 as people write them and as computers do, the same ones every time."""
    draw = random.Random(0)
    forms = ["{d} {m} {y}", "{m} {d}, {y}", "the {d} of {m} {y}"]
    days = [date(1900, 1, 1) + timedelta(draw.randrange(73049)) for _ in range(number)]
    return [(draw.choice(forms).format(d=d.day, m=month_name[d.month], y=d.year), d.isoformat()) for d in days]
