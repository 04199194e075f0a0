"""A chart of ratios as a picture, and tables, for any results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from extensions.svg import Canvas

__all__ = ["Dot", "Row", "dot_chart", "figure", "folded", "table"]

_ROW, _TOP, _BOTTOM, _LABEL, _CHARACTER = 20, 34, 24, 8, 6.4


class Dot(NamedTuple):
    """``low`` and ``high`` end the bar through it; ``kind`` is a class of the style sheet."""

    value: float
    low: float
    high: float
    kind: str
    hover: str


class Row(NamedTuple):
    label: str
    dots: Sequence[Dot]


def dot_chart(panels: dict[str, Sequence[Row]], legend: dict[str, str], title: str, width: float) -> Canvas:
    """Panels with the same rows side by side, on one logarithmic axis of ratios, with a line where they are 1.

    ``legend``: the meaning of each kind of dot.
    """
    labels = [row.label for row in next(iter(panels.values()))]
    left = _LABEL + _CHARACTER * max(map(len, labels)) + 12
    bars = [(dot.low, dot.high) for rows in panels.values() for row in rows for dot in row.dots]
    lowest = math.floor(2 * math.log2(min(low for low, _ in bars))) / 2
    low, high = min(lowest, -0.25), math.ceil(2 * math.log2(max(high for _, high in bars))) / 2
    height = _TOP + _ROW * len(labels) + _BOTTOM + 22
    canvas = Canvas(width, height, title)
    panel = (width - left - 18 * len(panels)) / len(panels)
    for n, label in enumerate(labels):
        if n % 2 == 0:
            canvas.rect(0, _TOP + _ROW * n, width, _ROW, "stripe", round=0)
        canvas.text(_LABEL, _TOP + _ROW * n + 14, label, "small")
    for p, (heading, rows) in enumerate(panels.items()):
        start = left + p * (panel + 18)

        def x(value: float, start: float = start) -> float:
            return start + panel * (math.log2(value) - low) / (high - low)

        canvas.text(start + panel / 2, 18, heading, "strong", "middle")
        bottom = _TOP + _ROW * len(labels)
        for power in range(math.ceil(low), math.floor(high) + 1):
            at = x(2.0**power)
            canvas.line(at, _TOP, at, bottom, "one" if power == 0 else "rule")
            canvas.text(at, bottom + 15, f"{2.0**power:g}", "small", "middle")
        for n, row in enumerate(rows):
            for k, dot in enumerate(row.dots):
                y = _TOP + _ROW * (n + 0.5) + (k - (len(row.dots) - 1) / 2) * min(5, 14 / max(1, len(row.dots)))
                canvas.line(x(dot.low), y, x(dot.high), y, f"bar {dot.kind}")
                canvas.circle(x(dot.value), y, 4.2, f"dot {dot.kind}", dot.hover)
    at = left
    for kind, meaning in legend.items():
        canvas.circle(at, height - 8, 4.2, f"dot {kind}")
        canvas.text(at + 9, height - 4, meaning, "small")
        at += 9 + _CHARACTER * len(meaning) + 22
    return canvas


def figure(canvas: Canvas, caption: str, kind: str = "") -> str:
    """``kind``: of a picture with many rows, ``every``."""
    picture = f'<div class="wide">{canvas}</div>'
    return f'<figure class="chart {kind}">{picture}<figcaption>{escape(caption)}</figcaption></figure>'


def folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int) -> str:
    """HTML; from a column on they are flush right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="n"' if n >= numbers_from else "" for n in range(len(cells))]
        return f"<tr>{''.join(f'<{tag}{k}>{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True))}</tr>"

    body = "".join(line("td", row) for row in rows)
    head = f"<thead>{line('th', header)}</thead>"
    return f'<div class="wide"><table class="docutils">{head}<tbody>{body}</tbody></table></div>'
