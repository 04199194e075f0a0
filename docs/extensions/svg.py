"""Pictures as SVG text. Colours are classes, which ``static/site.css`` defines for light and for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["Canvas", "number"]


def number(value: float) -> str:
    """At most one decimal: a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


class Canvas:
    """Shapes in the order in which they are drawn, the origin at the upper left."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> None:
        at = f'x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"'
        self.parts.append(f'<text {at} class="{kind}">{escape(content)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> None:
        ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
        self.parts.append(f'<line {ends} class="{kind}"/>')

    def arrow(self, *points: tuple[float, float], kind: str = "arrow") -> None:
        """Along the points, with a head at the last, which is reached horizontally or vertically."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        (x0, y0), (x, y) = points[-2:]
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        if abs(x - x0) > abs(y - y0):
            dy = 0
        else:
            dx = 0
        side = [(x - 7 * dx - 4 * dy, y - 7 * dy - 4 * dx), (x - 7 * dx + 4 * dy, y - 7 * dy + 4 * dx)]
        head = " ".join(f"{number(a)},{number(b)}" for a, b in [(x, y), *side])
        self.parts.append(f'<polyline points="{path}" class="{kind}"/><polygon points="{head}" class="head"/>')

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, hover: str = "", round: float = 4
    ) -> None:
        size = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="{number(round)}"'
        self._shape("rect", size, kind, hover)

    def circle(self, x: float, y: float, r: float, kind: str, hover: str = "") -> None:
        self._shape("circle", f'cx="{number(x)}" cy="{number(y)}" r="{number(r)}"', kind, hover)

    def polygon(self, points: Sequence[tuple[float, float]], kind: str, hover: str = "") -> None:
        self._shape("polygon", f'points="{" ".join(f"{number(x)},{number(y)}" for x, y in points)}"', kind, hover)

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str], kind: str = "box") -> None:
        """A rectangle with centred lines of text, the first of them a heading."""
        self.rect(x, y, width, height, kind)
        step = 17
        first = y + height / 2 - step * (len(lines) - 1) / 2 + 4.5
        for n, content in enumerate(lines):
            self.text(x + width / 2, first + n * step, content, "strong" if n == 0 else "small", "middle")

    def _shape(self, tag: str, size: str, kind: str, hover: str) -> None:
        inside = f"<title>{escape(hover)}</title>" if hover else ""
        self.parts.append(f'<{tag} {size} class="{kind}">{inside}</{tag}>')

    def __str__(self) -> str:
        return self.render(f'style="width:{number(self.width)}px"')

    def alone(self, style: str) -> str:
        """For a file of its own, with its style sheet and, as nobody knows on what it will be shown, its own paper."""
        size = f'width="{number(self.width)}" height="{number(self.height)}"'
        before = f'<style>{style}</style>\n<rect {size} class="paper"/>'
        return self.render(f'class="alone" {size}', before) + "\n"

    def render(self, attributes: str, before: str = "") -> str:
        view = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
        label = f'role="img" aria-label="{escape(self.title, quote=True)}"'
        inside = "\n".join([before, *self.parts])
        return f'<svg xmlns="http://www.w3.org/2000/svg" {view} {label} {attributes}>{inside}</svg>'
