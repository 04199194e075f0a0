"""Where a model runs, and in which precision."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from .files import Refused

CPU = torch.device("cpu")
NAMES = re.compile(r"auto|cpu|cuda(:\d+)?")


def find(name: str, place: int | None = None) -> torch.device:
    """The device of a name among ``NAMES``; ``auto`` is a GPU where there is one.

    ``place`` is that of this process among several on one machine, each of which takes a GPU of its own.

    Raises:
        Refused: if it is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return CPU
    if not torch.cuda.is_available():
        why = "finds none" if torch.backends.cuda.is_built() else "is built without CUDA"
        raise Refused(f"--device {name}: expected a GPU, but torch {torch.__version__} {why}")
    index = torch.device(name).index
    if place is not None:
        if index is not None:
            raise Refused(f"--device {name}: expected cuda, as each of several processes takes a GPU of its own")
        index = place
    index, number = index or 0, torch.cuda.device_count()
    if index >= number:
        raise Refused(f"--device {name}: expected a GPU of number {index}, got {number} of them, counted from 0")
    return torch.device("cuda", index)


@contextmanager
def running(device: torch.device, precision: str) -> Iterator[None]:
    """Tensors are made on the device, and ``bfloat16`` casts by PyTorch's rules of autocast."""
    with ExitStack() as entered:
        if device != CPU:  # the default; naming it would slow every call
            entered.enter_context(device)
        if precision == "bfloat16":
            entered.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield
