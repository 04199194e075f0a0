"""What the programs share: numbers and paths on the command line, and errors in one line."""

import argparse
import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import devices
from .files import Refused

# Packages beside torch, and with which of fastrnn's extras they come.
EXTRAS = {"matplotlib": "examples", "sacrebleu": "examples", "tqdm": "examples"}
EXTRAS |= {"opacus": "privacy", "opt_einsum": "privacy", "scipy": "privacy"}
EXTRAS |= {"gymnasium": "reinforcement", "sb3_contrib": "reinforcement", "stable_baselines3": "reinforcement"}
PICTURES = (".png", ".pdf", ".svg")
INTERRUPTED = 130  # the exit code of a shell's own
_NAMES = {int: "an integer", float: "a number"}
_TOO_LARGE = 2**63  # for torch's integers


@contextmanager
def reporting(program: str) -> Iterator[None]:
    """Ends the program with one line where an error is the user's to mend, or after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Any locale, names of files with any bytes; what is printed reaches a pipe line by line.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", line_buffering=True)
    try:
        yield
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = in_a_line(error)
        if not message:
            raise
        sys.exit(f"{program}{message}")


def in_a_line(error: Exception) -> str:
    """What to tell the user of an error, after the program's name; empty if it is not the user's to mend."""
    if isinstance(error, Refused):
        return f": {error}"
    if isinstance(error, OSError):
        return f": {error.filename or 'output'}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f" needs {error.name}: pip install 'fastrnn[{EXTRAS[error.name]}]'"
    return ""


def _number(kind: type, expected: str, fits: Callable[[Any], bool]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not fits(number):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return number

    return read


def picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PICTURES or path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file with one of the endings {', '.join(PICTURES)}, got {text!r}")
    return path


def add_machine(command: argparse.ArgumentParser) -> None:
    """The options that say what computes."""
    text = "auto, cpu, cuda or cuda:N; default: auto, a GPU if there is one"
    command.add_argument("--device", type=_device, default="auto", metavar="NAME", help=text)
    text = "threads of the processor; default: as torch chooses, or torchrun"
    command.add_argument("--threads", type=positive(int), default=0, metavar="N", help=text)


def _device(text: str) -> str:
    if not devices.NAMES.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {text!r}")
    return text


def positive(kind: type) -> Callable[[str], Any]:
    return _number(kind, f"{_NAMES[kind]} above 0", lambda number: 0 < number < _TOO_LARGE)


def at_least_0(kind: type) -> Callable[[str], Any]:
    return _number(kind, f"{_NAMES[kind]} of at least 0", lambda number: 0 <= number < _TOO_LARGE)


share = _number(float, "a number from 0 to below 1", lambda number: 0 <= number < 1)
seed = _number(int, "an integer from 0 to below 2**32", lambda number: 0 <= number < 2**32)
