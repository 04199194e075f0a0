"""A report as text: plain columns for the terminal, or markdown."""

from __future__ import annotations

from benches.cases import MODES
from benches.results import Group, Report, Result, groups
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.providers import PEERS, TORCH
from fastrnn.bench.text import format_table

__all__ = ["HEADER", "format_groups", "format_report", "format_row", "row"]

_OTHERS = [name for name in PEERS if name != TORCH]
HEADER = ["case", "shape", "cell", "mode", "torch ms", "fastrnn ms", "vs torch", "quartiles"]
HEADER += [*(f"vs {name}" for name in _OTHERS), "of limit"]
_LEFT = 4
_WIDTHS = [18, 34, 8, 9, *(max(9, len(title)) for title in HEADER[_LEFT:])]
_NOISY_SPREAD = 1.2


def row(result: Result, absent: list[str]) -> list[str]:
    """The cells of one line; a peer that does not take the case is blank, one that is not installed is ``absent``."""
    ratio, share = result.ratios[TORCH], result.share_of_limit

    def against(name: str) -> str:
        if name in result.ratios:
            return f"{result.ratios[name].median:.2f}"
        return "absent" if name in absent and result.mode == "inference" and ENGINES[name].takes(result.case) else ""

    return [
        result.case.name,
        result.case.shape,
        result.case.cell,
        result.mode,
        f"{result.seconds[TORCH].median * 1e3:.4g}",
        f"{result.seconds['fastrnn'].median * 1e3:.4g}",
        f"{ratio.median:.2f}",
        f"{ratio.q1:.2f}-{ratio.q3:.2f}",
        *map(against, _OTHERS),
        f"{share:.0%}" if share is not None else "n/a",
    ]


def format_row(cells: list[str]) -> str:
    """One line of the terminal's table."""
    pairs = enumerate(zip(cells, _WIDTHS, strict=True))
    return " ".join(f"{c:<{w}}" if n < _LEFT else f"{c:>{w}}" for n, (c, w) in pairs).rstrip()


def format_report(report: Report, markdown: bool = False, summary: bool = False) -> str:
    """Machine, every case (not in a summary), groups, and what was lost or refused."""
    sections = [_machine(report)]
    if not summary:
        cases = [row(result, report.absent) for result in report.results]
        sections.append(format_table(HEADER, cases, _LEFT, markdown))
    raced = {peer: [result for result in report.results if peer in result.ratios] for peer in PEERS}
    for peer, results in raced.items():
        if results:
            sections.append(format_groups(groups(results, peer), f"vs {peer}", markdown))
    for peer, results in raced.items():
        if results:
            losses = [_loss(result, peer) for result in results if result.ratios[peer].median < 1.0]
            sections.append(_listing(f"slower than {peer}: {len(losses)} of {len(results)}", losses))
    noisy = [result for result in report.results if _spread(result) > _NOISY_SPREAD]
    if noisy:
        sections.append(f"noisy: {len(noisy)} cases whose quartiles differ by more than {_NOISY_SPREAD - 1:.0%}")
    if report.refused:
        sections.append(_listing(f"refused, not timed: {len(report.refused)}", report.refused))
    return "\n\n".join(sections)


def _spread(result: Result) -> float:
    return result.ratios[TORCH].q3 / result.ratios[TORCH].q1


def _loss(result: Result, peer: str) -> str:
    ratio = result.ratios[peer]
    tie = " (1 lies between the quartiles)" if ratio.q3 >= 1.0 else ""
    return f"{result.case.id} {result.mode} {ratio.median:.2f}{tie}"


def _machine(report: Report) -> str:
    about = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    commit = f"{(about['commit'] or 'no commit')[:10]}{' (modified)' if about['dirty'] else ''}"
    absent = f"; absent: {', '.join(report.absent)}" if report.absent else ""
    isa = about["isa"] or "no compiled extension"
    machine = f"{about['cpu']}, {about['threads']} threads, {isa}; {commit}, {about['date']}; {versions}{absent}"
    return "\n".join([machine, *_limits(report)])


def _limits(report: Report) -> list[str]:
    rates = [f"{name} {of['tile'] / 1e9:.0f} ({of['multiply_adds'] / 1e9:.0f})" for name, of in report.rates.items()]
    return [f"limit in GFLOP/s, of a tile fed from L1 (of multiply-adds alone): {', '.join(rates)}"] * bool(rates)


def format_groups(summary: list[Group], title: str, markdown: bool) -> str:
    """One line a family, the modes side by side."""
    found = {(group.family, group.mode): group for group in summary}
    modes = [mode for mode in MODES if any(m == mode for _, m in found)]
    lines = []
    for family in dict.fromkeys(family for family, _ in found):
        line = [family]
        for mode in modes:
            group = found.get((family, mode))
            line += [f"{group.geometric_mean:.2f}", f"{group.minimum:.2f}", str(group.count)] if group else ["", "", ""]
        lines.append(line)
    header = [title, *(f"{mode} {what}" for mode in modes for what in ("geo. mean", "min", "cases"))]
    return format_table(header, lines, 1, markdown)


def _listing(title: str, entries: list[str]) -> str:
    return "\n".join([title, *(f"- {entry}" for entry in entries)])
