"""``{finder}``: the measured cases nearest to a reader's shape, found in the page by ``static/finder.js``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

from benches.cases import MODES
from extensions.directive import HtmlDirective
from extensions.measured import load
from fastrnn.bench.providers import PEERS, TITLES
from fastrnn.spec import CELLS

_SIZES = {
    "batch": ("rows (batch)", 32),
    "steps": ("steps", 100),
    "input": ("input size", 128),
    "hidden": ("units", 256),
}


def measured(run: str) -> Iterator[dict[str, Any]]:
    """The cases of a run, as the page needs them."""
    report = load(run)
    about = report.machine
    machine = f"{about['cpu']}, {about['isa']}, {about['threads']} thread{'s' * (about['threads'] != 1)}"
    for r in report.results:
        case = r.case
        yield {
            "machine": machine,
            "mode": r.mode,
            "cell": case.cell,
            "sizes": [case.batch, case.steps, case.input_size, case.hidden_size],
            "plain": case.layers == 1 and not (case.bidirectional or case.proj_size or case.ragged),
            "dtype": case.dtype + (f" as {case.fp32_precision}" if case.fp32_precision else ""),
            "shape": case.shape,
            "ms": float(f"{1e3 * r.seconds['fastrnn'].median:.3g}"),
            "ratios": {TITLES[peer]: round(r.ratios[peer].median, 2) for peer in PEERS if peer in r.ratios},
        }


class Finder(HtmlDirective):
    """``{finder} RUN ...``: the runs that it looks in."""

    required_arguments = 1
    optional_arguments = 9
    final_argument_whitespace = False

    def html(self, *runs: str) -> str:
        cases = [case for run in runs for case in measured(run)]
        data = json.dumps(cases, separators=(",", ":")).replace("</", "<\\/")
        dtypes = list(dict.fromkeys(case["dtype"] for case in cases))
        cells = sorted(CELLS, key=lambda cell: cell.startswith("rnn"))
        choices = [("cell", cells), ("mode", list(MODES)), ("dtype", dtypes)]
        fields = "".join(_choice(name, values) for name, values in choices)
        fields += "".join(
            f'<label>{title}<input name="{name}" type="number" min="1" value="{value}"></label>'
            for name, (title, value) in _SIZES.items()
        )
        return (
            f'<form class="finder" data-finder>{fields}</form><div class="wide" data-found aria-live="polite"></div>'
            f'<script type="application/json" data-cases>{data}</script>'
        )


def _choice(name: str, values: list[str]) -> str:
    options = "".join(f"<option>{value}</option>" for value in values)
    return f'<label>{name}<select name="{name}">{options}</select></label>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("finder", Finder)
    app.add_js_file("finder.js", loading_method="defer")
    return {"parallel_read_safe": True}
