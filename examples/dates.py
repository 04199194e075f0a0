"""Reading the dates of a series, in whichever way they are written."""

import re
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .files import Line, Malformed, note

Reading = Callable[[str], float]  # raises ValueError for what it cannot read
_DAYS = ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%y"]
_DAYS += ["%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"]
_MONTHS = ["%Y-%m", "%Y/%m", "%m/%Y", "%m.%Y", "%Y%m", "%b %Y", "%B %Y"]
_HOURS = ["", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p"]
_TRIED = 3  # rows of which one has to be a date, or the column holds none


class Times(NamedTuple):
    values: Tensor  # float64 [N]
    dated: bool  # values are seconds, not numbers as they stand in the file


class Clock:
    """Reads the dates of rows as they come, in every way that suits one of the first."""

    def __init__(self) -> None:
        self._number = 0  # of rows
        self._example = ""
        self._found: dict[Reading, array[float]] = {}  # up to the first date that it cannot read

    def read(self, texts: Sequence[str]) -> None:
        """The dates of the next rows, in the first call of ``_TRIED`` at least where there are so many."""
        if not self._number:
            tried = texts[:_TRIED]
            self._found = {reading: array("d") for reading in _READINGS if any(_fits(reading, text) for text in tried)}
            self._example = next((text for text in tried if any(_fits(it, text) for it in self._found)), "")
        for reading, times in self._found.items():
            if len(times) == self._number:
                with suppress(ValueError):
                    times.extend(map(reading, texts))
        self._number += len(texts)

    def times(self, source: Path | str, dates: Sequence[Line]) -> Times | None:
        """The times of all rows, or None if these are not dates and not numbers. A choice among readings is said.

        ``dates`` has the rows again, of which a few are looked at.

        Raises:
            Malformed: for a row whose date is not written as those of others are.
        """
        if not self._found:
            return None
        read = max(map(len, self._found.values()))
        if read < self._number:
            line, text = dates[read]
            raise Malformed(source, line, f"a date written as {self._example!r} is", repr(text))
        whole = {reading: times for reading, times in self._found.items() if len(times) == read}
        found = {reading: torch.frombuffer(times, dtype=torch.float64) for reading, times in whole.items()}
        first, *others = found.values()
        if not others:
            return Times(first, _number not in found)
        reading = min(found, key=lambda reading: _faults(found[reading]))
        dated = reading is not _number
        if not all(first.equal(other) for other in others):
            line, text = dates[read - 1]
            last = datetime.fromtimestamp(float(found[reading][-1]), timezone.utc)
            taken = f"{last:%d %B %Y}" if dated else "a number"
            note(source, f"{text!r} in the first column is taken as {taken}", line)
        return Times(found[reading], dated)


def read_times(source: Path | str, dates: Sequence[Line]) -> Times | None:
    """The times of rows, as a ``Clock`` finds them."""
    clock = Clock()
    clock.read([text for _, text in dates])
    return clock.times(source, dates)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def _iso(text: str) -> float:
    if "-" not in text:  # 20200101 has other readings
        raise ValueError(text)
    return _seconds(datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1] in "zZ" else text))


def _by(form: str) -> Reading:
    return lambda text: _seconds(datetime.strptime(text, form))


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


_READINGS: list[Reading] = [_iso, _number]
_READINGS += [_by(days + hours) for days, hours in product(_DAYS, _HOURS)] + [_by(months) for months in _MONTHS]


def _fits(reading: Reading, text: str) -> bool:
    try:
        reading(text)
    except ValueError:
        return False
    return True


def usual_step(times: Tensor) -> float:
    """The median of the steps between neighbours in time; 0 for fewer than two times."""
    steps = times.unique().diff().sort().values
    half = len(steps) // 2
    return float(steps[half] + steps[-1 - half]) / 2 if len(steps) else 0.0


def count_steps(steps: Tensor, usual: float) -> Tensor:
    """How many usual steps each makes, int64; 0 for what is no whole number of them. Months may differ in length."""
    ratio = steps / usual
    number = ratio.round()
    return number.where((ratio - number).abs() <= number / 8, 0.0).long()


def _faults(times: Tensor) -> int:
    """How many steps are not the usual one."""
    usual = usual_step(times)
    return int((count_steps(times.diff(), usual) != 1).sum()) if usual else len(times) - 1
