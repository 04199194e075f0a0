"""The table of ``python -m benches.compatibility``: what it says of fastrnn."""

import pytest

from benches.compatibility import __main__
from benches.compatibility.rows import ROWS, Side


@pytest.mark.filterwarnings("ignore")  # of what the layers are given to
@pytest.mark.parametrize("name", ROWS)
def test_everything_takes_our_layer(name):
    verdict = __main__.verdict(ROWS[name], Side("LSTM", ours=True))
    if verdict.startswith("needs "):
        pytest.skip(verdict)
    assert verdict == "works"
