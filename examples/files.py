"""Reading text files, with errors that name the line, what was expected there and what came."""

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

Line = tuple[int, str]  # with its number


class Refused(Exception):
    """What the user gave cannot be used; the message is one line for the user."""


class Malformed(Refused):
    def __init__(self, source: Path | str, line: int, expected: str, got: str):
        super().__init__(f"{source}, line {line}: expected {expected}, got {got}")


def read_lines(path: Path) -> list[Line]:
    """The lines of a UTF-8 text that are not blank.

    Raises:
        Refused: if the file cannot be read, is not UTF-8 or holds no text.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Refused(f"{path}, line {line}: expected UTF-8, got the byte 0x{raw[error.start]:02x}") from error
    lines = split_lines(text)
    if not lines:
        raise Refused(f"{path} is empty")
    return lines


def split_lines(text: str) -> list[Line]:
    """Those that are not blank."""
    # str.splitlines would also break a line at characters that a sentence may hold.
    return [(number, line) for number, line in enumerate(re.split("\r\n|\r|\n", text), 1) if line.strip()]


def read_pairs(path: Path, first: str, second: str) -> Iterator[tuple[int, str, str]]:
    """Lines ``first TAB second`` with their numbers; both fields have text."""
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise Malformed(path, number, f"{first} TAB {second}", repr(line[:60]))
        yield number, fields[0], fields[1]


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file, and its rows with the number of the line that each begins on."""
    return parse_table(path, read_lines(path))


def parse_table(source: Path | str, lines: Sequence[Line]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """As ``read_table``."""
    rows = []
    reader = csv.reader((line + "\n" for _, line in lines), strict=True)
    first = 0
    try:
        for fields in reader:  # a quoted one may hold line breaks
            rows.append((lines[first][0], [field.strip() for field in fields]))
            first = reader.line_num
    except csv.Error as error:
        raise Malformed(source, lines[first][0], "a row of CSV", f"one with the error: {error}") from error
    (line, header), *rows = rows
    if len(set(header)) < len(header):
        raise Malformed(source, line, "columns of different names", ",".join(header))
    for line, fields in rows:
        if len(fields) != len(header):
            raise Malformed(source, line, f"{len(header)} columns", str(len(fields)))
    return header, rows


def digest(path: Path | None) -> str:
    """Tells whether a file has changed; empty for no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
