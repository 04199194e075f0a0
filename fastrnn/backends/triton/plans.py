"""How a layer runs on a GPU: a pure function of its sizes and of the device's, so it can be asked about any device.

The numbers in here come from compiling the kernels: registers, spills, shared memory.
``benches/results/gpu-kernels.csv`` has what kernels at random sizes take on every target.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from fastrnn.spec import LayerSpec

__all__ = ["DEVICES", "Device", "Plan", "Tile", "make_plan"]


@dataclass(frozen=True)
class Device:
    """What the plan needs to know of a GPU.

    Attributes:
        architecture: ``sm_90`` for compute capability 9.0, ``gfx942`` and the like for AMD.
        multiprocessors: how many programs run at once, at one each.
        shared_memory: bytes that one program may have, where it asks for more than the default.
    """

    name: str
    architecture: str
    multiprocessors: int
    shared_memory: int

    @property
    def amd(self) -> bool:
        return self.architecture.startswith("gfx")

    @property
    def warp(self) -> int:
        """Threads in lockstep: 64 on CDNA, 32 on RDNA and NVIDIA."""
        return 64 if self.amd and not self.rdna else 32

    @property
    def rdna(self) -> bool:
        """AMD's of version 10 and later, gfx1100, after CDNA's gfx942."""
        return self.amd and len(self.architecture) == len("gfx1100")

    @property
    def capability(self) -> int:
        """90 for sm_90."""
        return int(self.architecture.removeprefix("sm_").rstrip("a"))


# One for each architecture, to compile for where no such device is at hand. Shared memory from the table of compute
# capabilities in NVIDIA's CUDA C++ Programming Guide (that of a block, opted in) and from AMD's table of GPU
# specifications in the documentation of ROCm (LDS; of RDNA that of a workgroup). Multiprocessors from the vendors' data
# sheets; of MI250X those of one of its two dies, of RDNA pairs of compute units, which is what HIP counts.
DEVICES: dict[str, Device] = {
    device.architecture: device
    for device in (
        Device("T4", "sm_75", 40, 65_536),
        Device("A100", "sm_80", 108, 166_912),
        Device("RTX A6000", "sm_86", 84, 101_376),
        Device("Jetson AGX Orin", "sm_87", 16, 166_912),
        Device("RTX 4090", "sm_89", 128, 101_376),
        Device("H100", "sm_90", 132, 232_448),
        Device("B200", "sm_100", 148, 232_448),
        Device("B300", "sm_103", 148, 232_448),
        Device("Jetson Thor", "sm_110", 20, 232_448),
        Device("RTX 5090", "sm_120", 170, 101_376),
        Device("MI250X", "gfx90a", 110, 65_536),
        Device("MI300X", "gfx942", 304, 65_536),
        Device("MI355X", "gfx950", 256, 163_840),
        Device("RX 7900 XTX", "gfx1100", 48, 65_536),
        Device("RX 9070 XT", "gfx1201", 32, 65_536),
    )
}


@dataclass(frozen=True)
class Tile:
    """The share of one program in one step, and what it takes.

    Attributes:
        rows: of the batch.
        units: hidden units whose gates (backward, whose gradient) the program computes.
        block_k: length of the pieces in which the product's sum is taken.
        split: pieces taken at once, by different warps.
        programs: in a group, which covers all units of ``rows`` rows of one direction.
        at_once: groups resident at the same time.
        waves: launches, one after another, until all groups are done.
        shared: bytes of shared memory at most.
        held: registers of a thread in which weights stay, on AMD's GPUs.
    """

    rows: int
    units: int
    block_k: int
    split: int
    warps: int
    programs: int
    at_once: int
    waves: int
    shared: int
    held: int

    def __str__(self) -> str:
        groups = f"{self.programs} programs" if self.programs > 1 else "1 program"
        waves = f" in {self.waves} waves" if self.waves > 1 else ""
        return f"{self.rows} rows x {self.units} units on {self.warps} warps, {groups} a group{waves}"


@dataclass(frozen=True)
class Plan:
    """A regime, its tiles (none for stepwise), and why the regimes before it were not taken."""

    regime: str
    device: Device
    precision: str
    forward: Tile | None = None
    backward: Tile | None = None
    against: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.forward is None:
            how = "a product and a pointwise kernel for each step"
        else:
            how = f"forward {self.forward}; backward {self.backward}"
        against = "".join(f"; not {regime}: {reason}" for regime, reason in self.against)
        return f"{self.regime} on {self.device.name} ({self.device.architecture}): {how}{against}"


# Waves run one after another, a product for all rows at once. Where the two cross is an estimate, not yet measured.
_MOST_WAVES = 2
# That kernels take a product's columns apart into.
_MOST_GATES = 4
_AMD_TF32 = ("gfx942",)  # has instructions for it, which its successor lacks


class _Layer(NamedTuple):
    """What tiles depend on; ``item`` is the size of a value in bytes."""

    gates: int
    directions: int
    batch: int
    hidden: int
    item: int
    normalised: bool
    device: Device

    @property
    def planes(self) -> int:
        """Gates in the product of forward: a power of two."""
        return 1 << (self.gates - 1).bit_length()

    def groups(self, rows: int) -> int:
        return self.directions * -(-self.batch // rows)


@lru_cache(maxsize=1024)  # asked in every forward and backward: 38 us of host time each
def make_plan(spec: LayerSpec, batch: int, hidden: int, dtype: torch.dtype, tf32: bool, device: Device) -> Plan:
    """The plan for one layer: the first of resident, cooperative and stepwise that can take it.

    Args:
        tf32: whether float32 products of recurrent layers may be rounded to tf32.
    """
    precision = "tf32" if tf32 and dtype == torch.float32 else "ieee"
    layer = _Layer(len(spec.facts.gates), spec.directions, batch, hidden, dtype.itemsize, spec.layer_norm, device)
    against = []
    reason = _reason_against_persistent(spec, dtype, tf32, device)
    for regime, tiles in (("resident", _resident), ("cooperative", _cooperative)):
        if reason:
            against.append((regime, reason))
            continue
        forward, backward = tiles(layer, "forward"), tiles(layer, "backward")
        if isinstance(forward, Tile) and isinstance(backward, Tile):
            return Plan(regime, device, precision, forward, backward, tuple(against))
        against.append((regime, forward if isinstance(forward, str) else str(backward)))
    return Plan("stepwise", device, precision, against=tuple(against))


def _reason_against_persistent(spec: LayerSpec, dtype: torch.dtype, tf32: bool, device: Device) -> str | None:
    if len(spec.facts.gates) > _MOST_GATES:
        return f"one product takes at most {_MOST_GATES} gates, {spec.cell} has {len(spec.facts.gates)}"
    if spec.projected:
        return "a projection is a second product in each step"
    if dtype == torch.float64:
        return "float64 products do not fit"
    if dtype == torch.float32 and not tf32:
        return "exact float32 products use no tensor cores (torch.backends.cudnn.rnn.fp32_precision is not 'tf32')"
    if dtype == torch.float32 and device.amd and device.architecture not in _AMD_TF32:
        return f"Triton has tf32 products on {', '.join(_AMD_TF32)} alone of AMD's, not on {device.architecture}"
    if not device.amd and device.capability < 80:
        return f"it needs sm_80 or newer, not {device.architecture}"
    return None


def _resident(layer: _Layer, kind: str) -> Tile | str:
    hidden, item, device = layer.hidden, layer.item, layer.device
    units = max(16, 1 << (hidden - 1).bit_length())
    columns = units * layer.planes
    if units > 128:
        return f"one program holds at most 128 hidden units, not {hidden}"
    if hidden % 4 and columns > 256:
        return (
            f"{hidden} units are no multiple of 4: {layer.gates} gates of them, loaded one by one, fill all registers"
        )
    rows = 16
    weights = columns * units * item
    operand = rows * (columns * 4 if device.amd else max(columns * item, units * 4))
    # AMD: warps beyond those that have 16 columns of the product each would repeat one another.
    product = units if device.amd and kind == "backward" else columns
    warps = 8 if product >= 256 or (units == 128 and hidden % 4) else 4
    if device.amd and weights > 32_768:
        return f"its weights take {weights:,} bytes, more than a program keeps in registers without spills"
    held = _held(layer, weights // (product * item), product, 1, warps)
    reason = _reason_of_registers(layer, kind, held, warps)
    if reason:
        return reason
    shared = max(weights, operand) if device.amd else weights + operand
    if shared > device.shared_memory:
        return f"its weights take {shared:,} bytes of shared memory, {device.name} has {device.shared_memory:,}"
    return Tile(rows, units, units, 1, warps, 1, layer.groups(rows), 1, shared, held)


def _held(layer: _Layer, length: int, columns: int, split: int, warps: int) -> int:
    """Registers of a thread in which the operand [length, columns] of a product stays, on AMD's GPUs.

    A warp has 16 columns at a time, and all of its part of the sum.
    """
    device = layer.device
    if not device.amd:
        return 0
    pieces = -(-columns // 16)
    tiles = -(-pieces * split // warps)
    return length // split * tiles * 16 * layer.item // (device.warp * 4)


def _reason_of_registers(layer: _Layer, kind: str, held: int, warps: int) -> str | None:
    """Why a program of an AMD GPU cannot keep its weights in registers for all steps, None if it can.

    Fitted to 400 kernels of random sizes: forward a thread takes up to 110 registers beside its weights, backward the
    compiler keeps parts of 16-bit weights twice. RDNA 3 has every operand in both halves of a warp. A normalised layer
    takes up to 20 more for each gate.
    """
    device = layer.device
    if not device.amd:
        return None
    if device.architecture.startswith("gfx11"):
        share = 5.0
    else:
        share = 1.75 if device.rdna or (kind == "backward" and layer.item == 2) else 1.0
    needed = round(share * held) + (160 if layer.hidden % 4 else 110) + 20 * layer.gates * layer.normalised
    # CDNA has 512 for each thread of up to four warps, one on each SIMD; RDNA numbers no more than 256.
    available = 256 if device.rdna or warps > 4 else 512
    if needed <= available:
        return None
    return f"its {kind} takes about {needed} registers a thread, {device.name} has {available}"


def _cooperative(layer: _Layer, kind: str) -> Tile | str:
    hidden, device = layer.hidden, layer.device
    if layer.normalised:
        return "a norm is over all units, so programs would wait for one another more than once in each step"
    if hidden % 4 and hidden > 512:
        return (
            f"{hidden} units are no multiple of 4: values of rows so long, loaded one by one, do not fit in registers"
        )
    reason = None
    fitting = []
    for tile in _cooperative_tiles(layer, kind):
        if tile.shared > device.shared_memory:
            reason = reason or (
                f"its {kind} takes {tile.shared:,} bytes of shared memory at {tile.units} units a program, "
                f"{device.name} has {device.shared_memory:,}"
            )
        elif full := _reason_of_registers(layer, kind, tile.held, tile.warps):
            reason = reason or full
        elif tile.programs > device.multiprocessors:
            reason = reason or (
                f"a group of {tile.programs} programs could not be resident at once on "
                f"{device.multiprocessors} multiprocessors"
            )
        else:
            fitting.append(tile)
    if not fitting:
        return reason or "no tile fits"
    best = min(fitting, key=lambda tile: tile.waves)  # of equals the first, with the fewest rows and most units
    if best.waves > _MOST_WAVES:
        rows = f"{layer.batch} rows in {layer.directions} directions"
        return f"{rows} would take {best.waves} waves, more than {_MOST_WAVES}"
    return best


def _cooperative_tiles(layer: _Layer, kind: str) -> Iterator[Tile]:
    gates, planes, hidden, item, device = layer.gates, layer.planes, layer.hidden, layer.item, layer.device
    for units in (64 // planes, 8) if kind == "forward" else (16, 8):
        for rows in (16,) if device.amd else (16, 32):
            # Longer pieces spill. Where rows do not begin at multiples of 8 bytes, values are loaded one by one.
            if kind == "forward":
                columns, sum_length, split, warps = units * planes, hidden, 1, 4
                longest = (256 if rows == 32 else 1024 if planes > 1 and (units, item) != (8, 4) else 512) // item
                if hidden % 4:
                    warps, longest = 4 if device.amd else 8, (128 if rows == 32 else 256) // item
                    if rows == 32 and item == 4:
                        continue
            else:
                columns, sum_length, warps = units, gates * hidden, 4 if device.amd or (units, item) == (8, 4) else 8
                split, longest = (warps, 256 // item) if rows == 16 or sum_length * item <= 4096 else (4, 128 // item)
                if hidden % 4:
                    longest = 128 // item
                    if rows == 32:
                        continue
            if device.amd:
                longest = min(longest, 512 // item)
            block_k = _block(sum_length, split, longest)
            chunk = split * block_k
            padded = -(-sum_length // chunk) * chunk
            weights, operand = padded * columns * item, rows * max(chunk * item, split * columns * 4)
            # NVIDIA: the weights stay in shared memory. AMD: in registers, having passed through it in pieces.
            shared = max(chunk * columns * item, operand) if device.amd else weights + operand
            programs = -(-hidden // units)
            groups = layer.groups(rows)
            at_once = max(1, device.multiprocessors // programs)
            held = _held(layer, padded, columns, split, warps)
            at_once, waves = min(at_once, groups), -(-groups // at_once)
            yield Tile(rows, units, block_k, split, warps, programs, at_once, waves, shared, held)


def _block(length: int, split: int, longest: int) -> int:
    """The power of two for pieces of a sum: little padding and few pieces, each of which takes two barriers of the
    block."""
    blocks = [2**i for i in range(4, longest.bit_length())]

    def cost(block: int) -> int:
        pieces = -(-length // (split * block))
        return pieces * (split * block + 32)

    return min(reversed(blocks), key=cost)
