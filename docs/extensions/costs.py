"""Frozen layers, memory of a training step, sizes at the edge, trajectories: from ``benches/results``."""

from __future__ import annotations

import json
from typing import Any

from sphinx.application import Sphinx

from benches.cases import MODES, Case
from extensions.chart import Dot, Row, dot_chart, figure, folded, table
from extensions.directive import HtmlDirective
from extensions.measured import KINDS, RESULTS


def _results(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


class Frozen(HtmlDirective):
    """``{frozen} RUN``: errors and times of frozen layers."""

    required_arguments = 1

    def html(self, name: str) -> str:  # type: ignore[override]
        results = _results(name)
        kinds = {"bfloat16": "c1", "int8": "c2", "torch int8": "c5"}
        rows: dict[str, list[Dot]] = {}
        cells = []
        for r in results:
            case = Case(**r["case"])
            label = f"{case.cell_name} {case.hidden_size} units"
            error, us, ratio = r["max_error"], 1e6 * r["seconds"]["median"], r["ratio"]
            hover = f"{label}, {r['layer']}: {ratio['median']:.2f} times as fast as float32, largest error {error:.1e}"
            if r["layer"] in kinds:
                dot = Dot(ratio["median"], ratio["q1"], ratio["q3"], kinds[r["layer"]], hover)
                rows.setdefault(label, []).append(dot)
            numbers = [f"{error:.1e}", f"{r['rms_error']:.1e}", f"{us:.0f}", f"{ratio['median']:.2f}"]
            cells.append([label, r["layer"], *numbers])
        legend = {kind: layer for layer, kind in kinds.items()}
        heading = "time of fastrnn in float32 / time of the frozen layer"
        chart = dot_chart({heading: [Row(*row) for row in rows.items()]}, legend, "Frozen layers", 620)
        header = ["layer", "weights", "largest error", "rms error", "us", "times as fast"]
        caption = "One row, 100 steps. Right of the line a frozen layer is faster than the same one in float32."
        return figure(chart, caption) + folded("The same as a table, with the errors", table(header, cells, 2))


class Memory(HtmlDirective):
    """``{memory} RUN``: what a training step keeps for backward."""

    required_arguments = 1

    def html(self, name: str) -> str:  # type: ignore[override]
        results = _results(name)
        rows: dict[str, list[Dot]] = {}
        cells, legend = [], {}
        for r in results:
            case = Case(**r["case"])
            kept, peak = ([f"{r[what][who] / 1e6:.3g}" for who in ("torch", "fastrnn")] for what in ("kept", "peak"))
            ratio = r["kept"]["torch"] / r["kept"]["fastrnn"]
            hover = f"{case.name}, {case.cell_name}: torch.nn keeps {kept[0]} MB, fastrnn {kept[1]} MB"
            dot = Dot(ratio, ratio, ratio, KINDS[case.cell], hover)
            rows.setdefault(f"{case.name} {case.shape}", []).append(dot)
            legend[dot.kind] = case.cell_name
            cells.append([case.name, case.shape, case.cell_name, *kept, f"{ratio:.2f}", *peak])
        heading = "bytes torch.nn keeps / bytes fastrnn keeps"
        chart = dot_chart({heading: [Row(*row) for row in rows.items()]}, legend, "Memory of a training step", 760)
        header = ["case", "shape", "cell", "torch MB", "fastrnn MB", "ratio", "torch peak", "fastrnn peak"]
        picture = figure(chart, "Right of the line fastrnn keeps less.", "every")
        return picture + folded("The same as a table, with the peaks in MB", table(header, cells, 3))


class Scale(HtmlDirective):
    """``{scale} RUN``: one size at a time from small to very large."""

    required_arguments = 1
    _NAMES = {"T": "steps", "B": "rows", "H": "units, inputs", "layers": "layers", "threads": "threads"}

    def html(self, name: str) -> str:  # type: ignore[override]
        rows: dict[str, list[Dot]] = {}
        cells = []
        for r in _results(name):
            label = f"{r['size']:,} {self._NAMES[r['axis']]}"
            both = [r[what].get(who) for what in ("seconds", "peak") for who in ("torch", "fastrnn")]
            torch, ours, *peaks = both
            dots = rows.setdefault(label, [])
            ratio = ""
            if torch:
                ratio = f"{torch['median'] / ours['median']:.2f}"
                bar = torch["q1"] / ours["q3"], torch["q3"] / ours["q1"]
                dots.append(Dot(float(ratio), *bar, f"m{1 + MODES.index(r['mode'])}", f"{label}, {r['mode']}: {ratio}"))
            times = [f"{1e3 * q['median']:,.4g}" if q else "" for q in (torch, ours)]
            cells.append([label, r["mode"], *times, ratio, *(f"{p / 1e6:,.4g}" if p else "" for p in peaks)])
        legend = {f"m{1 + n}": mode for n, mode in enumerate(MODES)}
        drawn = [Row(*row) for row in rows.items() if row[1]]
        chart = dot_chart({"time of torch.nn / time of fastrnn": drawn}, legend, "Sizes from small to very large", 620)
        header = ["size", "mode", "torch ms", "fastrnn ms", "ratio", "torch peak MB", "fastrnn peak MB"]
        picture = figure(chart, "An LSTM; right of the line fastrnn is faster.")
        return picture + folded("The same as a table, with times and peaks of memory", table(header, cells, 2))


class Trajectories(HtmlDirective):
    """``{trajectories} RUN``: rows of several trajectories in one call, and by torchrl's back ends."""

    required_arguments = 1
    _CALL, _PEERS = "one call", ("pad", "scan")

    def html(self, name: str) -> str:  # type: ignore[override]
        rows: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
        for r in _results(name):
            size = ", ".join(map(str, r["size"].values()))
            numbers = rows.setdefault((r["cell"], size, f"{r['chance']:g}"), {})
            text = f"{1e3 * r['seconds']['median']:.3g}" if r["name"] == self._CALL else f"{r['ratio']['median']:.1f}"
            numbers[r["mode"], r["name"]] = text
        columns = [(mode, who) for mode in MODES for who in (self._CALL, *self._PEERS)]
        header = ["layer", "rows, steps, units", "a step begins anew"]
        header += [f"{mode}: {'one call, ms' if who == self._CALL else who}" for mode, who in columns]
        return table(header, [[*key, *map(numbers.__getitem__, columns)] for key, numbers in rows.items()], 3)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("frozen", Frozen)
    app.add_directive("memory", Memory)
    app.add_directive("scale", Scale)
    app.add_directive("trajectories", Trajectories)
    return {"parallel_read_safe": True}
