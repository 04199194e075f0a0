"""Reading the dates of a series, in whichever way they are written."""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

from .files import Line, Malformed, note

Reading = Callable[[str], float]  # raises ValueError for what it cannot read
_DAYS = ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%y"]
_DAYS += ["%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"]
_MONTHS = ["%Y-%m", "%Y/%m", "%m/%Y", "%m.%Y", "%Y%m", "%b %Y", "%B %Y"]
_HOURS = ["", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p"]
_TRIED = 3  # rows of which one has to be a date, or the column holds none


class Times(NamedTuple):
    values: list[float]
    dated: bool  # values are seconds, not numbers as they stand in the file


def read_times(source: Path | str, dates: Sequence[Line]) -> Times | None:
    """The times of rows, or None if these are not dates and not numbers. A choice among several readings is said.

    Raises:
        Malformed: for a row whose date is not written as those of others are.
    """
    readings = [reading for reading in _READINGS if any(_fits(reading, text) for _, text in dates[:_TRIED])]
    if not readings:
        return None
    found = {}
    for reading in readings:
        times = [_read(reading, text) for _, text in dates]
        if not any(map(math.isnan, times)):
            found[reading] = times
    if not found:
        at = max(_first_unread(reading, dates) for reading in readings)
        example = next(text for _, text in dates if any(_fits(reading, text) for reading in readings))
        raise Malformed(source, dates[at][0], f"a date written as {example!r} is", repr(dates[at][1]))
    reading = min(found, key=lambda reading: _faults(found[reading]))
    dated = reading is not _number
    if len(set(map(tuple, found.values()))) > 1:
        line, text = dates[-1]
        taken = f"{datetime.fromtimestamp(found[reading][-1], timezone.utc):%d %B %Y}" if dated else "a number"
        note(source, f"{text!r} in the first column is taken as {taken}", line)
    return Times(found[reading], dated)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def _iso(text: str) -> float:
    if "-" not in text:  # 20200101 has other readings
        raise ValueError(text)
    return _seconds(datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)))


def _by(form: str) -> Reading:
    return lambda text: _seconds(datetime.strptime(text, form))


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


_READINGS: list[Reading] = [_iso, _number]
_READINGS += [_by(days + hours) for days, hours in product(_DAYS, _HOURS)] + [_by(months) for months in _MONTHS]


def _read(reading: Reading, text: str) -> float:
    try:
        return reading(text)
    except ValueError:
        return math.nan


def _fits(reading: Reading, text: str) -> bool:
    return not math.isnan(_read(reading, text))


def _first_unread(reading: Reading, dates: Sequence[Line]) -> int:
    return next(i for i, (_, text) in enumerate(dates) if not _fits(reading, text))


def usual_step(times: Sequence[float]) -> float:
    """The median of the steps between neighbours in time; 0 for fewer than two times."""
    steps = [after - before for before, after in pairwise(sorted(set(times)))]
    return statistics.median(steps) if steps else 0.0


def count_steps(step: float, usual: float) -> int | None:
    """How many usual steps one makes, or None for what is no whole number of them. Months may differ in length."""
    number = round(step / usual)
    return number if number and abs(step / usual - number) <= number / 8 else None


def _faults(times: Sequence[float]) -> int:
    """How many steps are not the usual one."""
    usual = usual_step(times)
    return sum(not usual or count_steps(after - before, usual) != 1 for before, after in pairwise(times))
