"""The README's picture, drawn from a committed run: ``python docs/readme_picture.py`` writes ``docs/result.svg`` anew.

The README is read where no page is built, so this one picture is committed; ``tests/test_docs.py`` draws it again.
"""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

from extensions.measured import load, summary  # noqa: E402

from fastrnn.bench.providers import TORCH  # noqa: E402

RUN = "xeon-amx-2-threads"
PICTURE = _HERE / "result.svg"


def draw() -> str:
    return summary(load(RUN), TORCH).alone((_HERE / "static" / "svg.css").read_text())


if __name__ == "__main__":
    PICTURE.write_text(draw())
