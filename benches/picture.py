"""The ratio of every case to each peer as a picture; imports ``matplotlib``."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benches.cases import MODES, Case
from benches.results import Report
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.providers import TITLES, TORCH
from fastrnn.spec import CELLS

__all__ = ["draw"]

_STYLES = {  # colour, marker
    "lstm": ("#1f6fb4", "o"),
    "gru": ("#d95f0e", "s"),
    "rnn_tanh": ("#2a9d5c", "D"),
    "rnn_relu": ("#8a4fae", "^"),
}
_OTHER = ("0.35", "v")
_BETWEEN = 0.22  # the dots of a row


def draw(report: Report, path: Path) -> None:
    """One row a shape, one dot a cell with a bar between its quartiles; a panel for each peer and mode."""
    seen = {cell: {(r.case.name, r.case.shape) for r in report.results if r.case.cell == cell} for cell in CELLS}
    labels = list(dict.fromkeys((r.case.name, r.case.shape) for r in report.results))
    place = {label: n for n, label in enumerate(labels)}
    cells = {label: [cell for cell in CELLS if label in seen[cell]] for label in labels}

    def offset(case: Case) -> float:
        """Of the cells of a row, one below the other."""
        beside = cells[case.name, case.shape]
        return _BETWEEN * (beside.index(case.cell) - (len(beside) - 1) / 2)

    drawn = {
        (peer, mode): [r for r in report.results if r.mode == mode and peer in r.ratios]
        for peer, mode in product((TORCH, *ENGINES), MODES)
    }
    drawn = {panel: results for panel, results in drawn.items() if results}
    size = (4 + 4 * len(drawn), 1.6 + 0.3 * len(labels))
    layout = {"figsize": size, "layout": "constrained", "sharex": True, "sharey": True, "squeeze": False}
    figure, [panels] = plt.subplots(1, len(drawn), **layout)
    for panel, ((peer, mode), results) in zip(panels, drawn.items(), strict=True):
        for cell in CELLS:
            chosen = [r for r in results if r.case.cell == cell]
            if not chosen:
                continue
            colour, marker = _STYLES.get(cell, _OTHER)
            ys = [place[r.case.name, r.case.shape] + offset(r.case) for r in chosen]
            ratios, name = [r.ratios[peer] for r in chosen], chosen[0].case.cell_name
            panel.hlines(ys, [q.q1 for q in ratios], [q.q3 for q in ratios], colour, linewidth=1.2, alpha=0.6)
            panel.plot([q.median for q in ratios], ys, marker, color=colour, markersize=4.5, label=name)
        panel.axvline(1.0, color="0.25", linewidth=1)
        panel.set_title(f"{mode}, against {TITLES[peer]}")
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
        for n in range(0, len(labels), 2):
            panel.axhspan(n - 0.5, n + 0.5, color="0.965", zorder=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(labels)), [f"{name}  {shape}" for name, shape in labels], fontsize=8)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    panels[0].legend(loc="lower right", fontsize=8, framealpha=1)
    about = report.machine
    figure.suptitle("Speed relative to others (1 = equal; right is faster)", fontsize=12)
    figure.supxlabel(f"{about['cpu']}, {about['threads']} threads, torch {about['versions']['torch']}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
