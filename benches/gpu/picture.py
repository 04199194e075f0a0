"""Ratios to torch.nn over the hidden size as a picture; imports ``matplotlib``."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benches.cases import MODES
from benches.gpu.cases import precision_of
from benches.gpu.precision import TIMED
from benches.gpu.record import Record
from benches.gpu.speed import Measured

__all__ = ["draw"]

_COLOURS = {1: "#8a4fae", 16: "#1f6fb4", 64: "#2a9d5c", 256: "#d95f0e"}
_TITLES = {"inference": "forward", "training": "forward and backward"}


def draw(record: Record, path: Path) -> None:
    """A row of panels for each cell and mode, a column for each precision, a line for each batch size of one layer."""
    dense = [result for result in record.speed if result.case.name == "dense"]
    cells = list(dict.fromkeys(result.case.cell for result in dense))
    rows = [(cell, mode) for cell in cells for mode in MODES]
    columns = [name for name in TIMED if any(precision_of(result.case) == name for result in dense)]
    size = (1.5 + 3.2 * len(columns), 1.3 + 2.2 * len(rows))
    figure, panels = plt.subplots(
        len(rows), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for row, (cell, mode) in zip(panels, rows, strict=True):
        for panel, precision in zip(row, columns, strict=True):
            chosen = [r for r in dense if (r.case.cell, r.mode, precision_of(r.case)) == (cell, mode, precision)]
            _lines(panel, chosen)
            panel.set_title(f"{cell.upper()} {_TITLES[mode]}, {precision}", fontsize=9)
    sizes = sorted({result.case.hidden_size for result in dense})
    panels[0][0].set_xscale("log", base=2)
    panels[0][0].set_yscale("log", base=2)
    panels[0][0].set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
    panels[0][0].xaxis.minorticks_off()
    panels[0][0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = {
        label: h for line in panels for p in line for h, label in zip(*p.get_legend_handles_labels(), strict=True)
    }
    ordered = sorted(handles, key=lambda label: int(label.rpartition(" ")[2]))
    figure.legend([handles[label] for label in ordered], ordered, loc="outside right center", fontsize=8)
    facts = record.facts
    figure.suptitle("Speed relative to torch.nn (1 = equal; up is faster)", fontsize=12)
    versions = f"torch {facts['versions']['torch']}, cuDNN {facts['versions']['cudnn']}"
    figure.supxlabel(f"hidden size; one layer, 512 steps; {facts['device']}, {versions}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _lines(panel: plt.Axes, results: list[Measured]) -> None:
    panel.axhline(1.0, color="0.25", linewidth=1)
    panel.grid(color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    for batch in sorted({result.case.batch for result in results}):
        chosen = sorted((r for r in results if r.case.batch == batch), key=lambda r: r.case.hidden_size)
        sizes, ratios = [r.case.hidden_size for r in chosen], [r.ratios["torch"] for r in chosen]
        colour = _COLOURS.get(batch, "0.5")
        panel.fill_between(sizes, [q.q1 for q in ratios], [q.q3 for q in ratios], color=colour, alpha=0.2, linewidth=0)
        panel.plot(sizes, [q.median for q in ratios], "o-", color=colour, markersize=3.5, label=f"batch {batch}")
