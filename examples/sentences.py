"""Sentences whose words have tags: a sentence a line, or a word a line in columns, as in CoNLL and CoNLL-U files."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from .files import Line, Malformed, Refused, Source, note
from .pairs import names_columns, read_examples, say_header
from .text import split_words

CONLL_U = 10  # columns
FORM, UPOS = 2, 4  # counted from 1
_FIRST = re.compile(r"1(-\d+)?|0\.1")  # what numbers the first word of a sentence, or what comes before it
_NO_WORD = re.compile(r"\d+[-.]\d")  # 7-8: the words 7 and 8 written as one; 7.1: one that is not in the text


class Sentence(NamedTuple):
    lines: list[int]  # of each word
    words: list[str]
    tags: list[str]


def read_sentences(source: Source, column: int = 0) -> Iterator[Sentence]:
    """The sentences of a file: ``words TAB tags`` a line, or columns, which is said.

    ``column`` is that of the tags, counted from 1; 0 stands for the parts of speech of CoNLL-U, else for the last one.

    Raises:
        Refused: if the file cannot be read, a line is not what those before it promise, or there is no such column.
    """
    separator = _separator(source)
    if column or separator:
        yield from _read_columns(source, _layout(source, separator or "\t", column))
        return
    for line, first, second in read_examples(source, "words", "tags"):
        words, tags = split_words(first), split_words(second)
        if len(words) != len(tags):
            raise Malformed(source.path, line, f"a tag for each of {len(words)} words", f"{len(tags)} tags")
        yield Sentence([line] * len(words), words, tags)


def _rows(source: Source) -> Iterator[Line]:
    return ((number, line) for number, line in source.numbered() if line.strip() and not _is_comment(line))


def _separator(source: Source) -> str:
    """Of the columns; empty where a line is a sentence. Reads as far as it takes to know."""
    rows = _rows(source)
    begin = next(rows, None)
    if begin is None:
        return ""
    width = begin[1].count("\t") + 1
    if width == 2:
        pairs = (line.split("\t") for _, line in chain([begin], rows) if line.count("\t") == 1)
        return "" if any(" " in tags.strip() for _, tags in pairs) else "\t"
    if width > 2:
        return "\t"
    words, number, last = len(split_words(begin[1])), 1, begin[0]
    for place, line in rows:
        if "\t" in line or len(split_words(line)) != words:
            return ""
        number, last = number + 1, place
    has_blanks = last - begin[0] >= number
    return " " if has_blanks and words > 1 else ""


def _is_comment(line: str) -> bool:
    return line.startswith("#") and "\t" not in line


class Layout(NamedTuple):
    """Where a file in columns has what, counted from 0."""

    separator: str
    width: int
    numbered: bool  # whether the first column counts the words of a sentence
    word: int
    tag: int


def _fields(line: str, separator: str) -> list[str]:
    return split_words(line) if separator == " " else [field.strip(" ") for field in line.split(separator)]


def _layout(source: Source, separator: str, column: int) -> Layout:
    _, first = next(_rows(source), (0, ""))
    fields = _fields(first, separator)
    width = len(fields)
    numbered = width > 2 and bool(_FIRST.fullmatch(fields[0]))
    word = FORM if numbered else 1
    tag = column or (UPOS if numbered and width == CONLL_U else width)
    if tag > width or tag == word:
        expected = f"one of the {width} of {source.path} beside {word}, that of the words"
        raise Refused(f"--column: expected {expected}, got {tag}")
    note(source.path, f"read as columns, words in column {word}, tags in column {tag}")
    return Layout(separator, width, numbered, word - 1, tag - 1)


def _read_columns(source: Source, layout: Layout) -> Iterator[Sentence]:
    header: tuple[int, str, str] | None = None
    found = others = 0
    for blank, lines in groupby(source.numbered(), lambda line: not line[1].strip()):
        if blank:
            continue
        sentence, left_out = _sentence(source.path, lines, layout)
        others += left_out
        if not sentence.words:
            continue
        found += 1
        if found == 1 and names_columns(sentence.words[0], sentence.tags[0], {}):
            header = sentence.lines.pop(0), sentence.words.pop(0), sentence.tags.pop(0)
        if sentence.words:
            yield sentence
    if not found:
        raise Refused(f"{source.path}: expected words in columns, got comments alone")
    if header:
        say_header(source.path, *header)
    if others:
        note(source.path, f"lines left out, of words written as one or words that are not in the text: {others}")


def _sentence(path: Path, lines: Iterable[Line], layout: Layout) -> tuple[Sentence, int]:
    """From lines between blank ones: a word each, or a comment, which begins with # and has no columns.

    And how many are no words of the text.
    """
    sentence, left_out = Sentence([], [], []), 0
    for number, line in lines:
        fields = _fields(line, layout.separator)
        if len(fields) != layout.width:
            if line.startswith("#"):
                continue
            raise Malformed(path, number, f"{layout.width} columns, as before", str(len(fields)))
        if layout.numbered and _NO_WORD.match(line):
            left_out += 1
            continue
        if layout.numbered and fields[0] != str(len(sentence.words) + 1):
            expected = f"word {len(sentence.words) + 1} of a sentence or a blank line"
            raise Malformed(path, number, expected, repr(fields[0]))
        word, tag = fields[layout.word], fields[layout.tag]
        if not word or not tag or (tag == "_" and layout.tag == UPOS - 1):
            places = f"columns {layout.word + 1} and {layout.tag + 1}"
            raise Malformed(path, number, f"a word and its tag in {places}", f"{word!r} and {tag!r}")
        sentence.lines.append(number)
        sentence.words.append(word)
        sentence.tags.append(tag)
    return sentence, left_out
