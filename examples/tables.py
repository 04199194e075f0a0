"""Tables: CSV with a header, whatever its separator, and the numbers in it, whatever their decimal mark."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .files import Malformed, note, read_text

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "TABs"}
LARGEST = 1e30  # float32, in which the layers compute, ends at 3.4e38
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+", re.ASCII)


class Row(NamedTuple):
    line: int  # that it begins on
    fields: list[str]


class Table(NamedTuple):
    source: Path | str
    header: Row
    rows: list[Row]

    def place(self, name: str) -> int:
        """Raises Malformed if no column has the name."""
        if name not in self.header.fields:
            raise self.misses(f"a column {name!r}")
        return self.header.fields.index(name)

    def misses(self, expected: str) -> Malformed:
        return Malformed(self.source, self.header.line, expected, ",".join(self.header.fields))


def read_table(path: Path) -> Table:
    """The table in a file. Raises Refused as ``read_text`` and ``parse_table`` do."""
    return parse_table(path, read_text(path))


def parse_table(source: Path | str, text: str) -> Table:
    """The table in a text that is not blank. Separators other than commas are said.

    Raises:
        Malformed: if two columns have one name, no row follows, or one cannot be read or has more or fewer fields.
    """
    separator = max(SEPARATORS, key=lambda separator: _fit(text, separator))
    header, *rows = _rows(source, text, separator)
    table = Table(source, header, rows)
    if len(set(header.fields)) < len(header.fields):
        raise table.misses("columns of different names")
    if not rows:
        raise Malformed(source, header.line + 1, "a row below the header", "the end of the file")
    for row in rows:
        if len(row.fields) != len(header.fields):
            raise Malformed(source, row.line, f"{len(header.fields)} columns", str(len(row.fields)))
    if separator != ",":
        note(source, f"columns are separated by {SEPARATORS[separator]}")
    return table


def _fit(text: str, separator: str) -> tuple[bool, int]:
    """How well a separator suits: whether it splits all rows alike, and into how many columns the header."""
    rows = _rows("", text, separator)
    columns = 0
    try:
        columns = len(next(rows).fields)
        return columns > 1 and all(len(row.fields) == columns for row in rows), columns
    except Malformed:
        return False, columns


def _rows(source: Path | str, text: str, separator: str) -> Iterator[Row]:
    """Those that are not blank. Raises Malformed for one that cannot be read."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    first = 1
    try:
        for fields in reader:  # a quoted one may hold line breaks
            if len(fields) > 1 or any(field.strip() for field in fields):
                yield Row(first, [field.strip() for field in fields])
            first = reader.line_num + 1
    except csv.Error as error:
        raise Malformed(source, first, "a row of CSV", f"one with the error: {error}") from error


def numbers(table: Table, names: Sequence[str]) -> list[list[float]]:
    """Those in the named columns, row by row. Decimal commas are said.

    Raises:
        Malformed: if there is no such column, or a field is no number or too large, or could be two numbers: 1,234.
    """
    places = [table.place(name) for name in names]
    comma = _decimal_comma(table, places)
    found = [[_number(row.fields[place], comma) for place in places] for row in table.rows]
    for row, values in zip(table.rows, found, strict=True):
        for name, place, value in zip(names, places, values, strict=True):
            if not abs(value) < LARGEST:
                expected = f"a number {'with a decimal comma ' if comma else ''}in column {name}"
                raise Malformed(table.source, row.line, expected, repr(row.fields[place]))
    return found


def _decimal_comma(table: Table, places: Sequence[int]) -> bool:
    with_comma = [(row.line, row.fields[place]) for row in table.rows for place in places if "," in row.fields[place]]
    if not with_comma:
        return False
    line, text = with_comma[0]
    if all(_THOUSANDS.fullmatch(text) for _, text in with_comma):
        raise Malformed(table.source, line, "a decimal point, or a comma that can only be a decimal one", repr(text))
    note(table.source, f"commas are read as decimal ones, as in {text!r}", line)
    return True


def _number(text: str, comma: bool) -> float:
    """NaN for what is no number."""
    if comma:
        text = text.replace(".", " ").replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) else math.nan
