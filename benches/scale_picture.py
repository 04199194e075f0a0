"""Time and memory against sizes as a picture; imports ``matplotlib``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benches.cases import MODES
from fastrnn.bench.providers import OURS, TORCH

if TYPE_CHECKING:
    from benches.scale import Scaled

__all__ = ["draw"]

_COLOURS = {OURS: "#1f6fb4", TORCH: "0.6"}
_STYLES = {"inference": ("o", "-"), "training": ("s", "--")}
_TITLES = {"T": "steps", "B": "rows", "H": "units, of input too", "layers": "layers", "threads": "threads"}


def draw(machine: Mapping[str, object], results: Sequence[Scaled], path: Path) -> None:
    """A column for each axis, time above and memory below; the machine's limit is dotted."""
    axes = list(dict.fromkeys(result.axis for result in results))
    layout = {"figsize": (3.4 * len(axes), 6.4), "layout": "constrained", "sharex": "col", "squeeze": False}
    figure, panels = plt.subplots(2, len(axes), **layout)
    for (times, peaks), axis in zip(panels.T, axes, strict=True):
        for mode in MODES:
            line = [result for result in results if (result.axis, result.mode) == (axis, mode)]
            marker, style = _STYLES[mode]
            for name, colour in reversed(_COLOURS.items()):
                known = [result for result in line if name in result.seconds]
                sizes, look = [result.size for result in known], {"color": colour, "marker": marker, "ls": style}
                label = f"{name}, {mode}"
                times.plot(sizes, [r.seconds[name].median * 1e3 for r in known], label=label, markersize=4, **look)
                peaks.plot(sizes, [r.peak[name] / 1e6 for r in known], label=label, markersize=4, **look)
            limit = [result.floor * 1e3 for result in line]
            label = "the machine's limit" if mode == MODES[0] else None
            times.plot([r.size for r in line], limit, color=_COLOURS[OURS], ls=":", linewidth=1, label=label)
        case = line[0].case
        fixed = {"T": case.steps, "B": case.batch, "H": case.hidden_size, "layers": case.layers}
        fixed = {name: value for name, value in fixed.items() if name != axis}
        times.set_title(", ".join(f"{name} {value}" for name, value in fixed.items()), fontsize=9)
        peaks.set_xlabel(_TITLES[axis])
        for panel in (times, peaks):
            panel.set_xscale("log", base=10 if axis == "T" else 2)
            panel.set_yscale("log")
            panel.grid(color="0.9")
            panel.spines[["top", "right"]].set_visible(False)
            if axis != "T":
                panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0, 0].set_ylabel("ms a call")
    panels[1, 0].set_ylabel("MB at the peak of a call")
    panels[0, 0].legend(fontsize=7)
    figure.suptitle(f"{results[0].case.cell_name}, {machine['cpu']}, {machine['threads']} threads", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
