"""Texts from files and from the standard input, with errors that name the line, what was expected and what came."""

import codecs
import hashlib
import io
import itertools
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

Line = tuple[int, str]  # with its number

INPUT = "input"  # what messages call the standard input
CHUNK = 1 << 20  # bytes that are read at once
# By byte order mark; that of UTF-16 begins as that of UTF-32 does.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK = "\ufeff"  # decoded; files that are joined have one inside, too
_BREAK = re.compile("\r\n|\r|\n")  # str.splitlines would also break at characters that a sentence may hold
_STRAY = re.compile("[\udc80-\udcff\0]")  # bytes that were no UTF-8, and those between the letters of UTF-16
_heard: list[list[tuple[str, str]]] = []


class Refused(Exception):
    """What the user gave cannot be used; the message is one line for the user."""


class Malformed(Refused):
    def __init__(self, source: Path | str, line: int, expected: str, got: str):
        # What came may be a quoted field with line breaks.
        super().__init__(_BREAK.sub(" ", f"{source}, line {line}: expected {expected}, got {got}"))


def note(source: Path | str, text: str, line: int = 0) -> None:
    """Tells the user what was guessed, changed or left out, beside what the program answers."""
    said = f"{f', line {line}' if line else ''}: {text}"
    for notes in _heard:
        notes.append((str(source), said))
    repeat(source, said)


def repeat(source: Path | str, said: str) -> None:
    """Notes again what was heard."""
    print(f"{source}{said}", file=sys.stderr)


@contextmanager
def hearing() -> Iterator[list[tuple[str, str]]]:
    """What is noted meanwhile: sources, and what is said of them, for ``repeat``."""
    notes: list[tuple[str, str]] = []
    _heard.append(notes)
    try:
        yield notes
    finally:
        _heard.remove(notes)


def progress(total: int, what: str, unit: str) -> Any:
    """A bar of what takes longer than a second."""
    from tqdm import tqdm  # training needs it, predicting does not

    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, leave=False, disable=None, delay=1)


class Source:
    """A text in a file, read from its start whenever its lines are asked for.

    ``digest`` tells whether the file has changed; it is known once the file has been read to its end.

    Raises:
        Refused: if the file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.digest = ""
        self._said = False
        try:
            self.file = _opened(path)
        except OSError as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def lines(self) -> Iterator[str]:
        """With their ends; a byte order mark is left out. The encoding, if it is not UTF-8, is said.

        Raises:
            Refused: if the file is not text in UTF-8, UTF-16 or UTF-32, or is blank.
        """
        blank = True
        for line in decoded(self.path, self._chunks(), say=not self._said):
            self._said = True
            blank = blank and not line.strip()
            yield line
        if blank:
            raise Refused(f"{self.path} is empty")

    def numbered(self) -> Iterator[Line]:
        """The lines without their ends."""
        return ((number, line.rstrip("\r\n")) for number, line in enumerate(self.lines(), 1))

    def find_digest(self) -> str:
        """Reads the file for its digest alone."""
        for _ in self._chunks():
            pass
        return self.digest

    def _chunks(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        size, place = os.fstat(self.file.fileno()).st_size, 0
        try:
            with progress(size, f"reading {self.path.name}", "B") as bar:
                # By its place in the file, as two may read at once.
                while chunk := os.pread(self.file.fileno(), CHUNK, place):
                    place += len(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                    yield chunk
        except OSError as error:
            raise self._unreadable(error) from error
        self.digest = digest.hexdigest()

    def _unreadable(self, error: OSError) -> Refused:
        return Refused(f"cannot read {self.path}: {error.strerror}")


def _opened(path: Path) -> BinaryIO:
    """What is no regular file, a pipe for example, can be read once, and is copied."""
    file = path.open("rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115, closed by the source
    with file:
        shutil.copyfileobj(file, copy)
    copy.flush()
    return copy


def decoded(source: Path | str, chunks: Iterable[bytes], say: bool = True) -> Iterator[str]:
    """The lines, with their ends, of a text in UTF-8 or what a byte order mark announces, which is left out.

    Raises:
        Malformed: for anything else.
    """
    chunks = iter(chunks)
    first = next(chunks, b"")
    encoding = _encoding(source, first, say)
    decoder = codecs.getincrementaldecoder(encoding)()
    number, begun = 1, [""]  # the line that has begun, and what there is of it
    for chunk in itertools.chain([first], chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            before = "".join(begun) + error.object[: error.start].decode(encoding, "ignore")
            got = f"the byte 0x{error.object[error.start]:02x}"
            raise Malformed(source, number + _breaks(before), encoding.upper()[:6], got) from error
        if "\0" in text:
            before = "".join(begun) + text[: text.index("\0")]
            raise Malformed(source, number + _breaks(before), "UTF-8", "the byte 0x00")
        may_end = _BREAK.search(text) or begun[-1].endswith("\r") or not chunk
        begun.append(text)
        if not may_end:
            continue
        text = "".join(begun)
        lines = list(io.StringIO(text, newline=""))
        # What ends with a carriage return may go on with a line feed.
        begun = [lines.pop() if lines and chunk and not lines[-1].endswith("\n") else ""]
        number += len(lines)
        yield from (line.removeprefix(_MARK) for line in lines) if _MARK in text else lines


def decode(source: Path | str, raw: bytes) -> str:
    """A whole text. Raises Malformed as ``decoded`` does."""
    return "".join(decoded(source, [raw]))


def _encoding(source: Path | str, raw: bytes, say: bool = True) -> str:
    encoding = next((name for mark, name in _ENCODINGS.items() if raw.startswith(mark)), "utf-8")
    if encoding != "utf-8" and say:
        note(source, f"read as {encoding.upper()[:6]}, which its byte order mark says")
    return encoding


def _breaks(text: str) -> int:
    return len(_BREAK.findall(text))


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
            yield line.rstrip("\n").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        raise Refused(f"{INPUT}: expected {encoding.upper()[:6]}, got {error.reason}") from error


def check_text(text: str) -> None:
    """Raises Refused if a text from the command line or ``input_lines`` had bytes that are no UTF-8."""
    if stray := _STRAY.search(text):
        raise Refused(f"expected UTF-8, got the byte 0x{ord(stray[0]) & 0xFF:02x}")
