"""What was made of a source once: arrays in a file that is mapped into memory, and kept for the next time."""

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .files import Refused, Source, hearing, note, repeat

CACHE = "FASTRNN_CACHE"  # names the folder
KEPT = 16 << 20  # bytes of a source; a smaller one is read again in a second
_FORMAT = b"fastrnn1"  # another one where anything else comes of the same source, other words of a text for example
_NUMBER = 8  # bytes of the facts' length before it
_ALIGNED = 64
_RACY = 2 * 10**9  # ns, within which a file may change again without a new time
_NEVER = 1  # ns, a time that no file has

Facts = dict[str, Any]  # for JSON


class Writer:
    """Arrays, one after another: ``add`` to one until it ends."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._arrays: dict[str, tuple[int, int]] = {}
        self._first = 0

    def add(self, data: Any) -> None:
        self._file.write(data)

    def end(self, name: str) -> None:
        end = self._file.tell()
        self._arrays[name] = self._first, end
        self._first = -(-end // _ALIGNED) * _ALIGNED
        self._file.write(bytes(self._first - end))

    def finish(self, facts: Facts) -> None:
        written = json.dumps([facts, self._arrays]).encode()
        self._file.write(written + len(written).to_bytes(_NUMBER, "little") + _FORMAT)
        self._file.flush()


class Map:
    """Arrays in a file; they stay when the file is deleted. ``path`` says where it is kept, if it is.

    Raises:
        ValueError: if the file is not whole.
    """

    def __init__(self, file: BinaryIO, path: Path | None = None):
        self.path = path
        # A private copy of what is written to, as tensors may be; nothing writes.
        self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if self._bytes[-len(_FORMAT) :] != _FORMAT:
            raise ValueError("another format, or a part of a file")
        end = len(self._bytes) - len(_FORMAT) - _NUMBER
        length = int.from_bytes(self._bytes[end : end + _NUMBER], "little")
        self.facts: Facts
        self.facts, self._arrays = json.loads(self._bytes[end - length : end])
        self.digest: str = self.facts["digest"]  # of the source

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        view = self.view(name)
        return torch.frombuffer(view, dtype=dtype) if view else torch.empty(0, dtype=dtype)

    def view(self, name: str) -> memoryview:
        first, end = self._arrays[name]
        return memoryview(self._bytes)[first:end]

    def forget(self) -> None:
        """Lets go of what was read, which counts as memory of this process until the system needs it."""
        self._bytes.madvise(mmap.MADV_DONTNEED)

    def remember(self, name: str, make: Callable[[], Facts]) -> Facts:
        """What ``make`` finds out of the arrays; of a map that is kept it is kept, too, beside it."""
        if self.path is None:
            return make()
        path = self.path.with_suffix(f".{name}.json")
        try:
            made_of, notes, found = json.loads(path.read_text())
        except (OSError, ValueError):
            made_of = None
        if made_of == [_FORMAT.decode(), self.digest]:
            for heard in notes:
                repeat(*heard)
            return found
        with hearing() as notes:
            found = make()
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump([[_FORMAT.decode(), self.digest], notes, found], file)
        os.replace(file.name, path)
        return found


def mapped(source: Source, key: Facts, make: Callable[[Writer], Facts]) -> Map:
    """What ``make`` writes of a source and the facts that it returns, with the ``digest`` of the source.

    It is made once for each key, as long as the source does not change. Where it is kept is said, and what was noted
    when it was made is said again.

    Raises:
        Refused: as ``make`` does, or if the disk is too small.
    """
    status = os.fstat(source.file.fileno())
    if status.st_size < KEPT:
        with tempfile.TemporaryFile() as file:
            return _made(file, source, make)
    path = _place(source.path, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    while (found := _kept(path, source, status)) is None:
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("ab+") as file:
            _lock(file, source.path)
            if not _is_at(file, unfinished):
                continue
            try:
                return _keep(file, path, source, status, make)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    note(source.path, f"has not changed since it was read into {path}")
    for _, said in found.facts["notes"]:
        repeat(source.path, said)
    return found


def _place(path: Path, key: Facts) -> Path:
    folder = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fastrnn"
    digest = hashlib.sha256(json.dumps([os.fspath(path.resolve()), key]).encode()).hexdigest()
    return Path(folder, f"{path.stem[:40]}-{digest[:16]}.map")


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(path, "is being read by another process, for which this one waits")
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _kept(path: Path, source: Source, status: os.stat_result) -> Map | None:
    """What is there of the source as it is now. The file's time is that of the source when it was last compared."""
    try:
        with path.open("rb") as file:
            found = Map(file, path)
            compared = os.fstat(file.fileno()).st_mtime_ns
    except (OSError, ValueError):
        return None
    if found.facts["size"] != status.st_size:
        return None
    if compared != status.st_mtime_ns:
        if found.digest != source.find_digest():
            return None
        os.utime(path, ns=(time.time_ns(), _time(status)))
    return found


def _time(status: os.stat_result) -> int:
    return _NEVER if time.time_ns() - status.st_mtime_ns < _RACY else status.st_mtime_ns


def _keep(file: BinaryIO, path: Path, source: Source, status: os.stat_result, make: Callable[[Writer], Facts]) -> Map:
    file.seek(0)
    file.truncate()  # what a process has left that was killed
    free = shutil.disk_usage(path.parent).free
    if free < status.st_size:
        where = f"{path.parent}, which {CACHE} names" if os.environ.get(CACHE) else f"{path.parent} ({CACHE}=FOLDER)"
        raise Refused(f"{source.path}: expected {status.st_size / 1e9:.1f} GB free in {where}, got {free / 1e9:.1f}")
    known = _time(status)
    found = _made(file, source, make, path)
    os.fsync(file.fileno())
    os.utime(file.fileno(), ns=(time.time_ns(), known))
    os.replace(file.name, path)
    size = os.fstat(file.fileno()).st_size
    note(source.path, f"read into {path}, {size / 1e6:.0f} MB, for the next time; {CACHE} names another folder")
    return found


def _made(file: BinaryIO, source: Source, make: Callable[[Writer], Facts], path: Path | None = None) -> Map:
    writer = Writer(file)
    with hearing() as notes:
        facts = make(writer)
    size = os.fstat(source.file.fileno()).st_size
    writer.finish(facts | {"notes": notes, "size": size, "digest": source.digest})
    return Map(file, path)
