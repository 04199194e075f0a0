"""Every case in both modes: verified first, then timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benches.cases import CASES, MODES, Case
from benches.limits import floor_seconds
from benches.results import Result
from fastrnn.bench.engines import ENGINES
from fastrnn.bench.providers import OURS, make_runs
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.bench.verify import check_fastrnn
from fastrnn.bench.workload import lengths_of, make_workload


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_speed(
    case: Case,
    mode: str,
    benchmark: BenchmarkFixture,
    budget: Budget,
    threads: int,
    record: Callable[[Result], None],
) -> None:
    training = mode == "training"
    work = make_workload(case)
    check_fastrnn(work, training)
    runs = make_runs(work, training, threads)
    if benchmark.disabled:
        benchmark.pedantic(runs[OURS])
        return
    with torch.set_grad_enabled(training):
        times = race(runs, budget, own_threads=ENGINES, benchmark=benchmark)
    result = Result(
        case,
        mode,
        rounds=len(times.seconds[OURS]),
        calls=times.calls,
        seconds={name: Quartiles.of(values) for name, values in times.seconds.items()},
        ratios={name: times.ratio(name, OURS) for name in runs if name != OURS},
        floor_seconds=floor_seconds(case, int(lengths_of(case).sum()), training, threads),
    )
    benchmark.extra_info.update(asdict(result))
    record(result)
