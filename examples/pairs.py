"""Lines of two fields with a TAB between, and whether the first of them names the columns."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .files import Malformed, note, read_lines

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


def read_pairs(path: Path, first: str, second: str, labels: bool = False) -> list[Pair]:
    """Lines ``first TAB second``; both fields have text. A first line that names the columns is left out, and said so.

    ``labels`` says that what comes second is one of a few, by which more names are known.

    Raises:
        Refused: if the file cannot be read, or a line has not two such fields.
    """
    pairs = []
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise Malformed(path, number, f"{first} TAB {second}", repr(line[:60]))
        pairs.append(Pair(number, *fields))
    if names_columns(*pairs[0][1:], [pair.second for pair in pairs[1:]] if labels else []):
        say_header(path, *pairs[0])
        del pairs[0]
    if not pairs:
        raise Malformed(path, 2, f"{first} TAB {second}", "the end of the file")
    return pairs


def say_header(path: Path, line: int, first: str, second: str) -> None:
    note(path, f"taken as the names of the columns: {first} TAB {second}; in any other line it is an example", line)


def names_columns(first: str, second: str, labels: Sequence[str] = ()) -> bool:
    """Whether two fields name their columns; ``labels`` are those of all other lines, if they are one of a few each.

    They do if both are usual names. Otherwise both have to read like names, the second one has to occur nowhere else,
    and the labels have to be numbers, or several that each occur again.
    """
    if second in labels or not (_NAME.fullmatch(first) and _NAME.fullmatch(second)):
        return False
    if {first.lower(), second.lower()} <= set(NAMES.split()):
        return True
    counts = Counter(labels)
    numbers = bool(counts) and all(map(_NUMBER.fullmatch, counts))
    return numbers or (len(counts) > 1 and min(counts.values()) > 1)
