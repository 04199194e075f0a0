"""A tag for every word, such as its part of speech, from the sentence around it and from its characters.

Files: lines ``words TAB tags``, both separated by spaces, one tag a word; or CoNLL and CoNLL-U: a word a line, its tag
in one of the columns, blank lines between sentences. Without a file, a small grammar writes sentences in which many a
word takes its part of speech from its place ("the saw", "they saw").
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastrnn.models import SequenceTagger

from .files import Malformed, Refused, Source
from .records import Record, pack, unpack
from .sentences import read_sentences
from .task import TextOptions, TextTask
from .text import PADDING, UNKNOWN, Vocabulary, drop_words, literal, pad, split_words

LONGEST_WORD = 20  # characters that the model looks at; addresses of web pages would fill the memory


@dataclass(frozen=True)
class TaggingOptions(TextOptions):
    bidirectional: bool = True
    batch: int = 16
    dropout: float = 0.4
    word_dropout: float = 0.15
    column: int = 0


class Example(NamedTuple):
    words: list[str]
    tags: list[str]


class Tagging(TextTask[SequenceTagger]):
    Settings = TaggingOptions
    metric = "accuracy"
    reads_by = ("column",)

    def read(self, path: Path | None) -> Sequence[Example]:
        if path is None:
            return write_sentences(600)
        with Source(path) as source:
            examples = self.read_examples(source, self.options.longest)
        known = self.vocabularies.get("tags")
        unknown = [(line, tag) for tag, (_, line) in examples.facts["classes"].items() if known and tag not in known]
        if known and unknown:
            line, tag = min(unknown)
            raise Malformed(path, line, f"tags among {', '.join(known.symbols[1:])}", repr(tag))
        return examples

    def records(self, source: Source) -> Iterator[Record]:
        for lines, words, tags in read_sentences(source, self.options.column):
            found = zip(tags, lines, strict=True)
            yield Record(lines[0], pack(words, tags), len(words), len(words), found)

    def example(self, text: str) -> Example:
        return Example(*map(self.cut, unpack(text)))

    def fit(self, examples: Sequence[Example]) -> None:
        words: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        tags: set[str] = set()
        for example in examples:
            words.update(map(str.lower, example.words))
            characters.update("".join(example.words))
            tags.update(example.tags)
        self.vocabularies["words"] = Vocabulary.frequent(words)
        self.vocabularies["characters"] = Vocabulary.frequent(characters)
        self.vocabularies["tags"] = Vocabulary(["-", *sorted(tags)])  # the first index is that of padding

    def build(self, rnn: Callable[..., nn.Module]) -> SequenceTagger:
        return SequenceTagger(
            len(self.vocabularies["words"]),
            len(self.vocabularies["tags"]),
            rnn=rnn,
            **self.sizes(),
            bidirectional=self.options.bidirectional,
            characters=len(self.vocabularies["characters"]),
        )

    def loss(self, model: SequenceTagger, batch: Sequence[Example]) -> Tensor:
        words, lengths, characters = self._encode(batch)
        scores = model(drop_words(words, self.options.word_dropout), lengths, characters)
        return model.loss(scores, self._tags(batch), lengths)

    def terms(self, batch: Sequence[Example]) -> int:
        return sum(len(example.words) for example in batch)

    def evaluate(self, model: SequenceTagger, examples: Sequence[Example]) -> dict[str, float]:
        right = total = 0
        for batch in self.batches(examples):
            tags = self._tags(batch)
            right += int(((model(*self._encode(batch)).argmax(-1) == tags) & (tags != PADDING)).sum())
            total += int((tags != PADDING).sum())
        return {"accuracy": right / total}

    def predict(self, model: SequenceTagger, text: str) -> str:
        """The words with their tags: ``word/TAG word/TAG``."""
        example = Example(self.cut(split_words(text)), [])
        words, lengths, characters = self._encode([example])
        if (words == UNKNOWN).all() and ((characters == UNKNOWN) | (characters == PADDING)).all():
            raise Refused(f"no word and no character is known of {text!r}")
        tags = self.vocabularies["tags"].decode(model(words, lengths, characters)[0].argmax(-1))
        return " ".join(f"{word}/{tag}" for word, tag in zip(example.words, tags, strict=True))

    def _encode(self, batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Words [B, T], lengths [B], characters [B, T, C]."""
        known = self.vocabularies["words"]
        words, lengths = pad([known.encode(literal(map(str.lower, example.words))) for example in batch])
        characters = torch.full((*words.shape, LONGEST_WORD), PADDING)
        encode = self.vocabularies["characters"].encode
        for row, example in enumerate(batch):
            spelt, _ = pad([encode(word[:LONGEST_WORD]) for word in example.words])
            characters[row, : len(spelt), : spelt.shape[1]] = spelt
        return words, lengths, characters[:, :, : int((characters != PADDING).sum(-1).max())]

    def _tags(self, batch: Sequence[Example]) -> Tensor:
        """[B, T]; -1 for one that the training part of the file did not have."""
        return pad([[self.vocabularies["tags"].indices.get(tag, -1) for tag in example.tags] for example in batch])[0]


GRAMMAR = {
    "DET": "the a this every no",
    "ADJ": "old light clean open dry quiet fast red",
    "NOUN": "saw light book watch duck clean walk garden painter river open",
    "NAME": "Anna Ben Chen Ida Omar",
    "PRON": "they we you",
    "VERB": "saw light book watch duck clean walk open dry paint",
    "ADV": "fast again slowly outside",
    "ADP": "near behind with under",
    "PUNCT": ". !",
}


def write_sentences(number: int) -> list[Example]:
    """Sentences of a small grammar, the same ones every time."""
    draw = random.Random(0)

    def noun_phrase() -> list[str]:
        return draw.choice([["NAME"], ["DET", "NOUN"], ["DET", "ADJ", "NOUN"], ["DET", "ADJ", "ADJ", "NOUN"]])

    examples = []
    for _ in range(number):
        tags = [*draw.choice([["PRON"], noun_phrase()]), "VERB", *draw.choice([[], noun_phrase()])]
        tags += draw.choice([[], ["ADV"], ["ADP", *noun_phrase()]]) + ["PUNCT"]
        examples.append(Example([draw.choice(GRAMMAR[tag].split()) for tag in tags], tags))
    return examples
