"""Examples as texts in a map, made when they are asked for."""

import copy
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .files import progress
from .maps import Facts, Map, Writer

FORGOTTEN = 1 << 12  # examples, after which memory is free of those before


class Record(NamedTuple):
    """An example of a file."""

    line: int
    text: str  # of which it is made
    length: int  # by which batches are formed
    symbols: int  # of its longest part
    classes: Iterable[tuple[str, int]] = ()  # the labels in it, and their lines


def write(records: Iterable[Record], writer: Writer) -> Facts:
    """Writes examples.

    Returns the ``longest``, a line and its length, and the ``classes``: of each, how often it occurs, and where first.
    """
    ends, lengths = array("q", [0]), array("i")
    longest, end = (0, 0), 0
    classes: dict[str, list[int]] = {}
    for line, text, length, symbols, found in records:
        raw = text.encode()
        writer.add(raw)
        end += len(raw)
        ends.append(end)
        lengths.append(length)
        if symbols > longest[1]:
            longest = line, symbols
        for name, place in found:
            classes.setdefault(name, [0, place])[0] += 1
    writer.end("texts")
    for name, numbers in ("ends", ends), ("lengths", lengths):
        writer.add(numbers)
        writer.end(name)
    return {"longest": longest, "classes": classes}


class Examples(Sequence[Any]):
    """What ``make`` makes of the texts in a map.

    ``lengths`` [N] are those of the records; ``longest`` says where examples are cut, if it is not 0.
    """

    def __init__(self, found: Map, make: Callable[[str], Any], longest: int = 0):
        self.map = found
        self.facts, self.digest = found.facts, found.digest
        lengths = found.tensor("lengths", torch.int32)
        self.lengths = lengths.clamp(max=longest) if longest else lengths
        self._texts, self._ends = found.view("texts"), found.view("ends").cast("q")
        self._make = make
        self._taken = 0

    def after(self, first: int) -> "Examples":
        """All but the first ones."""
        rest = copy.copy(self)
        rest.lengths, rest._ends = self.lengths[first:], self._ends[first:]
        return rest

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: Any) -> Any:
        self._taken += 1
        if self._taken % FORGOTTEN == 0:
            self.map.forget()
        place = range(len(self._ends) - 1)[place]
        return self._make(str(self._texts[self._ends[place] : self._ends[place + 1]], "utf-8"))

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))


class Part(Sequence[Any]):
    """Some of the examples: those at ``places`` [N]."""

    def __init__(self, examples: Sequence[Any], places: Tensor):
        self.examples, self.places = examples, places
        self.map = getattr(examples, "map", None)
        self.lengths = lengths(examples)[places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        return self.examples[int(self.places[place])]

    def __iter__(self) -> Iterator[Any]:
        with progress(len(self), "counting symbols", " examples") as bar:
            for places in self.places.split(1024):
                yield from map(self.examples.__getitem__, places.tolist())
                bar.update(len(places))


def lengths(examples: Sequence[Any]) -> Tensor:
    """[N]"""
    if isinstance(examples, (Examples, Part)):
        return examples.lengths
    return torch.tensor([len(example[0]) for example in examples])


# A text has no zeros, which files that are read refuse, and no symbol is empty.
def pack(*parts: Sequence[str]) -> str:
    return "\0\0".join(map("\0".join, parts))


def unpack(text: str) -> list[list[str]]:
    return [part.split("\0") if part else [] for part in text.split("\0\0")]
