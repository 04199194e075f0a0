"""``{speed-summary}``, ``{speed-cases}``, ``{machine}``: a benchmark run in a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from sphinx.application import Sphinx

from benches.results import Result
from extensions.chart import dot_chart, figure, folded, table
from extensions.directive import HtmlDirective
from extensions.measured import KINDS, RESULTS, case_panels, load, summary
from fastrnn.bench.providers import TITLES


def _against(text: str) -> str:
    if text not in TITLES:
        raise ValueError(f"expected a peer among {', '.join(TITLES)}, got {text!r}")
    return text


class SpeedSummary(HtmlDirective):
    """``{speed-summary} RUN PEER``: the groups of cases of a run."""

    required_arguments = 2

    def html(self, name: str, peer: str) -> str:  # type: ignore[override]
        caption = "Right of the line fastrnn is faster. Dots: geometric means; bars: worst to best case."
        return figure(summary(load(name), _against(peer)), caption)


class SpeedCases(HtmlDirective):
    """``{speed-cases} RUN PEER``: every case of a run, as a chart, as a table, and what was lost."""

    required_arguments = 2

    def html(self, name: str, peer: str) -> str:  # type: ignore[override]
        report = load(name)
        raced = [r for r in report.results if _against(peer) in r.ratios]
        panels = case_panels(report, peer)
        cells = {r.case.cell: r.case.cell_name for r in raced}
        legend = {KINDS[cell]: title for cell, title in cells.items()}
        canvas = dot_chart(panels, legend, f"Every case against {TITLES[peer]}", 860 if len(panels) > 1 else 700)
        lost = sorted((r for r in raced if r.ratios[peer].median < 1), key=lambda r: r.ratios[peer].median)
        listed = ", ".join(f"{r.case.id} in {r.mode} {r.ratios[peer].median:.2f}" for r in lost)
        said = f"Slower than {TITLES[peer]}: {len(lost)} of {len(raced)} cases{': ' + listed if lost else ''}."
        caption = "A dot is a case, its bar the quartiles; the pointer on it shows the times."
        cases = folded(f"All {len(raced)} cases as a table", table(*_case_table(raced, peer)))
        return f"<p>{escape(said)}</p>{figure(canvas, caption, 'every')}{cases}"


def _case_table(raced: Sequence[Result], peer: str) -> tuple[list[str], Iterator[list[str]], int]:
    header = ["case", "shape", "cell", "mode", f"{TITLES[peer]} ms", "fastrnn ms", "ratio", "quartiles", "of limit"]

    def rows() -> Iterator[list[str]]:
        for r in raced:
            q, share = r.ratios[peer], r.share_of_limit
            times = [f"{1e3 * r.seconds[who].median:.3g}" for who in (peer, "fastrnn")]
            numbers = [*times, f"{q.median:.2f}", f"{q.q1:.2f}-{q.q3:.2f}", f"{share:.0%}" if share else ""]
            yield [r.case.name, r.case.shape, r.case.cell_name, r.mode, *numbers]

    return header, rows(), 4


class Machine(HtmlDirective):
    """``{machine} RUN``: where, when and with what a run was measured."""

    required_arguments = 1

    def html(self, name: str) -> str:  # type: ignore[override]
        about: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["machine"]
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v and k not in ("fastrnn", "numpy"))
        text = (
            f"Measured {about['date'][:10]} at commit {about['commit'][:10]} on {about['cpu']}, {about['threads']} "
            f"thread{'s' * (about['threads'] > 1)}, instruction set {about['isa']}; {versions}. "
        )
        return f'<p class="machine">{escape(text)}<code>benches/results/{name}.json</code></p>'


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in {"speed-summary": SpeedSummary, "speed-cases": SpeedCases, "machine": Machine}.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}
