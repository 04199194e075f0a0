"""Saved runs as tables in markdown, and a picture beside each: ``python -m benches.gpu.report [FILES] [--cases]``."""

import argparse
from pathlib import Path

from benches.gpu.record import Record
from benches.gpu.table import format_barriers, format_cases, format_facts, format_means

__all__ = ["format_record"]

_RESULTS = Path(__file__).resolve().parents[1] / "results"


def format_record(record: Record, cases: bool) -> str:
    """Facts, means, if wanted every case, and what was wrong or left out."""
    sections = [format_facts(record)]
    if record.checks:
        wrong = sum(bool(check.problems) for check in record.checks)
        sections.append(f"{len(record.checks)} results checked against the oracle, {wrong} of them wrong")
    if record.barriers:
        sections.append(format_barriers(record))
    if record.speed:
        sections.append(format_means(record.speed, markdown=True))
        if cases:
            sections.append(format_cases(record.speed, markdown=True))
    for title, entries in (("wrong", record.failed), ("left out", record.left_out)):
        if entries:
            sections.append("\n".join([f"{title}:", *(f"- {entry}" for entry in entries)]))
    return "\n\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.gpu.report", description="Show saved runs on GPUs.")
    parser.add_argument("files", nargs="*", type=Path, help="default: benches/results/gpu-*.json")
    parser.add_argument("--cases", action="store_true", help="a table of every case too")
    options = parser.parse_args()
    files = options.files or sorted(_RESULTS.glob("gpu-*.json"))
    if not files:
        print("not measured yet")
    for file in files:
        record = Record.load(file)
        print(format_record(record, options.cases))
        if any(result.case.name == "dense" for result in record.speed):
            print(f"\n{_draw(record, file.with_suffix('.png'))}")


def _draw(record: Record, path: Path) -> str:
    try:
        from benches.gpu.picture import draw
    except ImportError:
        return "no picture: matplotlib is absent"
    draw(record, path)
    return f"written: {path}"


if __name__ == "__main__":
    main()
