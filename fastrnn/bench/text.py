"""Tables as text."""

from __future__ import annotations

__all__ = ["format_table"]


def format_table(header: list[str], lines: list[list[str]], left: int, markdown: bool) -> str:
    """The first ``left`` columns flush left, numbers flush right."""
    widths = [max(len(line[n]) for line in [header, *lines]) for n in range(len(header))]

    def text(line: list[str]) -> str:
        pairs = enumerate(zip(line, widths, strict=True))
        cells = [f"{c:<{w}}" if n < left else f"{c:>{w}}" for n, (c, w) in pairs]
        return f"| {' | '.join(cells)} |" if markdown else "  ".join(cells).rstrip()

    rule = [("-" * w if n < left else "-" * (w - 1) + ":") if markdown else "-" * w for n, w in enumerate(widths)]
    return "\n".join([text(header), text(rule), *map(text, lines)])
