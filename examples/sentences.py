"""Sentences whose words have tags: a sentence a line, or a word a line in columns, as in CoNLL and CoNLL-U files."""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from .files import Line, Malformed, Refused, note, number_lines, read_text
from .pairs import names_columns, read_pairs, say_header
from .text import split_words

CONLL_U = 10  # columns
FORM, UPOS = 2, 4  # counted from 1
_FIRST = re.compile(r"1(-\d+)?|0\.1")  # what numbers the first word of a sentence, or what comes before it
_NO_WORD = re.compile(r"\d+[-.]\d")  # 7-8: the words 7 and 8 written as one; 7.1: one that is not in the text


class Sentence(NamedTuple):
    lines: list[int]  # of each word
    words: list[str]
    tags: list[str]


def read_sentences(path: Path, column: int = 0) -> list[Sentence]:
    """The sentences of a file: ``words TAB tags`` a line, or columns, which is said.

    ``column`` is that of the tags, counted from 1; 0 stands for the parts of speech of CoNLL-U, else for the last one.

    Raises:
        Refused: if the file cannot be read, a line is not what those before it promise, or there is no such column.
    """
    lines = list(number_lines(read_text(path)))
    separator = _separator(lines)
    if column or separator:
        return _read_columns(path, lines, _layout(path, lines, separator or "\t", column))
    sentences = []
    for line, first, second in read_pairs(path, "words", "tags"):
        words, tags = split_words(first), split_words(second)
        if len(words) != len(tags):
            raise Malformed(path, line, f"a tag for each of {len(words)} words", f"{len(tags)} tags")
        sentences.append(Sentence([line] * len(words), words, tags))
    return sentences


def _separator(lines: Sequence[Line]) -> str:
    """Of the columns; empty where a line is a sentence."""
    rows = [(number, line.split("\t")) for number, line in lines if line.strip() and not _is_comment(line)]
    if all(len(fields) == 1 for _, fields in rows):
        widths = {len(split_words(fields[0])) for _, fields in rows}
        has_blanks = bool(rows) and rows[-1][0] - rows[0][0] >= len(rows)
        return " " if has_blanks and len(widths) == 1 and max(widths) > 1 else ""
    width = len(rows[0][1])
    several_tags = any(" " in fields[1].strip() for _, fields in rows if len(fields) == 2)
    return "\t" if width > 2 or width == 2 and not several_tags else ""


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


def _layout(path: Path, lines: Sequence[Line], separator: str, column: int) -> Layout:
    first = next((line for _, line in lines if line.strip() and not _is_comment(line)), "")
    fields = _fields(first, separator)
    width = len(fields)
    numbered = width > 2 and bool(_FIRST.fullmatch(fields[0]))
    word = FORM if numbered else 1
    tag = column or (UPOS if numbered and width == CONLL_U else width)
    if tag > width or tag == word:
        raise Refused(f"--column: expected one of the {width} of {path} beside {word}, that of the words, got {tag}")
    note(path, f"read as columns, words in column {word}, tags in column {tag}")
    return Layout(separator, width, numbered, word - 1, tag - 1)


def _read_columns(path: Path, lines: Sequence[Line], layout: Layout) -> list[Sentence]:
    blocks = [list(block) for blank, block in groupby(lines, lambda line: not line[1].strip()) if not blank]
    sentences = [sentence for block in blocks if (sentence := _sentence(path, block, layout)).words]
    if not sentences:
        raise Refused(f"{path}: expected words in columns, got comments alone")
    first = sentences[0]
    if names_columns(first.words[0], first.tags[0]):
        say_header(path, first.lines.pop(0), first.words.pop(0), first.tags.pop(0))
    if layout.numbered and (others := sum(bool(_NO_WORD.match(line)) for _, line in lines)):
        note(path, f"lines left out, of words written as one or words that are not in the text: {others}")
    return [sentence for sentence in sentences if sentence.words]


def _sentence(path: Path, lines: Sequence[Line], layout: Layout) -> Sentence:
    """From lines between blank ones: a word each, or a comment, which begins with # and has no columns."""
    sentence = Sentence([], [], [])
    for number, line in lines:
        fields = _fields(line, layout.separator)
        if len(fields) != layout.width:
            if line.startswith("#"):
                continue
            raise Malformed(path, number, f"{layout.width} columns, as before", str(len(fields)))
        if layout.numbered and _NO_WORD.match(line):
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
    return sentence
