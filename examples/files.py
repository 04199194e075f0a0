"""Texts from files and from the standard input, with errors that name the line, what was expected and what came."""

import codecs
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

Line = tuple[int, str]  # with its number

INPUT = "input"  # what messages call the standard input
# By byte order mark; that of UTF-16 begins as that of UTF-32 does.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK = re.compile("^\ufeff", re.MULTILINE)  # decoded; files that are joined have one inside, too
_BREAK = re.compile("\r\n|\r|\n")  # str.splitlines would also break at characters that a sentence may hold
_STRAY = re.compile("[\udc80-\udcff\0]")  # bytes that were no UTF-8, and those between the letters of UTF-16


class Refused(Exception):
    """What the user gave cannot be used; the message is one line for the user."""


class Malformed(Refused):
    def __init__(self, source: Path | str, line: int, expected: str, got: str):
        # What came may be a quoted field with line breaks.
        super().__init__(_BREAK.sub(" ", f"{source}, line {line}: expected {expected}, got {got}"))


def note(source: Path | str, text: str, line: int = 0) -> None:
    """Tells the user what was guessed, changed or left out, beside what the program answers."""
    print(f"{source}{f', line {line}' if line else ''}: {text}", file=sys.stderr)


def read_text(path: Path) -> str:
    """Raises Refused if the file cannot be read, is not text in UTF-8, UTF-16 or UTF-32, or is blank."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    text = decode(path, raw)
    if not text.strip():
        raise Refused(f"{path} is empty")
    return text


def decode(source: Path | str, raw: bytes) -> str:
    """UTF-8, or what a byte order mark announces, which is left out. Raises Malformed for anything else."""
    encoding = _encoding(source, raw)
    try:
        text = _MARK.sub("", raw.decode(encoding))
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(encoding, "ignore")
        got = f"the byte 0x{raw[error.start]:02x}"
        raise Malformed(source, _line_after(before), encoding.upper()[:6], got) from error
    if stray := _STRAY.search(text):
        raise Malformed(source, _line_after(text[: stray.start()]), "UTF-8", "the byte 0x00")
    return text


def _encoding(source: Path | str, raw: bytes) -> str:
    encoding = next((name for mark, name in _ENCODINGS.items() if raw.startswith(mark)), "utf-8")
    if encoding != "utf-8":
        note(source, f"read as {encoding.upper()[:6]}, which its byte order mark says")
    return encoding


def _line_after(text: str) -> int:
    return len(_BREAK.findall(text)) + 1


def read_lines(path: Path) -> list[Line]:
    """The lines of a text that are not blank. Raises Refused as ``read_text`` does."""
    return [(number, line) for number, line in number_lines(read_text(path)) if line.strip()]


def number_lines(text: str) -> Iterator[Line]:
    return enumerate(_BREAK.split(text), 1)


def read_input() -> str:
    """The whole standard input. Raises Malformed as ``decode`` does."""
    return decode(INPUT, sys.stdin.buffer.read()) if sys.stdin else ""


def input_lines() -> Iterator[str]:
    """The lines of the standard input as they come; ``check_text`` finds those with stray bytes.

    Raises:
        Refused: if it is announced as UTF-16 or UTF-32 and is not.
    """
    stream = sys.stdin
    if stream is None:  # closed
        return
    assert isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.BufferedReader)
    encoding = _encoding(INPUT, stream.buffer.peek(4))
    stream.reconfigure(encoding=encoding, errors="surrogateescape")
    try:
        for line in stream:
            yield _MARK.sub("", line.rstrip("\n"))
    except UnicodeDecodeError as error:
        raise Refused(f"{INPUT}: expected {encoding.upper()[:6]}, got {error.reason}") from error


def check_text(text: str) -> None:
    """Raises Refused if a text from the command line or ``input_lines`` had bytes that are no UTF-8."""
    if stray := _STRAY.search(text):
        raise Refused(f"expected UTF-8, got the byte 0x{ord(stray[0]) & 0xFF:02x}")


def digest(path: Path | None) -> str:
    """Tells whether a file has changed; empty for no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
