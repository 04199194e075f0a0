"""Ratios as a picture; needs ``matplotlib`` when it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["draw_ratios"]

_COLOURS = ("#1f6fb4", "#d95f0e", "#2a9d5c", "#8a4fae")
_BETWEEN = 0.6  # groups of bars, in bars


def draw_ratios(rows: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """By what is timed, such as a layer, and by peer the ratio of its time to fastrnn's: a bar each."""
    from matplotlib.figure import Figure

    peers = list(dict.fromkeys(peer for ratios in rows.values() for peer in ratios))
    bars = sum(map(len, rows.values())) + _BETWEEN * len(rows)
    figure = Figure(figsize=(9, 1.8 + 0.3 * bars), layout="constrained")
    axes = figure.subplots()
    y, middles = 0.0, []
    for ratios in rows.values():
        middles.append(y + (len(ratios) - 1) / 2)
        for peer, ratio in ratios.items():
            axes.barh(y, ratio - 1, 0.85, left=1, color=_COLOURS[peers.index(peer) % len(_COLOURS)])
            beside, side = (4, "left") if ratio >= 1 else (-4, "right")
            at = (ratio, y)
            axes.annotate(f"{ratio:.2f}", at, (beside, 0), textcoords="offset points", ha=side, va="center", fontsize=9)
            y += 1
        y += _BETWEEN
    for peer, colour in zip(peers, _COLOURS, strict=False):
        axes.barh(0, 0, left=1, color=colour, label=f"as {peer}")
    axes.axvline(1, color="0.25", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.12)
    axes.set_yticks(middles, list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("times as fast (left of 1: slower)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=len(peers), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
