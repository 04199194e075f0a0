"""One case in one mode: verified, then timed against everyone who takes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastrnn.bench.case import Case
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.providers import OURS, make_runs
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.bench.verify import check_fastrnn
from fastrnn.bench.workload import make_workload

__all__ = ["Measured", "measure"]


@dataclass(frozen=True)
class Measured:
    """Seconds of a call by provider, and by peer the ratio of its time to fastrnn's: above 1, fastrnn is faster."""

    case: Case
    mode: str
    seconds: dict[str, Quartiles]
    ratios: dict[str, Quartiles]


def measure(case: Case, mode: str, threads: int, budget: Budget) -> Measured:
    """Verifies a case in a mode, then times it, fastrnn and its peers in turn.

    Args:
        mode: of MODES, ``"inference"`` or ``"training"``, which is forward and backward.
        threads: of the engines; for torch.nn and fastrnn they are those of ``torch.set_num_threads``.
        budget: how long to time.

    Raises:
        AssertionError: fastrnn or a peer computes something else than torch.nn; nothing is timed then.
    """
    training = mode == "training"
    work = make_workload(case)
    check_fastrnn(work, training)
    runs = make_runs(work, training, threads)
    with torch.set_grad_enabled(training):
        times = race(runs, budget, own_threads=ENGINES)
    seconds = {name: Quartiles.of(values) for name, values in times.seconds.items()}
    return Measured(case, mode, seconds, {name: times.ratio(name, OURS) for name in runs if name != OURS})
