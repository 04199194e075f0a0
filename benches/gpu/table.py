"""A run as text: a line a case with both modes side by side, and means."""

from benches.cases import MODES, Case
from benches.gpu.cases import label, precision_of
from benches.gpu.record import Record
from benches.gpu.speed import Measured
from benches.results import groups
from benches.table import format_groups
from fastrnn.bench.text import format_table

__all__ = ["format_barriers", "format_cases", "format_facts", "format_means"]

_COLUMNS = ("torch", "ours", "ratio", "us", "%")
_LEGEND = (
    "ms of torch.nn and of fastrnn, their ratio, us of a step, share of the floor; forward, then forward and backward"
)
_REGIMES = {"resident": "res", "cooperative": "coop", "stepwise": "step"}


def format_facts(record: Record) -> str:
    facts = record.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    commit = f"{(facts['commit'] or 'no commit')[:10]}{' (modified)' if facts['dirty'] else ''}"
    text = f"{facts['device']}, {facts['multiprocessors']} multiprocessors; {commit}, {facts['date']}; {versions}"
    if rates := facts.get("rates"):
        peaks = ", ".join(f"{name} {rate / 1e12:.0f}" for name, rate in rates["operations"].items())
        text += f"\nmeasured: products of 8192 x 8192 in Tflop/s: {peaks}; copy {rates['copy'] / 1e12:.2f} TB/s"
    return text


def format_barriers(record: Record) -> str:
    each = [f"{b.groups} x {b.programs}: {b.seconds * 1e6:.2f}" for b in record.barriers]
    return f"a barrier in us, groups x programs: {', '.join(each)}"


def format_cases(results: list[Measured], markdown: bool = False, longest: int | None = None) -> str:
    """A line a case, the legend first; of a table longer than ``longest`` characters only the first lines."""
    lines = []
    for case in dict.fromkeys(result.case for result in results):
        of_case = {result.mode: result for result in results if result.case == case}
        regime = next(iter(of_case.values())).regime
        cells = [cell for mode in MODES for cell in _cells(of_case.get(mode))]
        lines.append([label(case), _REGIMES[regime], *cells])
    header = ["case", "plan", *_COLUMNS * len(MODES)]
    text = _LEGEND + "\n" * (1 + markdown) + format_table(header, lines, 2, markdown)
    if longest is None or len(text) <= longest:
        return text
    shown = text[:longest].splitlines()[:-1]
    return "\n".join([*shown, f"... {len(text.splitlines()) - len(shown)} more lines in the file"])


def _cells(result: Measured | None) -> list[str]:
    if result is None:
        return [""] * 5
    ours, peer = result.seconds["fastrnn"].median, result.seconds["torch"].median
    share = result.share_of_limit
    return [
        _milliseconds(peer),
        _milliseconds(ours),
        f"{result.ratios['torch'].median:.2f}",
        f"{ours / result.case.steps * 1e6:.1f}",
        f"{share * 100:.0f}" if share is not None else "",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def format_means(results: list[Measured], markdown: bool = False) -> str:
    """Geometric mean and minimum of torch.nn's time over fastrnn's, by precision, and by cell and kind of layer."""
    title = "torch.nn / fastrnn"
    by_precision = groups(results, family_of=lambda result: precision_of(result.case))
    by_kind = [group for group in groups(results, family_of=lambda result: _kind(result.case)) if group.family != "all"]
    return format_groups([*by_kind, *by_precision], title, markdown)


def _kind(case: Case) -> str:
    return f"{case.cell.upper()} {case.name}"
