"""Questions answered in another process, which is killed when an answer does not come.

A barrier that waits for a program that never arrives holds the device until the process that started it ends.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

__all__ = ["Broken", "Child", "Failed", "Hung"]

_START_SECONDS = 120.0
_END_SECONDS = 30.0  # the driver ends what runs on the device first


class Failed(Exception):
    """The question raised an error; the child goes on."""


class Broken(Failed):
    """The child ended, or left the device in an error."""


class Hung(Broken):
    """No answer in time."""


class Child:
    """Started at the first question, and again at the first one after it broke."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """``function(*arguments)``, both of which must be picklable."""
        if self._process is None:
            self._start()
        assert self._connection is not None
        self._connection.send((function, arguments))
        return self._answer(seconds)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(_END_SECONDS)
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._answer(_START_SECONDS)

    def _answer(self, seconds: float) -> Any:
        assert self._connection is not None
        if not self._connection.poll(seconds):
            self.close()
            raise Hung(f"no answer in {seconds:.0f} s, killed")
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            raise Broken(f"the process ended with code {code}") from None
        if kind == "broken":
            self.close()
            raise Broken(value)
        if kind == "failed":
            raise Failed(value)
        return value


def _serve(connection: Connection) -> None:
    connection.send(("answer", None))
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(("answer", function(*arguments)))
        except Exception as error:
            connection.send(("failed" if _device_works() else "broken", _told(error)))


def _device_works() -> bool:
    """An error of the device is reported by whatever comes next, and the process cannot use it any more."""
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except Exception:
        return False
    return True


def _told(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:400]} ({place.filename.rpartition('/')[2]}:{place.lineno})"
