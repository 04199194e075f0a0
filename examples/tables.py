"""Tables: CSV with a header, whatever its separator, and the numbers in it, whatever their decimal mark."""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from .files import Malformed, note

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "TABs"}
LARGEST = 1e30  # float32, in which the layers compute, ends at 3.4e38
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+", re.ASCII)


class Row(NamedTuple):
    line: int  # that it begins on
    fields: list[str]


Lines = Callable[[], Iterable[str]]  # of a text from the first one, with their ends


class Table:
    """The rows below a header, read whenever they are asked for.

    Raises:
        Malformed: if two columns have one name.
    """

    def __init__(self, source: Path | str, lines: Lines):
        self.source, self._lines = source, lines
        self._separator = _separator(lines)
        self.header = next(_rows(source, lines, self._separator), Row(1, [""]))
        if len(set(self.header.fields)) < len(self.header.fields):
            raise self.misses("columns of different names")

    def __iter__(self) -> Iterator[Row]:
        """Raises Malformed if there is no row, or one cannot be read or has more or fewer fields."""
        row, width = None, len(self.header.fields)
        for row in islice(_rows(self.source, self._lines, self._separator), 1, None):
            if len(row.fields) != width:
                raise Malformed(self.source, row.line, f"{width} columns", str(len(row.fields)))
            yield row
        if row is None:
            raise Malformed(self.source, self.header.line + 1, "a row below the header", "the end of the file")
        if self._separator != ",":
            note(self.source, f"columns are separated by {SEPARATORS[self._separator]}")

    def place(self, name: str) -> int:
        """Raises Malformed if no column has the name."""
        if name not in self.header.fields:
            raise self.misses(f"a column {name!r}")
        return self.header.fields.index(name)

    def misses(self, expected: str) -> Malformed:
        return Malformed(self.source, self.header.line, expected, ",".join(self.header.fields))


def _separator(lines: Lines) -> str:
    """The one that splits the header into most columns. Where several split it, one that splits all rows alike."""
    widths = {separator: _width(lines, separator) for separator in SEPARATORS}
    several = [separator for separator, width in widths.items() if width > 1]
    alike = [it for it in several if _splits_alike(lines, it, widths[it])] if len(several) > 1 else []
    return max(alike or SEPARATORS, key=widths.__getitem__)


def _width(lines: Lines, separator: str) -> int:
    try:
        return len(next(_rows("", lines, separator), Row(1, [])).fields)
    except Malformed:
        return 0


def _splits_alike(lines: Lines, separator: str, width: int) -> bool:
    try:
        return all(len(row.fields) == width for row in _rows("", lines, separator))
    except Malformed:
        return False


def _rows(source: Path | str, lines: Lines, separator: str) -> Iterator[Row]:
    """Those that are not blank. Raises Malformed for one that cannot be read."""
    reader = csv.reader(lines(), delimiter=separator, skipinitialspace=True, strict=True)
    first = 1
    try:
        for fields in reader:  # a quoted one may hold line breaks
            fields = [field.strip() for field in fields]
            if len(fields) > 1 or any(fields):
                yield Row(first, fields)
            first = reader.line_num + 1
    except csv.Error as error:
        raise Malformed(source, first, "a row of CSV", f"one with the error: {error}") from error


class Numbers:
    """The numbers in the named columns of a table, read row by row.

    A decimal mark is a point, or a comma where that cannot be anything else, which is known at the end of the table:
    until then errors of both readings are kept.
    """

    def __init__(self, table: Table, names: Sequence[str]):
        self._source = table.source
        self._columns = [(name, table.place(name)) for name in names]
        self._comma: tuple[int, str] | None = None  # the first field that has one, and its line
        self._thousands = True  # whether it may separate these in all of them
        self._wrong: dict[bool, tuple[int, str, str]] = {}  # by decimal comma: the first line, its column and field

    def read(self, row: Row) -> list[float]:
        """NaN for what is no number."""
        values = []
        for name, place in self._columns:
            text = row.fields[place]
            value = float(text) if _NUMBER.fullmatch(text) else math.nan
            if "," in text:
                value = self._read_comma(row.line, name, text)
            elif True not in self._wrong and "." in text:
                self._refuse(True, row.line, name, text)
            if not abs(value) < LARGEST:
                self._refuse(False, row.line, name, text)
                self._refuse(True, row.line, name, text)
            values.append(value)
        return values

    def _read_comma(self, line: int, name: str, text: str) -> float:
        self._comma = self._comma or (line, text)
        self._thousands = self._thousands and bool(_THOUSANDS.fullmatch(text))
        self._refuse(False, line, name, text)
        text = text.replace(".", " ").replace(",", ".")
        return float(text) if _NUMBER.fullmatch(text) else math.nan

    def _refuse(self, comma: bool, line: int, name: str, text: str) -> None:
        self._wrong.setdefault(comma, (line, name, text))

    def end(self) -> None:
        """Decimal commas are said.

        Raises:
            Malformed: if a field is no number or too large, or could be two numbers: 1,234.
        """
        if self._comma:
            line, text = self._comma
            if self._thousands:
                expected = "a decimal point, or a comma that can only be a decimal one"
                raise Malformed(self._source, line, expected, repr(text))
            note(self._source, f"commas are read as decimal ones, as in {text!r}", line)
        comma = bool(self._comma)
        if comma in self._wrong:
            line, name, text = self._wrong[comma]
            expected = f"a number {'with a decimal comma ' if comma else ''}in column {name}"
            raise Malformed(self._source, line, expected, repr(text))
