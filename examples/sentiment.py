"""Which label a text has, by a bidirectional layer and its largest values over time.

Files: lines ``text TAB label``, or CSV with a header: a column named ``label`` and one other, or one named ``text``,
between commas, semicolons or TABs. Labels are any words. Chinese and Japanese are read character by character, other
text word by word (--level char reads all by character).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastrnn.models import SequenceClassifier

from .files import Malformed, Refused
from .pairs import Pair, read_pairs
from .tables import read_table
from .task import TextOptions, TextTask
from .text import UNKNOWN, Vocabulary, drop_words, pad, words

DATA = Path(__file__).parent / "data" / "sentiment.tsv"


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

    def read(self, path: Path | None) -> list[Example]:
        path = path or DATA
        is_csv = path.suffix.lower() == ".csv"
        rows = list(_read_csv(path)) if is_csv else read_pairs(path, "text", "label", labels=True)
        examples = [Example(self._symbols(text), label) for _, text, label in rows]
        numbers = [number for number, _, _ in rows]
        self.check_lengths(path, [(n, len(e.symbols)) for n, e in zip(numbers, examples, strict=True)])
        if known := self.vocabularies.get("labels"):
            for number, example in zip(numbers, examples, strict=True):
                if example.label not in known:
                    raise Malformed(path, number, f"a label among {', '.join(known.symbols)}", repr(example.label))
        return [Example(self.cut(symbols), label) for symbols, label in examples]

    def _symbols(self, text: str) -> list[str]:
        return words(text) if self.options.level == "word" else list(text.lower())

    def fit(self, examples: Sequence[Example]) -> None:
        self.vocabularies["words"] = Vocabulary.of(example.symbols for example in examples)
        self.vocabularies["labels"] = Vocabulary(sorted({example.label for example in examples}))
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


def _read_csv(path: Path) -> Iterator[Pair]:
    table = read_table(path)
    names = [name.lower() for name in table.header.fields]
    others = [name for name in names if name != "label"]
    if "text" not in others and len(others) != 1 or len(others) != len(names) - 1:
        raise table.misses("a header with the columns label and text")
    label, text = names.index("label"), names.index("text" if "text" in others else others[0])
    for line, fields in table.rows:
        if not fields[label] or not fields[text]:
            raise Malformed(path, line, f"{table.header.fields[text]} and label", repr(",".join(fields)[:60]))
        yield Pair(line, fields[text], " ".join(fields[label].split()))  # predict prints labels in lines
