"""Time on a device, and two contenders timed in turn."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch

from fastrnn.bench.timing import Race

__all__ = ["Clock", "DeviceClock", "HostClock", "Race", "clock_for", "median_seconds", "race"]

Run = Callable[[], object]

# A round lasts so long that the host, which starts the work, runs ahead of the device as it does in a training loop.
_ROUND_SECONDS = 0.01
_MIN_ROUNDS, _MAX_ROUNDS = 5, 30


class Clock(Protocol):
    def seconds(self, run: Run, calls: int) -> float:
        """Of all calls together, the device idle before and after."""
        ...


class DeviceClock:
    def __init__(self) -> None:
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(self, run: Run, calls: int) -> float:
        torch.cuda.synchronize()
        self._start.record()
        for _ in range(calls):
            run()
        self._end.record()
        torch.cuda.synchronize()
        return self._start.elapsed_time(self._end) / 1e3


class HostClock:
    def seconds(self, run: Run, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start


def clock_for(device: str) -> Clock:
    return DeviceClock() if device == "cuda" else HostClock()


def median_seconds(clock: Clock, run: Run, rounds: int = 5, calls: int = 1) -> float:
    """Of one call, after one that is not counted."""
    run()
    return statistics.median(clock.seconds(run, calls) / calls for _ in range(rounds))


def race(clock: Clock, runs: dict[str, Run], budget: float) -> Race:
    """Rounds of ``budget`` seconds altogether, each contender once a round. Both are warmed up first."""
    once = {}
    for name, run in runs.items():
        clock.seconds(run, 1)
        once[name] = clock.seconds(run, 1)
    calls = {name: max(1, math.ceil(_ROUND_SECONDS / max(seconds, 1e-6))) for name, seconds in once.items()}
    round_seconds = sum(once[name] * calls[name] for name in runs)
    rounds = min(_MAX_ROUNDS, max(_MIN_ROUNDS, round(budget / round_seconds)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(clock.seconds(run, calls[name]) / calls[name])
    return Race(seconds, calls)
