"""Shows a saved run: ``python -m benches.report FILE [--markdown] [--summary] [--picture PNG]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benches.results import Report
from benches.table import format_report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.report", description="Show a saved benchmark run.")
    parser.add_argument("file", type=Path, help="JSON of a run, such as benches/out/latest.json")
    parser.add_argument("--markdown", action="store_true", help="tables in markdown")
    parser.add_argument("--summary", action="store_true", help="groups and losses without the single cases")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the picture into this file too")
    options = parser.parse_args()
    report = Report.load(options.file)
    print(format_report(report, options.markdown, options.summary))
    if options.picture:
        from benches.picture import draw

        draw(report, options.picture)


if __name__ == "__main__":
    main()
