"""What takes which layer: ``python -m benches.compatibility [WORDS ...]``, the rows whose name has one of the words.

Every row gives a model on ``torch.nn``'s layer and one on fastrnn's, of the same weights, to something that takes
modules, and compares what that makes of them with what ``torch.nn`` computes. A cell says ``works``, or the first line
of the error.
"""

from __future__ import annotations

import argparse
import logging
import textwrap
import warnings

from benches.compatibility import code, programs, transforms  # noqa: F401  they register their rows
from benches.compatibility.rows import ROWS, Row, Side
from fastrnn.bench.text import format_table

WIDTH = 60  # of an error


def verdict(run: Row, side: Side) -> str:
    try:
        run(side)
    except ModuleNotFoundError as error:
        return f"needs {error.name}"
    except Exception as error:
        lines = str(error).strip().splitlines()
        return textwrap.shorten(f"{type(error).__name__}: {lines[0] if lines else ''}", WIDTH, placeholder=" ...")
    return "works"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.compatibility", description="What takes which layer.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="of rows' names; by default all rows")
    parser.add_argument("--layer", choices=["LSTM", "GRU", "RNN"], default="LSTM")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    sides = {f"{name}.{options.layer}": Side(options.layer, name == "fastrnn") for name in ("torch.nn", "fastrnn")}
    chosen = {name: run for name, run in ROWS.items() if any(w in name for w in options.words) or not options.words}
    lines = [[name, *(verdict(run, side) for side in sides.values())] for name, run in chosen.items()]
    print(format_table(["given to", *sides], lines, 3, options.markdown))


if __name__ == "__main__":
    main()
