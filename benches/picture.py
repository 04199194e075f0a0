"""The ratio to torch.nn of every case as a picture; imports ``matplotlib``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benches.cases import MODES
from benches.results import Report

__all__ = ["draw"]

_CELLS = {
    "lstm": ("LSTM", "#1f6fb4", "o"),
    "gru": ("GRU", "#d95f0e", "s"),
    "rnn_tanh": ("RNN", "#2a9d5c", "D"),
    "rnn_relu": ("RNN relu", "#8a4fae", "^"),
}
_OFFSET = {"lstm": -0.22, "gru": 0.0, "rnn_tanh": 0.22, "rnn_relu": 0.22}


def draw(report: Report, path: Path) -> None:
    """One row a shape, one dot a cell with a bar between its quartiles; inference left, training right."""
    labels = list(dict.fromkeys((r.case.name, r.case.shape) for r in report.results))
    place = {label: n for n, label in enumerate(labels)}
    height = 1.6 + 0.3 * len(labels)
    figure, panels = plt.subplots(1, 2, figsize=(12, height), sharex=True, sharey=True, layout="constrained")
    for panel, mode in zip(panels, MODES, strict=True):
        for cell, (name, colour, marker) in _CELLS.items():
            chosen = [r for r in report.results if r.mode == mode and r.case.cell == cell]
            if not chosen:
                continue
            ys = [place[r.case.name, r.case.shape] + _OFFSET[cell] for r in chosen]
            ratios = [r.ratios["torch"] for r in chosen]
            panel.hlines(ys, [q.q1 for q in ratios], [q.q3 for q in ratios], colour, linewidth=1.2, alpha=0.6)
            panel.plot([q.median for q in ratios], ys, marker, color=colour, markersize=4.5, label=name)
        panel.axvline(1.0, color="0.25", linewidth=1)
        panel.set_title(mode)
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
    figure.suptitle("Speed relative to torch.nn (1 = equal; right is faster)", fontsize=12)
    figure.supxlabel(f"{about['cpu']}, {about['threads']} threads, torch {about['versions']['torch']}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
