"""Providers are timed in turn, round by round, so that a busy neighbour slows all of them alike.

pytest-benchmark, where it is used, times fastrnn; the peers take their turn in the setup of each of its rounds. The
ratio is formed within each round before its median is taken.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

__all__ = ["Budget", "Quartiles", "Race", "race"]

_WARM_SECONDS, _LONG_SECONDS = 1e-3, 0.1
_SETTLE_SECONDS = 12e-3


@dataclass(frozen=True)
class Budget:
    """How long to measure: seconds for the slowest provider, within bounds on the rounds, and the least for a round."""

    seconds: float = 0.5
    min_rounds: int = 5
    max_rounds: int = 40
    round_seconds: float = 200e-6


@dataclass(frozen=True)
class Quartiles:
    """Of seconds, or of ratios."""

    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: list[float]) -> Quartiles:
        """Of one value they are that one."""
        return cls(*statistics.quantiles(values * 2 if len(values) == 1 else values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Race:
    """Seconds per call of each provider, one value a round, and the calls that each round held."""

    seconds: dict[str, list[float]]
    calls: dict[str, int]

    def ratio(self, peer: str, ours: str) -> Quartiles:
        return Quartiles.of([a / b for a, b in zip(self.seconds[peer], self.seconds[ours], strict=True)])


def _repeat(run: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        run()


def _timed(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    _repeat(run, calls)
    return time.perf_counter() - start


def _estimate(run: Callable[[], object]) -> float:
    fastest = _timed(run, 1)
    return fastest if fastest > _LONG_SECONDS else min(_timed(run, 1) for _ in range(3))


def race(
    runs: dict[str, Callable[[], object]],
    budget: Budget,
    own_threads: Collection[str] = (),
    benchmark: BenchmarkFixture | None = None,
) -> Race:
    """Times all ``runs``; the last is the one that ``benchmark`` times and reports where it is given.

    ``own_threads`` names the providers that each have a thread pool of their own: idle workers of any pool spin for
    some milliseconds and would slow the next provider down.
    """
    once = {name: _estimate(run) for name, run in runs.items()}
    calls = {name: max(1, math.ceil(budget.round_seconds / seconds)) for name, seconds in once.items()}
    slowest = max(once[name] * calls[name] for name in runs)
    rounds = min(budget.max_rounds, max(budget.min_rounds, round(budget.seconds / slowest)))
    *peers, ours = runs
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    def warm(name: str, before: str) -> None:
        if name != before and (name in own_threads or before in own_threads):
            time.sleep(_SETTLE_SECONDS)
        # The provider before has replaced this one's data in the cache, and a core wakes up slowly. Also a training of
        # 20 ms takes 5 to 10 % longer after one of torch.nn than after itself.
        if once[name] < _LONG_SECONDS:
            _repeat(runs[name], math.ceil(_WARM_SECONDS / once[name]))

    def peers_turn() -> None:
        turns = [ours, *peers]
        for before, name in pairwise(turns):
            warm(name, before)
            seconds[name].append(_timed(runs[name], calls[name]) / calls[name])
        warm(ours, turns[-1])

    if benchmark is not None:
        benchmark.pedantic(_repeat, args=(runs[ours], calls[ours]), setup=peers_turn, rounds=rounds)
        timed: Any = benchmark.stats  # None until then
        seconds[ours] = [total / calls[ours] for total in timed.stats.data]
        return Race(seconds, calls)
    for _ in range(rounds):
        peers_turn()
        seconds[ours].append(_timed(runs[ours], calls[ours]) / calls[ours])
    return Race(seconds, calls)
