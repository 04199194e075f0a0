"""The rows of a series in the order of their dates, one for every step of time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from .dates import Clock, count_steps, usual_step
from .files import Line, Malformed, note

DAY = 86400  # seconds
PIECE = 1 << 18  # rows
SORT = "train --sort sorts rows, --no-sort takes them as they stand"
NO_FILL = "--no-fill takes rows as if they followed each other"
FILL = f"train --fill interpolates, {NO_FILL}"


@dataclass(frozen=True)
class Rows:
    """Rows of a series: where they are in the file, when they are, and what the file has."""

    source: Path | str
    dates: Sequence[Line]  # of the file
    values: Tensor  # of the file, [N, F]
    places: Tensor  # in the file, int64 [R]
    times: Tensor  # float64 [R]
    dated: bool

    def take(self, rows: Tensor) -> "Rows":
        return replace(self, places=self.places[rows], times=self.times[rows])

    def line(self, row: Tensor | int) -> Line:
        return self.dates[int(self.places[row])]

    def malformed(self, row: Tensor | int, expected: str, remark: str) -> Malformed:
        line, date = self.line(row)
        return Malformed(self.source, line, expected, f"{date!r}; {remark}")


def arrange(
    source: Path | str,
    dates: Sequence[Line],
    clock: Clock,
    values: Tensor,
    sort: bool | None = None,
    fill: bool | None = None,
) -> tuple[Iterator[Tensor], float]:
    """Values at even steps of time, piece by piece, and the step in seconds, or 0 for one that is not known.

    ``sort`` brings rows [N, F] into order and leaves out those that repeat another, ``fill`` interpolates where some
    are missing; each is said. False takes rows as they stand, without a look at their dates or at the gaps.
    ``clock`` has read the dates, of which ``dates`` has those that are to be shown.

    Raises:
        Malformed: for rows that are not in order, or not one for every step, where nothing says what to do.
    """
    if sort is False:
        return iter(values.split(PIECE)), 0.0
    times = clock.times(source, dates)
    if times is None:
        line, text = dates[0]
        note(source, f"{text!r} in the first column is no date: rows are taken in the order of the file", line)
        return iter(values.split(PIECE)), 0.0
    rows = Rows(source, dates, values, torch.arange(len(values)), times.values, times.dated)
    rows = _in_order(rows, bool(sort))
    step = usual_step(rows.times)
    steps = _steps(rows, step, bool(fill)) if fill is not False and step else None
    pieces = (values[places] for places in rows.places.split(PIECE)) if steps is None else _interpolated(rows, steps)
    return pieces, step if rows.dated else 0.0


def _in_order(rows: Rows, sort: bool) -> Rows:
    if not sort:
        late = (rows.times.diff() <= 0).nonzero()
        if len(late):
            row = late[0, 0] + 1
            line, date = rows.line(row - 1)
            raise rows.malformed(row, f"a date after {date!r} of line {line}", SORT)
        return rows
    order = rows.times.argsort(stable=True)
    if breaks := int((order.diff() < 0).sum()):
        note(rows.source, f"sorted by date; rows that came after a later one: {breaks}")
    rows = rows.take(order)
    is_new = rows.times.diff(prepend=rows.times.new_tensor([-math.inf])) > 0
    if is_new.all():
        return rows
    kept, repeated = is_new.nonzero()[:, 0], (~is_new).nonzero()[:, 0]
    firsts = kept[is_new.cumsum(0)[repeated] - 1]
    differs = (rows.values[rows.places[repeated]] != rows.values[rows.places[firsts]]).any(1).nonzero()
    if len(differs):
        row, first = repeated[differs[0, 0]], firsts[differs[0, 0]]
        line, _ = rows.line(first)
        raise rows.malformed(row, f"a date other than that of line {line}, or the same values", "they differ")
    note(rows.source, f"rows left out that repeat the date and the values of another: {len(repeated)}")
    return rows.take(kept)


def _steps(rows: Rows, step: float, fill: bool) -> Tensor | None:
    """At which step each row is, int64 [R], from 0; None if no step is left out."""
    times = rows.times
    if rows.dated and step == DAY:
        times = _without_weekends(times)
    shown = _show(step, rows.dated)
    counts = count_steps(times.diff(), step)
    uneven = (counts == 0).nonzero()
    if len(uneven):
        row = int(uneven[0, 0]) + 1
        remark = f"{_show(float(times[row] - times[row - 1]), rows.dated)} after the row before; train {NO_FILL}"
        raise rows.malformed(row, f"a row every {shown}", remark)
    gaps = (counts > 1).nonzero()[:, 0] + 1
    if not len(gaps):
        return None
    missing = int(counts.sum()) - len(counts)
    found = f"{missing} missing in {len(gaps)} place{'s' * (len(gaps) > 1)}"
    if not fill:
        raise rows.malformed(gaps[0], f"a row every {shown}", f"{found}; {FILL}")
    if missing > len(times):
        raise rows.malformed(gaps[0], f"a row every {shown}", f"{found}, more than there are; train {NO_FILL}")
    note(rows.source, f"interpolated: {found}, with a row every {shown}", rows.line(gaps[0])[0])
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _without_weekends(times: Tensor) -> Tensor:
    """Where no day is a Saturday or a Sunday, times as if there were no such days."""
    days = times.div(DAY, rounding_mode="floor").long() + 3  # since a Monday
    if (days % 7 > 4).any():
        return times
    return times - days.div(7, rounding_mode="floor") * 2 * DAY


def _interpolated(rows: Rows, steps: Tensor) -> Iterator[Tensor]:
    """Values [n, F] for all steps, on straight lines between those of the rows at the given ones."""
    for wanted in torch.arange(int(steps[-1]) + 1).split(PIECE):
        before = (torch.searchsorted(steps, wanted, right=True) - 1).clamp(max=len(steps) - 2)
        share = (wanted - steps[before]) / (steps[before + 1] - steps[before])
        first, second = (rows.values[rows.places[row]] for row in (before, before + 1))
        yield torch.lerp(first, second, share[:, None].to(first.dtype))


def _show(step: float, dated: bool) -> str:
    if not dated:
        return f"{step:g}"
    days = f"{step / DAY:.3g}"
    return f"{days} day{'s' * (days != '1')}" if step >= DAY else str(timedelta(seconds=step))
