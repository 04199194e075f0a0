"""Which label a text has, by a bidirectional layer and its largest values over time.

Files: lines ``text TAB label``, or CSV with a header: a column named ``label`` and one other, or one named ``text``,
between commas, semicolons or TABs. Labels are any words. Chinese and Japanese are read character by character, other
text word by word (--level char reads all by character).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastrnn.models import SequenceClassifier

from .files import Malformed, Refused, Source
from .pairs import Pair, misses, names_columns, read_pairs, say_header
from .records import Examples, Record, pack, unpack
from .tables import Table
from .task import TextOptions, TextTask
from .text import UNKNOWN, Vocabulary, drop_words, pad, words

DATA = Path(__file__).parent / "data" / "sentiment.tsv"
FIELDS = "text", "label"


@dataclass(frozen=True)
class SentimentOptions(TextOptions):
    bidirectional: bool = True
    dropout: float = 0.5
    word_dropout: float = 0.1
    weight_decay: float = 3e-5
    level: Literal["word", "char"] = "word"


class Example(NamedTuple):
    symbols: list[str]
    label: str


class Sentiment(TextTask[SequenceClassifier]):
    Settings = SentimentOptions
    metric = "accuracy"
    reads_by = ("level",)

    def read(self, path: Path | None) -> Sequence[Example]:
        with Source(path or DATA) as source:
            examples = self.read_examples(source, self.options.longest)
            labels = examples.facts["classes"]
            if not _is_csv(source.path):
                examples = _without_header(source, examples, labels)
        known = self.vocabularies.get("labels")
        unknown = [(line, label) for label, (_, line) in labels.items() if known and label not in known]
        if known and unknown:
            line, label = min(unknown)
            raise Malformed(source.path, line, f"a label among {', '.join(known.symbols)}", repr(label))
        return examples

    def records(self, source: Source) -> Iterator[Record]:
        for line, text, label in _read_csv(source) if _is_csv(source.path) else read_pairs(source, *FIELDS):
            symbols = self._symbols(text)
            yield Record(line, pack(symbols, [label]), len(symbols), len(symbols), [(label, line)])

    def example(self, text: str) -> Example:
        symbols, (label,) = unpack(text)
        return Example(self.cut(symbols), label)

    def _symbols(self, text: str) -> list[str]:
        return words(text) if self.options.level == "word" else list(text.lower())

    def fit(self, examples: Sequence[Example]) -> None:
        counts: Counter[str] = Counter()
        labels = set()
        for example in examples:
            counts.update(example.symbols)
            labels.add(example.label)
        self.vocabularies["words"] = Vocabulary.frequent(counts)
        self.vocabularies["labels"] = Vocabulary(sorted(labels))
        if len(self.vocabularies["labels"]) < 2:
            raise Refused(f"expected at least two labels to learn from, got only {examples[0].label!r}")

    def build(self, rnn: Callable[..., nn.Module]) -> SequenceClassifier:
        return SequenceClassifier(
            len(self.vocabularies["words"]),
            len(self.vocabularies["labels"]),
            rnn=rnn,
            **self.sizes(),
            bidirectional=self.options.bidirectional,
        )

    def loss(self, model: SequenceClassifier, batch: Sequence[Example]) -> Tensor:
        tokens, lengths = self._encode(batch)
        return nn.functional.cross_entropy(
            model(drop_words(tokens, self.options.word_dropout), lengths), self._labels(batch)
        )

    def evaluate(self, model: SequenceClassifier, examples: Sequence[Example]) -> dict[str, float]:
        batches = self.batches(examples)
        right = sum(int((model(*self._encode(b)).argmax(-1) == self._labels(b)).sum()) for b in batches)
        return {"accuracy": right / len(examples)}

    def predict(self, model: SequenceClassifier, text: str) -> str:
        """The label, its probability and the text."""
        tokens, lengths = self._encode([Example(self.cut(self._symbols(text)), "")])
        if (tokens == UNKNOWN).all():
            raise Refused(f"no word is known of {text!r}")
        probability, label = model(tokens, lengths).softmax(-1)[0].max(-1)
        return f"{self.vocabularies['labels'].symbols[label]}\t{probability:.3f}\t{text}"

    def _encode(self, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
        return pad([self.vocabularies["words"].encode(example.symbols) for example in batch])

    def _labels(self, batch: Sequence[Example]) -> Tensor:
        """[B]; -1 for one that the training part of the file did not have."""
        return torch.tensor([self.vocabularies["labels"].indices.get(example.label, -1) for example in batch])


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _without_header(source: Source, examples: Examples, labels: dict[str, list[int]]) -> Examples:
    """The examples but for a first line that names the columns, as their labels tell; its own is left out of these."""
    names = next(read_pairs(source, *FIELDS))
    counts = Counter({label: count for label, (count, _) in labels.items()})
    counts[names.second] -= 1
    if not names_columns(names.first, names.second, +counts):
        return examples
    if len(examples) == 1:
        raise misses(source.path, *FIELDS)
    say_header(source.path, *names)
    del labels[names.second]
    return examples.after(1)


def _read_csv(source: Source) -> Iterator[Pair]:
    table = Table(source.path, source.lines)
    names = [name.lower() for name in table.header.fields]
    others = [name for name in names if name != "label"]
    if "text" not in others and len(others) != 1 or len(others) != len(names) - 1:
        raise table.misses("a header with the columns label and text")
    label, text = names.index("label"), names.index("text" if "text" in others else others[0])
    for line, fields in table:
        if not fields[label] or not fields[text]:
            raise Malformed(source.path, line, f"{table.header.fields[text]} and label", repr(",".join(fields)[:60]))
        yield Pair(line, fields[text], " ".join(fields[label].split()))  # predict prints labels in lines
