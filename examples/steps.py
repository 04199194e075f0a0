"""The rows of a series in the order of their dates, one for every step of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from .dates import Times, count_steps, read_times, usual_step
from .files import Line, Malformed, note

DAY = 86400  # seconds
SORT = "train --sort sorts rows, --no-sort takes them as they stand"
NO_FILL = "--no-fill takes rows as if they followed each other"
FILL = f"train --fill interpolates, {NO_FILL}"


@dataclass(frozen=True)
class Rows:
    """Rows of a series: where and when they are, and their values [N, F]."""

    source: Path | str
    dates: Sequence[Line]
    times: Times
    values: Tensor

    def take(self, order: Sequence[int]) -> "Rows":
        times = self.times._replace(values=[self.times.values[i] for i in order])
        return replace(self, dates=[self.dates[i] for i in order], times=times, values=self.values[list(order)])

    def malformed(self, row: int, expected: str, remark: str) -> Malformed:
        line, date = self.dates[row]
        return Malformed(self.source, line, expected, f"{date!r}; {remark}")


def arrange(
    source: Path | str, dates: Sequence[Line], values: Tensor, sort: bool | None = None, fill: bool | None = None
) -> tuple[Tensor, float]:
    """Values at even steps of time, and the step in seconds, or 0 for one that is not known.

    ``sort`` brings rows [N, F] into order and leaves out those that repeat another, ``fill`` interpolates where some
    are missing; each is said. False takes rows as they stand, without a look at their dates or at the gaps.

    Raises:
        Malformed: for rows that are not in order, or not one for every step, where nothing says what to do.
    """
    if sort is False:
        return values, 0.0
    times = read_times(source, dates)
    if times is None:
        line, text = dates[0]
        note(source, f"{text!r} in the first column is no date: rows are taken in the order of the file", line)
        return values, 0.0
    rows = _in_order(Rows(source, dates, times, values), bool(sort))
    step = usual_step(rows.times.values)
    if fill is not False and step:
        rows = _at_even_steps(rows, step, bool(fill))
    return rows.values, step if times.dated else 0.0


def _in_order(rows: Rows, sort: bool) -> Rows:
    times = rows.times.values
    if not sort:
        for row in range(1, len(times)):
            if times[row] <= times[row - 1]:
                line, date = rows.dates[row - 1]
                raise rows.malformed(row, f"a date after {date!r} of line {line}", SORT)
        return rows
    order = sorted(range(len(times)), key=times.__getitem__)
    if breaks := sum(after < before for before, after in pairwise(order)):
        note(rows.source, f"sorted by date; rows that came after a later one: {breaks}")
    rows = rows.take(order)
    times = rows.times.values
    kept = [0]
    for row in range(1, len(times)):
        if times[row] > times[kept[-1]]:
            kept.append(row)
        elif not torch.equal(rows.values[row], rows.values[kept[-1]]):
            line, _ = rows.dates[kept[-1]]
            raise rows.malformed(row, f"a date other than that of line {line}, or the same values", "they differ")
    if len(kept) < len(times):
        note(rows.source, f"rows left out that repeat the date and the values of another: {len(times) - len(kept)}")
    return rows.take(kept)


def _at_even_steps(rows: Rows, step: float, fill: bool) -> Rows:
    times = rows.times.values
    if rows.times.dated and step == DAY:
        times = _without_weekends(times)
    shown = _show(step, rows.times.dated)
    counts = []
    for row, (before, after) in enumerate(pairwise(times), 1):
        count = count_steps(after - before, step)
        if count is None:
            remark = f"{_show(after - before, rows.times.dated)} after the row before; train {NO_FILL}"
            raise rows.malformed(row, f"a row every {shown}", remark)
        counts.append(count)
    gaps = [row for row, count in enumerate(counts, 1) if count > 1]
    if not gaps:
        return rows
    missing = sum(counts) - len(counts)
    found = f"{missing} missing in {len(gaps)} place{'s' * (len(gaps) > 1)}"
    if not fill:
        raise rows.malformed(gaps[0], f"a row every {shown}", f"{found}; {FILL}")
    if missing > len(times):
        raise rows.malformed(gaps[0], f"a row every {shown}", f"{found}, more than there are; train {NO_FILL}")
    note(rows.source, f"interpolated: {found}, with a row every {shown}", rows.dates[gaps[0]][0])
    return replace(rows, values=_interpolate(rows.values, torch.tensor([0, *counts]).cumsum(0)))


def _without_weekends(times: list[float]) -> list[float]:
    """Where no day is a Saturday or a Sunday, times as if there were no such days."""
    days = [int(time // DAY) + 3 for time in times]  # since a Monday
    if any(day % 7 > 4 for day in days):
        return times
    return [time - (day // 7 * 2) * DAY for time, day in zip(times, days, strict=True)]


def _interpolate(values: Tensor, places: Tensor) -> Tensor:
    """Rows for all places, on straight lines between the given ones: values [N, F] at places [N], which rise from 0."""
    wanted = torch.arange(int(places[-1]) + 1)
    before = (torch.searchsorted(places, wanted, right=True) - 1).clamp(max=len(places) - 2)
    share = (wanted - places[before]) / (places[before + 1] - places[before])
    return torch.lerp(values[before], values[before + 1], share[:, None].to(values.dtype))


def _show(step: float, dated: bool) -> str:
    if not dated:
        return f"{step:g}"
    days = f"{step / DAY:.3g}"
    return f"{days} day{'s' * (days != '1')}" if step >= DAY else str(timedelta(seconds=step))
