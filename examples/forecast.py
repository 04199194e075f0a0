"""The next values of a time series, from a window of the values before.

Files: CSV with a header; dates in the first column, in order and one for every step of time, numbers in the others.
``--target`` names the column to forecast, by default the last. The file is split by time: 12, 4 and 4 months if it is
hourly and that long, as is usual for the ETT data (Zhou et al. 2021), otherwise 70, 10 and 20 %. Figures are of the
last part, in units of the training part's standard deviation, beside those of two rivals: the last value repeated, and
least squares on the same window.
"""

import ctypes
import io
import math
import operator
from argparse import BooleanOptionalAction
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastrnn.models import Forecaster

from .batches import Batches, alike
from .dates import Clock
from .files import INPUT, Line, Refused, Source, note
from .maps import Facts, Writer, mapped
from .steps import arrange
from .tables import Numbers, Row, Table
from .task import Options, Task
from .text import Vocabulary

DATA = Path(__file__).parent / "data" / "sunspots.csv"
MONTH = 30 * 24  # hours
HOUR = 3600.0  # seconds
FITTED = 1 << 16  # windows from which least squares learns, at most
JUDGED = 10_000  # windows of which a figure is, at most; more of them take time in every epoch and tell little more
READ = 4096  # rows at once


@dataclass(frozen=True)
class ForecastOptions(Options):
    hidden: int = 64
    dropout: float = 0.1
    rate: float = 1e-3
    target: str = ""
    columns: Literal["target", "all"] = "target"
    window: int = 0
    horizon: int = 0
    sort: bool | None = field(default=None, metadata={"action": BooleanOptionalAction})
    fill: bool | None = field(default=None, metadata={"action": BooleanOptionalAction})


class Series(NamedTuple):
    values: Tensor  # float64 [N, F], the target first
    source: Path | str
    hourly: bool = False
    digest: str = ""

    def part(self, first: int, last: int) -> "Series":
        return self._replace(values=self.values[max(first, 0) : last])


class Windows(Sequence[Any]):
    """Pairs of what is seen, [size, F], and the target after it, [horizon], from any row on.

    Raises:
        Refused: if the series is too short for one.
    """

    def __init__(self, series: Series, size: int, horizon: int):
        self._values, self._size, self._horizon = series.values, size, horizon
        number = len(series.values) - size - horizon + 1
        if number < 1:
            expected = f"expected at least {size + horizon} rows in each part (--window and --horizon)"
            raise Refused(f"{expected}, got {len(series.values)}")
        self._firsts: Sequence[Any] | Tensor = range(number)

    def some(self, number: int) -> "Windows":
        """So many of them, drawn at random, the same every time; all if there are no more."""
        if len(self) > number:
            drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:number]
            self._firsts = drawn.sort().values
        return self

    def __len__(self) -> int:
        return len(self._firsts)

    def __getitem__(self, place: Any) -> tuple[Tensor, Tensor]:
        end = int(self._firsts[place]) + self._size
        return self._values[end - self._size : end], self._values[end : end + self._horizon, 0]


class RelativeForecaster(nn.Module):
    """Forecasts how far the series moves from its last value (Zeng et al. 2023): a level not seen before does no harm.

    x float64 [B, T, F] -> float64 [B, horizon]: the layers see small numbers whatever the level. ``level`` and
    ``scale`` are mean and deviation of the target in the training part, ``linear`` [T + 1, horizon] the rival by least
    squares, with a constant, in units of these.
    """

    linear: Tensor
    level: Tensor
    scale: Tensor

    def __init__(self, forecaster: Forecaster, window: int, horizon: int):
        super().__init__()
        self.forecaster = forecaster
        self.register_buffer("linear", torch.zeros(window + 1, horizon, dtype=torch.float64))
        self.register_buffer("level", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:]
        return (self.forecaster((x - last).float()) + last[:, :, :1]).squeeze(2)

    def by_least_squares(self, x: Tensor) -> Tensor:
        return self._regressors(x) @ self.linear * self.scale + self.level

    def fit(self, x: Tensor, y: Tensor, target: Tensor) -> None:
        """``x`` and ``y`` as in training; ``target`` [N], the training part of the series."""
        self.forecaster.fit_normalisation((x - x[:, -1:]).float())
        self.level.copy_(target.mean())
        self.scale.copy_(target.std(correction=0))
        regressands = (y - self.level) / self.scale
        self.linear.copy_(torch.linalg.lstsq(self._regressors(x), regressands, driver="gelsd").solution)

    def _regressors(self, x: Tensor) -> Tensor:
        return nn.functional.pad((x[:, :, 0] - self.level) / self.scale, (0, 1), value=1.0)


