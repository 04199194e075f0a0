"""Triton's kernels on rows beyond the 2^31st, in its interpreter, which plays an H100.

The buffers are terabytes of addresses, of which the few pages around the first and the last steps exist. An offset
that overflowed would be at zeros, before the buffer or far from its rows: results would not be those of a batch with
the same steps and no others.
"""

import mmap
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from fastrnn.backends.triton import persistent, stepwise  # noqa: E402
from fastrnn.backends.triton.kernel import Kernel  # noqa: E402
from fastrnn.backends.triton.launch import interpreted, launch  # noqa: E402
from fastrnn.backends.triton.plans import DEVICES, make_plan  # noqa: E402
from fastrnn.kernels.barrier import LINE  # noqa: E402
from fastrnn.kernels.persistent import Launch  # noqa: E402
from fastrnn.kernels.tiles import Geometry  # noqa: E402
from fastrnn.spec import LayerSpec  # noqa: E402

pytestmark = pytest.mark.skipif(not interpreted, reason="needs TRITON_INTERPRET=1")

B, D, FEW = 16, 2, 3
MANY = 2**31 // B + FEW


class Buffer:
    """[steps, B, width], or such for each direction. Only steps at either end are ever touched."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        elements = torch.Size(shape).numel()
        size = -(-elements * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)  # named since 3.11
        memory = mmap.mmap(-1, 2 * size, flags=flags)  # the first half is where numbers that overflow would point
        self.values = torch.frombuffer(memory, dtype=dtype, offset=size, count=elements).view(shape)
        # What kernels are given: the interpreter copies a tensor's storage onto itself after each launch.
        self.pointer = torch.frombuffer(memory, dtype=dtype, offset=size, count=1)

    def ends(self, dim: int) -> tuple[Tensor, Tensor]:
        steps = self.values.shape[dim]
        return self.values.narrow(dim, 0, FEW), self.values.narrow(dim, steps - FEW, FEW)


@dataclass
class Run:
    """A layer of ``steps`` steps: buffers by the names that kernels give them, and the rest of their arguments."""

    steps: int
    buffers: dict[str, Buffer]
    others: dict[str, Any]

    def launch(self, kernel: Kernel, grid: tuple[int, int], first: int, last: int) -> None:
        pointers = {name: buffer.pointer for name, buffer in self.buffers.items()}
        offsets = pointers.pop("offsets")
        lengths = torch.full((B,), self.steps, dtype=torch.int32)
        geometry = Geometry(offsets, lengths, B, self.steps * B, self.steps, D)
        given = {**pointers, **self.others, "geometry": geometry}
        for step in range(first, last):  # programs of a group take turns, one step a launch
            part = {"launch": Launch(0, step, step + 1), "step": step}
            launch(kernel, grid, {**given, **part}, torch.device("cpu"))
            given["carried"] = given["final"]


def run_of(steps: int, spec: LayerSpec, hidden: int, backward: bool) -> Run:
    """The same values at both ends, whatever lies between."""
    torch.manual_seed(0)
    gates, kept, states = len(spec.facts.gates), len(spec.facts.kept), len(spec.facts.states)
    wide, saved = (steps, B, D * gates * hidden), (D, steps, B, (kept + states - 1) * hidden)
    narrow = (steps, B, D * hidden)
    shapes = {"y": narrow, "saved": saved}
    shapes |= {"dy": narrow, "dgx": wide, "dgh": wide} if backward else {"gx": wide}
    buffers = {name: Buffer(shape, torch.float32) for name, shape in shapes.items()}
    for name, buffer in buffers.items():
        begin, end = buffer.ends(1 if name == "saved" else 0)
        begin.copy_(torch.rand(begin.shape))
        end.copy_(begin)
    offsets = buffers["offsets"] = Buffer((steps + 1,), torch.int64)
    for t in (*range(FEW + 1), *range(steps - FEW, steps)):
        offsets.values[t] = t * B

    def of_states() -> tuple[Tensor, ...]:
        return tuple([torch.rand(D, B, hidden) for _ in range(states)])

    of_gates = (D, B, gates * hidden)
    others = {"initial": of_states(), "carried": of_states(), "final": of_states(), "dcell_states": None}
    others |= {"w_hh": torch.rand(D, gates * hidden, hidden) / hidden, "b_hh": torch.rand(D, gates * hidden)}
    others |= {"gh": torch.rand(of_gates), "dgh_step": torch.rand(of_gates), "base": torch.zeros(1, dtype=torch.int32)}
    others["counters"] = torch.zeros(D * LINE.value, dtype=torch.int32)
    return Run(steps, buffers, others)


def kernel_of(
    regime: str, spec: LayerSpec, hidden: int, ragged: bool, backward: bool
) -> tuple[Kernel, tuple[int, int]]:
    """And its grid, for all rows of both directions."""
    if regime == "stepwise":
        arguments = (spec, hidden, torch.float32, ragged)
        kernel = (stepwise.backward_kernel if backward else stepwise.forward_kernel)(*arguments, not backward)
        return kernel, (1, D)
    plan = make_plan(spec, B, hidden, torch.float32, True, DEVICES["sm_90"])
    tile = plan.backward if backward else plan.forward
    assert plan.regime == regime and tile is not None
    arguments = (spec, plan, hidden, torch.float32, ragged)
    kernel = (persistent.backward_kernel if backward else persistent.forward_kernel)(*arguments, not backward)
    return kernel, (D * tile.programs, 1)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
@pytest.mark.parametrize(
    "regime,cell,hidden", [("resident", "lstm", 16), ("cooperative", "gru", 68), ("stepwise", "gru", 16)]
)
def test_offsets_beyond_the_range_of_32_bits(regime, cell, hidden, ragged, backward):
    spec = LayerSpec(cell, D)
    kernel, grid = kernel_of(regime, spec, hidden, ragged, backward)
    # One direction goes up and the other down, so that steps at both ends reach the last rows. Persistent kernels take
    # one step more backward, to the initial state.
    extra = int(backward and regime != "stepwise")
    for at_the_end in (False, True):
        few, many = (run_of(steps, spec, hidden, backward) for steps in (FEW, MANY))
        for run in (few, many):
            begin = run.steps - 2 + extra if at_the_end else 0
            run.launch(kernel, grid, begin, begin + 2)
        for expected, got in zip(few.others["final"], many.others["final"], strict=True):
            assert torch.equal(got, expected)
        for name in ("dgx", "dgh") if backward else ("y", "saved"):
            whole, ends = few.buffers[name].values, many.buffers[name].ends(1 if name == "saved" else 0)
            for direction in range(D):
                far = (direction == 0) == (at_the_end != backward)
                expected, got = (of_direction(name, t, direction) for t in (whole, ends[far]))
                assert torch.equal(got, expected), (name, direction, at_the_end)


def of_direction(name: str, values: Tensor, direction: int) -> Tensor:
    return values[direction] if name == "saved" else values.chunk(D, -1)[direction]
