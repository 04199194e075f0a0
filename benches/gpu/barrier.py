"""The time of the barrier that the cooperative regime waits at once a step."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from benches.gpu.clock import Clock, median_seconds
from fastrnn.kernels.barrier import arrive, wait

__all__ = ["SIZES", "Barrier", "interpolated", "measure", "turns"]

SIZES = (2, 8, 16, 44, 66, 132)
_TURNS = 1000
_SPACING = 32  # int32 elements between counters: a cache line


@triton.jit(do_not_specialize=["count", "programs"])
def turns(counters, count, programs, SPACING: tl.constexpr):
    counter = counters + tl.program_id(0) // programs * SPACING
    for turn in range(count):
        arrive(counter)
        wait(counter, (turn + 1) * programs)


@dataclass(frozen=True)
class Barrier:
    """``groups`` of ``programs`` each, every group with a counter of its own."""

    programs: int
    groups: int
    seconds: float


def measure(clock: Clock, programs: int, groups: int, device: str = "cuda", count: int = _TURNS) -> Barrier:
    def run() -> None:
        counters = torch.zeros(groups * _SPACING, dtype=torch.int32, device=device)
        grid = (programs * groups,)
        turns[grid](counters, count, programs, _SPACING, num_warps=4, launch_cooperative_grid=True)
        last.append(counters)

    last: list[torch.Tensor] = []
    seconds = median_seconds(clock, run)
    found = last[-1][::_SPACING].tolist()
    assert found == [count * programs] * groups, f"counters: expected {count * programs}, got {found}"
    return Barrier(programs, groups, seconds / count)


def interpolated(barriers: list[Barrier], programs: int) -> float:
    """Seconds of a barrier of one group of ``programs``; between two measured sizes on the line that joins them."""
    if programs < 2 or not barriers:
        return 0.0
    alone = sorted((b.programs, b.seconds) for b in barriers if b.groups == 1)
    for (few, fast), (many, slow) in zip(alone, alone[1:], strict=False):
        if few <= programs <= many:
            return fast + (slow - fast) * (programs - few) / (many - few)
    return alone[0][1] if programs < alone[0][0] else alone[-1][1]
