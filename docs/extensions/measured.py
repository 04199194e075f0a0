"""A run of ``benches/results`` as rows of a chart. Without Sphinx, for the README's picture is drawn of it too."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from benches.cases import MODES, Case
from benches.results import Report, Result, groups
from extensions.chart import Dot, Row, dot_chart
from extensions.svg import Canvas
from fastrnn.bench.providers import TITLES
from fastrnn.spec import CELLS

__all__ = ["KINDS", "RESULTS", "case_panels", "load", "summary"]

RESULTS = Path(__file__).resolve().parents[2] / "benches" / "results"
KINDS = {cell: f"c{n % 5 + 1}" for n, cell in enumerate(CELLS)}  # classes of static/svg.css


@cache
def load(name: str) -> Report:
    return Report.load(RESULTS / f"{name}.json")


def summary_rows(report: Report, peer: str) -> list[Row]:
    """By family the geometric mean in each mode, with a bar from the worst case to the best."""
    found: dict[str, list[Dot]] = {}
    for group in groups(report.results, peer):
        ratios = [
            r.ratios[peer].median
            for r in report.results
            if peer in r.ratios and r.mode == group.mode and group.family in (r.case.family, "all")
        ]
        hover = (
            f"{group.family}, {group.mode}: {group.geometric_mean:.2f} times as fast as {TITLES[peer]}, geometric mean "
            f"of {group.count}; worst {group.minimum:.2f}, best {max(ratios):.2f}"
        )
        dot = Dot(group.geometric_mean, group.minimum, max(ratios), f"m{MODES.index(group.mode) + 1}", hover)
        found.setdefault(group.family, []).append(dot)
    return [Row(family, dots) for family, dots in found.items()]


def summary(report: Report, peer: str) -> Canvas:
    rows = summary_rows(report, peer)
    drawn = {dot.kind for row in rows for dot in row.dots}
    legend = {f"m{n + 1}": mode for n, mode in enumerate(MODES) if f"m{n + 1}" in drawn}
    heading = f"time of {TITLES[peer]} / time of fastrnn"
    return dot_chart({heading: rows}, legend, f"fastrnn against {TITLES[peer]}", 620)


def _hover(result: Result, peer: str) -> str:
    ratio, seconds, share = result.ratios[peer], result.seconds, result.share_of_limit
    limit = f"; {share:.0%} of the machine's limit" if share else ""
    return (
        f"{result.case.name}, {result.case.cell_name}, {result.mode}: {ratio.median:.2f} times as fast, "
        f"quartiles {ratio.q1:.2f} to {ratio.q3:.2f}; {TITLES[peer]} {milliseconds(seconds[peer].median)}, "
        f"fastrnn {milliseconds(seconds['fastrnn'].median)}{limit}"
    )


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def case_panels(report: Report, peer: str) -> dict[str, list[Row]]:
    """One row a shape, one dot a cell, a panel a mode."""
    raced = [r for r in report.results if peer in r.ratios]

    def label(case: Case) -> str:
        return f"{case.name} {case.shape}"

    labels = list(dict.fromkeys(label(r.case) for r in raced))
    panels = {}
    for mode in MODES:
        rows: dict[str, list[Dot]] = {name: [] for name in labels}
        for r in raced:
            if r.mode == mode:
                q = r.ratios[peer]
                rows[label(r.case)].append(Dot(q.median, q.q1, q.q3, KINDS[r.case.cell], _hover(r, peer)))
        if any(rows.values()):
            panels[mode] = [Row(name, dots) for name, dots in rows.items()]
    return panels
