"""Lines of two fields with a TAB between, and whether the first of them names the columns."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .files import Malformed, Source, note

# What people call such columns. A name that is not among them is still known by the labels around it.
NAMES = """text sentence review comment tweet phrase document content message title word words token tokens form
label labels class category sentiment polarity rating score stars tag tags pos upos
source target src tgt trg input output en fr de es it zh english french german spanish italian chinese"""
_NAME = re.compile(r"[^\W\d][\w-]*(?: [\w-]+)?")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


class Pair(NamedTuple):
    line: int
    first: str
    second: str


def read_pairs(source: Source, first: str, second: str) -> Iterator[Pair]:
    """Lines ``first TAB second``; both fields have text. The first one may name the columns.

    Raises:
        Refused: if the file cannot be read, or a line has not two such fields.
    """
    for number, line in source.numbered():
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise Malformed(source.path, number, f"{first} TAB {second}", repr(line[:60]))
        yield Pair(number, *fields)


def read_examples(source: Source, first: str, second: str) -> Iterator[Pair]:
    """As ``read_pairs`` does, but for a first line of usual names, which is left out, and said so."""
    pairs = read_pairs(source, first, second)
    names = next(pairs)
    headed = names_columns(names.first, names.second, {})
    begin = next(pairs, None) if headed else names
    if begin is None:
        raise misses(source.path, first, second)
    yield begin
    yield from pairs
    if headed:
        say_header(source.path, *names)


def misses(path: Path, first: str, second: str) -> Malformed:
    return Malformed(path, 2, f"{first} TAB {second}", "the end of the file")


def say_header(path: Path, line: int, first: str, second: str) -> None:
    note(path, f"taken as the names of the columns: {first} TAB {second}; in any other line it is an example", line)


def names_columns(first: str, second: str, labels: Mapping[str, int]) -> bool:
    """Whether two fields name their columns; ``labels`` counts those of all other lines, if they are one of a few each.

    They do if both are usual names. Otherwise both have to read like names, the second one has to occur nowhere else,
    and the labels have to be numbers, or several that each occur again.
    """
    if second in labels or not (_NAME.fullmatch(first) and _NAME.fullmatch(second)):
        return False
    if {first.lower(), second.lower()} <= set(NAMES.split()):
        return True
    numbers = bool(labels) and all(map(_NUMBER.fullmatch, labels))
    return numbers or (len(labels) > 1 and min(labels.values()) > 1)
