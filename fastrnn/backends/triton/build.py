"""From a kernel's description to a binary, and what that takes of a GPU."""

import re
import subprocess
from functools import cache
from typing import Any, NamedTuple

import triton
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
from triton.compiler import CompiledKernel

from fastrnn.backends.triton.kernel import Kernel, target
from fastrnn.backends.triton.plans import Device

__all__ = ["Built", "Usage", "build", "reason_against", "usage"]

# ptxas gives a kernel no more registers than let another block run beside it, and then spills a few, though shared
# memory leaves room for one block only. Of 340 kernels for sm_80, 17 spill 8 to 24 bytes by its defaults and none in
# all of these.
_NVIDIA_ATTEMPTS: tuple[dict[str, Any], ...] = (
    {},
    {"ptx_options": "--register-usage-level=3"},
    {"maxnreg": 255},
    {"maxnreg": 208},
)


class Usage(NamedTuple):
    """
    Attributes:
        registers: of a thread.
        spilled: bytes of a thread's registers that lie in memory.
        shared: bytes of shared memory.
    """

    registers: int
    spilled: int
    shared: int


class Built(NamedTuple):
    """
    Attributes:
        kernel: what was compiled: the one asked for, but for the length of its pieces.
    """

    compiled: CompiledKernel
    kernel: Kernel
    usage: Usage


@cache
def reason_against(device: Device) -> str | None:
    """Why this Triton has no code for a device, None if it has: the assembler that came with it may be older."""
    if device.amd:  # of all in the table of devices any Triton that is accepted knows them
        return None
    name = sm_arch_from_capability(device.capability)
    tool = get_ptxas(device.capability)
    known = subprocess.run([tool.path, "--help"], check=True, capture_output=True, text=True).stdout
    if f"'{name}'" in known:
        return None
    return (
        f"Triton {triton.__version__}, with the assembler of CUDA {tool.version}, does not know {device.architecture}"
    )


def build(kernel: Kernel, device: Device) -> Built:
    """Compiles ``kernel``; what is in Triton's cache is reused.

    Where it would spill, by other options of the assembler, then with its sums in shorter pieces: those of a piece's
    operands are in registers at once. Neither the launch nor the shared memory that was planned depends on them. The
    first that does not spill is taken, so the same compiler gives the same kernel. No estimate foretells the few bytes
    in question: of kernels at random sizes for NVIDIA, one in 80 spills 8 to 60 in whole pieces, often at half of the
    registers that it may have.
    """
    tried = []
    for candidate in kernel.in_shorter_pieces():
        for options in ({},) if device.amd else _NVIDIA_ATTEMPTS:
            source, chosen = candidate.source(), {**candidate.options, **options}
            compiled = triton.compile(source, target=target(device), options=chosen)
            tried.append(Built(compiled, candidate, usage(compiled, device)))
            if tried[-1].usage.spilled == 0:
                return tried[-1]
    return min(tried, key=lambda built: built.usage.spilled)


def usage(compiled: CompiledKernel, device: Device) -> Usage:
    """What the binary says of itself. These kernels index no arrays of their own, so that what a thread has in memory
    are spilled registers alone; AMD's scalar ones are spilled to lanes of a vector register, which is none."""
    shared = compiled.metadata.shared
    if device.amd:
        assembly = compiled.asm["amdgcn"]
        spilled = _number(r"\.private_segment_fixed_size:\s*(\d+)", assembly)
        return Usage(_number(r"\.vgpr_count:\s*(\d+)", assembly), spilled, shared)
    cubin = next(path for name, path in compiled.metadata_group.items() if name.endswith(".cubin"))
    tool = triton.knobs.nvidia.cuobjdump.path
    report = subprocess.run([tool, "-res-usage", cubin], check=True, capture_output=True, text=True).stdout
    return Usage(_number(r"\bREG:(\d+)", report), _number(r"\bSTACK:(\d+)", report), shared)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"no {pattern} in what the compiler says of its result")
    return int(found[1])
