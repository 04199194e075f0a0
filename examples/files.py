"""Reading text files, with errors that name the line, what was expected there and what came."""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path


class Refused(Exception):
    """What the user gave cannot be used; the message is one line for the user."""


class Malformed(Refused):
    def __init__(self, path: Path, line: int, expected: str, got: str):
        super().__init__(f"{path}, line {line}: expected {expected}, got {got}")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text that are not blank, with their numbers.

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
    # splitlines would also break a line at characters that a sentence may hold, and shift the numbers.
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise Refused(f"{path} is empty")
    return lines


def read_pairs(path: Path, first: str, second: str) -> Iterator[tuple[int, str, str]]:
    """Lines ``first TAB second`` with their numbers; both fields have text."""
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise Malformed(path, number, f"{first} TAB {second}", repr(line[:60]))
        yield number, fields[0], fields[1]


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file, and its rows with the number of the line that each begins on."""
    lines = read_lines(path)
    header, *rows = parse_table([line for _, line in lines])
    numbers = [number for number, _ in lines]
    for first, fields in rows:
        if len(fields) != len(header[1]):
            raise Malformed(path, numbers[first], f"{len(header[1])} columns", str(len(fields)))
    return header[1], [(numbers[first], fields) for first, fields in rows]


def parse_table(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows of CSV, each with the index of the line that it begins on: a quoted field may hold line breaks."""
    reader = csv.reader(line + "\n" for line in lines)
    first = 0
    for fields in reader:
        yield first, [field.strip() for field in fields]
        first = reader.line_num


def digest(path: Path | None) -> str:
    """Tells whether a file has changed; empty for no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
