"""Threads: more than cores, several callers, a number that changes, forks, busy neighbours, memory that runs out.

Where a failure would be a wait without end, the test runs in a process of its own, with a time-out.
"""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from comparison import LAYERS, assert_same, inputs, pair, results
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

TIME_OUT = 60  # seconds; a test takes three, most of them to import torch

# Steps, rows and inputs: the first splits units among threads, with a barrier for each step, the second rows.
SHAPES = [(30, 1, 40), (30, 32, 40)]
HIDDEN = 96


def module_of(kind: str) -> nn.Module:
    return pair(LAYERS, kind, 40, HIDDEN, dtype=torch.float64)[1]


def with_threads(threads: int, kind: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    return results(module_of(kind), inputs(*shape))


def all_with_threads(threads: int) -> list[dict[str, Tensor]]:
    return [with_threads(threads, kind, shape) for kind in LAYERS for shape in SHAPES]


def assert_identical(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


def more_threads_than_cores() -> None:
    alone = all_with_threads(1)
    first, second = all_with_threads(8), all_with_threads(8)
    for got, again, expected in zip(first, second, alone, strict=True):
        assert_same(got, expected)
        assert_identical(again, got)


def several_callers() -> None:
    """Four at once, of different layers, while the number of threads changes under them."""
    torch.set_num_threads(2)
    tasks = [(kind, shape) for kind in LAYERS for shape in SHAPES] * 3
    modules = {kind: module_of(kind) for kind in LAYERS}
    expected = [results(modules[kind], inputs(*shape)) for kind, shape in tasks]

    def run(kind: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
        return results(modules[kind], inputs(*shape))

    with ThreadPoolExecutor(4) as callers:
        found = [callers.submit(run, *task) for task in tasks]
        for threads in (1, 3, 2) * 20:
            torch.set_num_threads(threads)
        for got, right in zip(found, expected, strict=True):
            assert_same(got.result(), right)


def a_forked_child() -> None:
    """On one thread, as workers of a DataLoader are, and on as many as its parent, in torch's own operations too."""
    expected = with_threads(2, "lstm", SHAPES[1])
    for threads, compare in ((1, assert_same), (2, assert_identical)):
        child = os.fork()
        if child == 0:
            assert torch.get_num_threads() == 2
            torch.set_num_threads(threads)
            torch.ones(512, 512).matmul(torch.ones(512, 512)).add_(1)
            compare(with_threads(threads, "lstm", SHAPES[1]), expected)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert_identical(with_threads(2, "lstm", SHAPES[1]), expected)


class Outputs(Dataset):
    """What a layer makes of each of eight batches, on two threads in the worker."""

    def __init__(self) -> None:
        self.layer = module_of("lstm").requires_grad_(False)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(2)
        return self.layer(inputs(*SHAPES[1]) + index)[0]


def workers_of_a_loader() -> None:
    outputs = Outputs()
    expected = [outputs[i] for i in range(len(outputs))]
    loader = DataLoader(outputs, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for got, right in zip(loader, expected, strict=True):
        assert torch.equal(got, right)


def beside_busy_processes() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        with_threads(2, "lstm", SHAPES[0])
    finally:
        for process in busy:
            process.kill()
            process.wait()


def memory_that_runs_out() -> None:
    """The workspace is refused, not the output: the error arrives, nobody waits, and the next call is right."""
    torch.set_num_threads(2)
    large = pair(LAYERS, "lstm", 16, 2048)[1].requires_grad_(False)
    x = inputs(4, 32, 16, dtype=torch.float32)
    expected = with_threads(2, "lstm", SHAPES[1])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), before[1]))
    with pytest.raises(MemoryError):
        large(x)
    assert_identical(with_threads(2, "lstm", SHAPES[1]), expected)
    resource.setrlimit(resource.RLIMIT_AS, before)
    y, _ = large(x)
    torch.set_num_threads(1)
    assert torch.equal(y, large(x)[0])


SITUATIONS = [
    more_threads_than_cores,
    several_callers,
    a_forked_child,
    workers_of_a_loader,
    beside_busy_processes,
    memory_that_runs_out,
]


def in_its_own_group(situation: Callable[[], None]) -> None:
    os.setpgrp()  # so that children that hang end with it
    situation()


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda function: function.__name__)
def test_layers_are_right_and_nobody_waits_for_ever(situation: Callable[[], None]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=in_its_own_group, args=(situation,))
    process.start()
    process.join(TIME_OUT)
    hung = process.is_alive()
    if hung:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert not hung, f"still running after {TIME_OUT} seconds"
    assert process.exitcode == 0
