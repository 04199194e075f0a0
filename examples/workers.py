"""Several processes that train one model, on one machine or on many, as torchrun starts them."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import format_exc
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from .arguments import INTERRUPTED, in_a_line
from .files import Refused

Result = TypeVar("Result")


class Alone(Refused):
    """What one of several processes meets and the others cannot know of."""


@dataclass(frozen=True)
class Workers:
    """The processes of a training; by default this one alone.

    All of them call its methods, in the same order, except ``part``. Only the first prints, writes and draws.
    """

    rank: int = 0
    number: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.number > 1

    def part(self, batch: Sequence[Any], terms: Callable[[Sequence[Any]], int]) -> tuple[Sequence[Any], float]:
        """This process's part of a batch, and the share of the batch's ``terms`` in it.

        Neighbours, which are of similar length, go to different processes. Where the examples do not suffice for all,
        a process is given the first one with a share of 0: it takes part in the step without effect.
        """
        if not self.several:
            return batch, 1.0
        part = batch[self.rank :: self.number]
        if not part:
            return batch[:1], 0.0
        return part, terms(part) / max(terms(batch), 1)

    def total(self, *values: float) -> list[float]:
        """The sums over all processes."""
        if not self.several:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.number
        dist.all_gather_object(found, value)
        return found

    def of_first(self, make: Callable[[], Result]) -> Result:
        """What the first process makes. Raises Refused where it does."""
        if not self.several:
            return make()
        outcome = [_outcome(make) if self.first else None]
        dist.broadcast_object_list(outcome)
        return _result(outcome[0])

    def together(self, make: Callable[[], Result]) -> Result:
        """What each process makes for itself. Raises Refused where one of them does."""
        mine = _outcome(make)
        if self.several:
            for outcome in self.gather(mine if isinstance(mine, Refused) else None):
                _result(outcome)
        return _result(mine)


ALONE = Workers()


def _outcome(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Refused as error:
        return Refused(str(error))  # one that another process can read


def _result(outcome: Any) -> Any:
    if isinstance(outcome, Refused):
        raise outcome
    return outcome


def started() -> bool:
    """Whether this process is one of several."""
    return {"RANK", "MASTER_ADDR"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def place() -> int | None:
    """That of this process among those on its machine; None if it is alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if started() else None


@contextmanager
def joined(program: str) -> Iterator[Workers]:
    """The processes of this training. Several end with the block.

    An error that all of them meet is told by the first. One that a process meets alone it tells itself, and all end.
    """
    if not started():
        yield ALONE
        return
    workers = Workers(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        yield workers
    except SystemExit as error:
        _leave("", error.code)
    except KeyboardInterrupt:
        _leave(f"{program}: interrupted" if workers.first else "", INTERRUPTED)
    except Exception as error:
        _leave(_last_words(program, workers, error), 1)
    _leave("", 0)


def _last_words(program: str, workers: Workers, error: Exception) -> str:
    if isinstance(error, (Refused, ModuleNotFoundError)) and not isinstance(error, Alone):
        return program + in_a_line(error) if workers.first else ""
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        error = Alone("has lost another one; --resume goes on from what is saved")
    message = in_a_line(error)
    return f"{program}, process {workers.rank} of {workers.number}{message}" if message else format_exc()


def _leave(message: str, code: Any) -> NoReturn:
    """Ends the process at once. At the usual end it might wait for others, in what it had begun with them.

    And for itself: DistributedDataParallel's last reference to gloo goes with Python's lock held, for which gloo's
    thread waits.
    """
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