class Forecast(Task[RelativeForecaster]):
    Settings = ForecastOptions
    metric = "error"
    is_better = staticmethod(operator.lt)
    predicts_lines = False

    def __init__(self, options: ForecastOptions, vocabularies: dict[str, list[str]] | None = None):
        super().__init__(options, vocabularies)
        self._training: Series | None = None

    def read(self, path: Path | None) -> Series:
        known = bool(self._columns)
        with Source(path or DATA) as source:
            table = Table(source.path, source.lines)
            if not known:
                self._choose_columns(table)
            key = {"task": "Forecast", "columns": self._columns, "sort": self.options.sort, "fill": self.options.fill}
            found = mapped(source, key, partial(self._write, table))
        if not known:
            self._choose_sizes(found.facts["rows"])
        values = found.tensor("values", torch.float64).view(-1, len(self._columns))
        series = Series(values, source.path, found.facts["step"] == HOUR, found.digest)
        if known:  # what the columns are learned from is judged in parts, once it is split
            self._say_constant(series, "throughout")
        return series

    def _write(self, table: Table, writer: Writer) -> Facts:
        rows, pieces, step = self._pieces(table)
        for piece in pieces:
            writer.add(ctypes.string_at(piece.contiguous().data_ptr(), piece.nbytes))
        writer.end("values")
        return {"rows": rows, "step": step}

    def _pieces(self, table: Table) -> tuple[int, Iterator[Tensor], float]:
        """How many rows a table has, its values [n, F] at even steps, piece by piece, and the step in seconds."""
        numbers, clock = Numbers(table, self._columns), Clock()
        found = array("d")
        rows = iter(table)
        while read := list(islice(rows, READ)):
            for row in read:
                found.extend(numbers.read(row))
            if self.options.sort is not False:
                clock.read([row.fields[0] for row in read])
        numbers.end()
        values = torch.frombuffer(found, dtype=torch.float64).view(-1, len(self._columns))
        pieces, step = arrange(
            table.source, _Dates(table, len(values)), clock, values, self.options.sort, self.options.fill
        )
        return len(values), pieces, step

    def _say_constant(self, series: Series, part: str) -> None:
        for name, column in zip(self._columns, series.values.T, strict=True):
            if len(column) > 1 and (column == column[0]).all():
                note(series.source, f"column {name!r} is {float(column[0]):g} {part}")

    @property
    def _columns(self) -> list[str]:
        """The columns that the model sees, the target first."""
        return self.vocabularies["columns"].symbols if self.vocabularies else []

    def _choose_columns(self, table: Table) -> None:
        header = table.header.fields
        target = self.options.target or header[-1]
        if target not in header[1:]:
            raise table.misses(f"a column {target!r} after the first")
        others = [name for name in header[1:] if name != target] if self.options.columns == "all" else []
        self.vocabularies["columns"] = Vocabulary([target, *others])
        self.options = replace(self.options, target=target)

    def _choose_sizes(self, rows: int) -> None:
        """A window and a horizon that suit the file's length, where none are asked for."""
        self.options = replace(
            self.options,
            window=self.options.window or max(min(96, rows // 10), 1),
            horizon=self.options.horizon or max(min(24, rows // 60), 1),
        )

    def split(self, examples: Series) -> tuple[Series, Series, Series]:
        rows = len(examples.values)
        if examples.hourly and rows >= 20 * MONTH:
            cuts = [12 * MONTH, 16 * MONTH, 20 * MONTH]
            if rows > cuts[-1]:
                note(examples.source, f"rows left out at the end, after 20 months of 30 days: {rows - cuts[-1]}")
        else:
            cuts = [round(0.7 * rows), round(0.8 * rows), rows]
        self._say_constant(examples.part(cuts[0], cuts[1]), "in the part that is held out")
        self._say_constant(examples.part(cuts[1], cuts[2]), "in the last part, which the figures are of")
        # A part's first forecast looks back into the part before.
        window = self.options.window
        return (
            examples.part(0, cuts[0]),
            examples.part(cuts[0] - window, cuts[1]),
            examples.part(cuts[1] - window, cuts[2]),
        )

    def fit(self, examples: Series) -> None:
        part = f"in the {len(examples.values)} rows to learn from"
        target = examples.values[:, 0]
        if (target == target[0]).all():
            expected = f"{examples.source}: expected a column {self.options.target!r} that changes {part}"
            raise Refused(f"{expected}, got {float(target[0]):g} throughout")
        self._say_constant(examples, part)
        self._training = examples

    def build(self, rnn: Callable[..., nn.Module]) -> RelativeForecaster:
        forecaster = Forecaster(
            len(self._columns),
            self.options.horizon,
            rnn=rnn,
            hidden=self.options.hidden,
            layers=self.options.layers,
            dropout=self.options.dropout,
        )
        model = RelativeForecaster(forecaster, self.options.window, self.options.horizon)
        if self._training:
            x, y = _stack(self._windows(self._training).some(FITTED))
            model.fit(x, y, self._training.values[:, 0])
        return model

    def batches(self, examples: Series, generator: torch.Generator | None = None) -> Batches:
        return alike(self._windows(examples), self.options.batch, generator)

    def _windows(self, series: Series) -> Windows:
        return Windows(series, self.options.window, self.options.horizon)

    def loss(self, model: RelativeForecaster, batch: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        x, y = _stack(batch)
        return model.forecaster.loss(model(x)[:, :, None], y[:, :, None])

    def evaluate(self, model: RelativeForecaster, examples: Series) -> dict[str, float]:
        return {"error": self._errors(model, examples)["error"]}

    def report(self, model: RelativeForecaster, examples: Series) -> dict[str, float]:
        number = len(self._windows(examples))
        if number > JUDGED:
            note(examples.source, f"figures are of {JUDGED} windows, drawn at random among {number}")
        return self._errors(model, examples)

    def _errors(self, model: RelativeForecaster, series: Series) -> dict[str, float]:
        """Mean squared errors, normalised."""
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "error": model,
            "persistence": lambda x: x[:, -1:, 0],
            "least squares": model.by_least_squares,
        }
        sums, number = dict.fromkeys(ways, 0.0), 0
        for batch in alike(self._windows(series).some(JUDGED), self.options.batch, None):
            x, y = _stack(batch)
            number += y.numel()
            for name, way in ways.items():
                sums[name] += float(((way(x) - y) / model.scale).square().sum())
        return {name: total / number for name, total in sums.items()}

    def predict(self, model: RelativeForecaster, text: str) -> str:
        """From a table as in a file, with its header, the values that follow, one a line."""
        _, pieces, _ = self._pieces(Table(INPUT, lambda: io.StringIO(text, newline="")))
        values = torch.cat(list(pieces))
        if len(values) < self.options.window:
            raise Refused(f"expected a header and at least {self.options.window} rows, got {len(values)} rows")
        x = values[-self.options.window :]
        return "\n".join(_format(value, float(model.scale)) for value in model(x[None])[0].tolist())


class _Dates(Sequence[Any]):
    """The first column of a table, which is read again for a few that are to be shown."""

    def __init__(self, table: Table, number: int):
        self._table, self._number = table, number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, place: Any) -> Line:
        row: Row = next(islice(self._table, place, None))
        return row.line, row.fields[0]


def _format(value: float, scale: float) -> str:
    """Six digits, and as many more as the value is large beside how far the series moves."""
    return f"{value:.{6 + max(0, int(math.log10(max(abs(value) / scale, 1))))}g}"


def _stack(windows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*windows, strict=True)
    device = torch.get_default_device()
    return torch.stack(x).to(device), torch.stack(y).to(device)
