"""What this machine gains: kinds of layers, each verified first, as ratios to ``torch.nn``."""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch

import fastrnn
from fastrnn.bench import MODES, Budget, Case, draw_ratios, measure, race

from .files import Refused

PEER = "torch.nn"
CASES = {
    "LSTM": Case("gains", "lstm", 32, 50, 128, 128),
    "GRU": Case("gains", "gru", 32, 50, 128, 128),
    "RNN": Case("gains", "rnn_tanh", 32, 50, 128, 128),
    "ragged LSTM": Case("gains", "lstm", 32, 50, 128, 128, bidirectional=True, ragged=True),
}
STEP = Case("gains", "lstm", 1, 1, 128, 128)
FROZEN, WEIGHTS = (1, 100, 256), "int8"  # rows, steps, units
# About three times the largest error of such layers.
ALLOWED_WHEN_FROZEN = 1.5e-2
BUDGET = Budget(seconds=0.1, min_rounds=5, max_rounds=20)


def gains(threads: int) -> Iterator[tuple[str, float]]:
    """What was timed, and how many times as fast as torch.nn it is.

    Raises:
        Refused: a result differs from torch.nn's; it is not timed then.
    """
    try:
        for name, case in CASES.items():
            for mode in MODES:
                yield f"{name}, {mode}", measure(case, mode, threads, BUDGET).ratios["torch"].median
        yield "LSTM, one step", measure(STEP, "inference", threads, BUDGET).ratios["torch"].median
    except AssertionError as error:
        raise Refused(f"a layer differs from torch.nn's: {error}") from error
    yield f"LSTM frozen to {WEIGHTS}, one row", _frozen()


@torch.inference_mode()
def _frozen() -> float:
    rows, steps, units = FROZEN
    torch.manual_seed(0)
    layer, x = torch.nn.LSTM(units, units), torch.randn(steps, rows, units)
    frozen = fastrnn.freeze(copy.deepcopy(layer), WEIGHTS)
    error = float((frozen(x)[0] - layer(x)[0]).abs().max())
    if not error <= ALLOWED_WHEN_FROZEN:
        raise Refused(f"a frozen layer differs from torch.nn's by {error:.1e}, more than {ALLOWED_WHEN_FROZEN}")
    return race({PEER: lambda: layer(x), "fastrnn": lambda: frozen(x)}, BUDGET).ratio(PEER, "fastrnn").median


def show_gains(path: Path) -> None:
    """Prints and draws them."""
    threads = torch.get_num_threads()
    print(f"How many times as fast as {PEER} other layers are here, on {threads} threads, each verified first.")
    print("What else runs on this machine now raises the ratios.")
    found = {}
    for name, ratio in gains(threads):
        print(f"  {name:32} {ratio:6.2f}", flush=True)
        found[name] = {PEER: ratio}
    draw_ratios(found, f"How much faster fastrnn is on this machine, {threads} threads", path)
    print(f"Picture of it: {path}")
