"""``{drawing} NAME``: a function of this file draws it; the directive's content is its caption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from extensions.svg import Canvas

__all__ = ["DRAWINGS"]


def call() -> Canvas:
    """The five hops of a call."""
    hops = [
        ("module", "fastrnn/modules/", "shapes, stack of layers, directions, packed input"),
        ("function", "fastrnn/ops/function.py", "one layer: fused or reference, which gradients are needed"),
        ("operator", "csrc/torch/, fastrnn/ops/operators.py", "PyTorch picks CPU or CUDA; its gradient, its fake"),
        ("backend", "csrc/runtime/, fastrnn/backends/", "a plan from sizes, options and machine; workspace, threads"),
        ("kernel", "csrc/kernels/, kernels/", "the time loop, and the cell that it takes as an argument"),
    ]
    canvas = Canvas(680, 92 * len(hops) - 24, "The path of a call: module, function, operator, backend, kernel")
    for n, (name, where, what) in enumerate(hops):
        y = 92 * n + 4
        canvas.box(8, y, 130, 56, [f"{n + 1}  {name}"], "accent" if name == "kernel" else "box")
        canvas.text(158, y + 24, what)
        canvas.text(158, y + 44, where, "code")
        if n:
            canvas.arrow((73, y - 36), (73, y))
    return canvas


def tile() -> Canvas:
    """Six rows by four vectors of accumulators."""
    canvas = Canvas(680, 330, "A register tile of six rows by four vectors, and what is multiplied into it")
    left, top, width, height = 250, 110, 92, 28
    canvas.text(left, 24, "panel: one line of four vectors a step of k", "strong")
    for c, gate in enumerate("ifgo"):
        canvas.rect(left + c * width, 36, width - 6, height - 4, "accent")
        canvas.text(left + c * width + 43, 53, f"{gate}: 16 units", "small", "middle")
        canvas.arrow((left + c * width + 43, 62), (left + c * width + 43, top - 4))
    canvas.text(8, 24, "rows of [x, h]", "strong")
    for r in range(6):
        y = top + r * height
        canvas.rect(8, y, 150, height - 5, "box")
        canvas.text(83, y + 16, f"row {r}: one value of k", "small", "middle")
        canvas.arrow((160, y + 11), (left - 6, y + 11))
        canvas.text((160 + left) / 2, y + 7, "broadcast", "quiet", "middle")
        for c in range(4):
            canvas.rect(left + c * width, y, width - 6, height - 5, "box")
            canvas.text(left + c * width + 43, y + 16, "sum", "small", "middle")
    y = top + 6 * height + 16
    canvas.text(left, y, "24 of 32 vector registers hold sums for all of k,", "small")
    canvas.text(left, y + 17, "then the cell reads i, f, g and o of a unit from one row of them.", "small")
    return canvas


def panel() -> Canvas:
    """Weights as PyTorch has them, and in the order in which the tile reads them."""
    canvas = Canvas(680, 300, "The weights packed into a panel in reading order")
    canvas.text(8, 22, "weight_hh [4H, H], as PyTorch keeps it", "strong")
    for g, gate in enumerate("ifgo"):
        canvas.rect(8, 36 + 56 * g, 230, 50, "box")
        canvas.rect(8, 36 + 56 * g, 230, 16, "accent", round=0)
        canvas.text(20, 36 + 56 * g + 40, f"gate {gate}: H rows of H", "small")
    canvas.text(8, 280, "marked: 16 units of every gate", "quiet")
    for g in range(4):
        canvas.arrow((240, 44 + 56 * g), (300, 44 + 56 * g), (300, 130), (356, 130))
    canvas.text(360, 22, "a panel of these 16 units", "strong")
    for k in range(5):
        y = 66 + 30 * k
        canvas.text(362, y + 17, f"k = {k}" if k < 4 else "...", "small")
        for g, gate in enumerate("ifgo"):
            canvas.rect(404 + 66 * g, y, 66, 26, "accent", round=0)
            canvas.text(437 + 66 * g, y + 17, f"{gate} x 16", "small", "middle")
    canvas.text(362, 240, "read from front to back at every step:", "small")
    canvas.text(362, 257, "no gaps, whole cache lines, 1 KB for 4 values of k", "small")
    return canvas


def loop() -> Canvas:
    """Forward and backward through the steps."""
    canvas = Canvas(680, 330, "The time loop, forward and backward")
    parts = ["load", "product", "cell", "store", "advance"]
    said = ["x and h of the step", "sums of all gates", "gates, new state", "y and what is saved", "to the next step"]
    canvas.text(8, 22, "forward: t = 0 to T - 1", "strong")
    for n, (part, text) in enumerate(zip(parts, said, strict=True)):
        canvas.box(8 + 134 * n, 36, 122, 52, [part, text], "accent" if part == "cell" else "box")
        if n:
            canvas.arrow((8 + 134 * n - 12, 62), (8 + 134 * n, 62))
    canvas.arrow((606, 90), (606, 108), (70, 108), (70, 90))
    canvas.text(338, 124, "h and c stay in registers or L1", "quiet", "middle")
    canvas.text(8, 168, "backward: t = T - 1 to 0", "strong")
    said = ["dy, saved values", "dgates times W_hh", "dgates, carry", "dgates", "to the step before"]
    for n, (part, text) in enumerate(zip(parts, said, strict=True)):
        canvas.box(8 + 134 * n, 182, 122, 52, [part, text], "accent" if part == "cell" else "box")
        if n:
            canvas.arrow((8 + 134 * n - 12, 208), (8 + 134 * n, 208))
    canvas.arrow((606, 236), (606, 254), (70, 254), (70, 236))
    canvas.text(8, 288, "after the loop, over all steps at once", "strong")
    gradients = {
        8: "dW_hh = sum dgates' h",
        190: "dW_ih = sum dgates' x",
        372: "db = sum dgates",
        508: "dx = dgates W_ih",
    }
    for x, gradient in gradients.items():
        canvas.text(x, 310, gradient, "code")
    return canvas


def regimes() -> Canvas:
    """Resident, cooperative, stepwise."""
    canvas = Canvas(700, 320, "The three regimes on a GPU: resident, cooperative, stepwise")
    for n, name in enumerate(("resident", "cooperative", "stepwise")):
        canvas.text(8 + 236 * n, 22, name, "strong")
    canvas.box(8, 40, 210, 70, ["program, 16 rows", "all of W_hh on chip"], "accent")
    canvas.box(8, 124, 210, 70, ["program, 16 rows", "all of W_hh on chip"], "accent")
    canvas.text(8, 220, "No program waits for another.", "small")
    canvas.text(8, 238, "One launch for all steps.", "small")
    canvas.rect(240, 34, 218, 166, "plain")
    for n in range(4):
        canvas.box(250 + 102 * (n % 2), 44 + 76 * (n // 2), 94, 66, ["program", f"slice {n + 1} of 4"], "accent")
    canvas.text(244, 220, "A group shares one copy of W_hh", "small")
    canvas.text(244, 238, "and passes one barrier a step.", "small")
    canvas.text(244, 256, "One launch for all steps.", "small")
    for n in range(3):
        y = 40 + 54 * n
        canvas.box(480, y, 96, 40, ["product"])
        canvas.box(594, y, 96, 40, ["cell"], "accent")
        canvas.arrow((578, y + 20), (592, y + 20))
        if n:
            canvas.arrow((642, y - 14), (642, y - 7), (528, y - 7), (528, y))
    canvas.text(480, 220, "Two kernels a step,", "small")
    canvas.text(480, 238, "16 steps to a CUDA graph.", "small")
    canvas.text(8, 292, "H up to 128 (tf32: 64)", "quiet")
    canvas.text(244, 292, "an H100: H up to 1600 (tf32: 1056)", "quiet")
    canvas.text(480, 292, "any H, projections, float64", "quiet")
    return canvas


def barrier() -> Canvas:
    """Two programs and the counter between them."""
    canvas = Canvas(680, 300, "The barrier: programs store, arrive at a counter, wait, and read")
    steps = [
        ("store", "its slice of h(t)"),
        ("arrive", "add 1, release"),
        ("work", "load x(t+1)"),
        ("wait", "until N t, acquire"),
        ("load", "all of h(t)"),
    ]
    for p, y in enumerate((30, 190)):
        canvas.text(8, y + 34, f"program {p + 1}", "strong")
        for n, (name, text) in enumerate(steps):
            kind = "accent" if name in ("arrive", "wait") else "box"
            canvas.box(98 + 117 * n, y, 108, 58, [name, text], kind)
            if n:
                canvas.arrow((98 + 117 * n - 9, y + 29), (98 + 117 * n, y + 29))
    canvas.box(298, 116, 140, 46, ["counter of the group", "only ever grows"])
    canvas.arrow((269, 90), (269, 139), (296, 139))
    canvas.arrow((269, 188), (269, 147), (296, 147))
    canvas.arrow((440, 132), (503, 132), (503, 90))
    canvas.arrow((440, 150), (503, 150), (503, 188))
    canvas.text(
        8, 284, "h(t) of each step has a place of its own, so nobody overwrites what another still reads.", "small"
    )
    return canvas


def pieces() -> Canvas:
    """Rows with resets, and their pieces as rows of one batch."""
    canvas = Canvas(680, 230, "Rows with resets run as shorter rows side by side")
    canvas.text(8, 22, "two rows, 12 steps, marked where they begin anew", "strong")
    rows = [[5, 3, 4], [2, 7, 3]]
    kinds = ["box", "accent"]
    for r, lengths in enumerate(rows):
        at = 8
        for n, length in enumerate(lengths):
            canvas.rect(at, 40 + 34 * r, 24 * length - 3, 26, kinds[n % 2])
            canvas.text(at + 12 * length, 57 + 34 * r, f"{'ab'[r]}{n + 1}: {length}", "small", "middle")
            at += 24 * length
    canvas.arrow((300, 70), (372, 70))
    canvas.text(380, 22, "six rows, 7 steps", "strong")
    ordered = sorted(((length, r, n) for r, ls in enumerate(rows) for n, length in enumerate(ls)), reverse=True)
    for place, (length, r, n) in enumerate(ordered):
        canvas.rect(380, 40 + 28 * place, 24 * length - 3, 22, kinds[n % 2])
        canvas.text(380 + 12 * length, 55 + 28 * place, f"{'ab'[r]}{n + 1}: {length}", "small", "middle")
    return canvas


DRAWINGS: dict[str, Callable[[], Canvas]] = {
    draw.__name__: draw for draw in (call, tile, panel, loop, regimes, barrier, pieces)
}


class Drawing(Directive):
    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in DRAWINGS:
            raise self.error(f"expected a drawing among {', '.join(DRAWINGS)}, got {name!r}")
        start = nodes.raw(
            "", f'<figure class="chart drawing"><div class="wide">{DRAWINGS[name]()}</div>', format="html"
        )
        caption = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, caption)
        return [start, *caption.children, nodes.raw("", "</figure>", format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True}
