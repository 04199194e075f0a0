"""How a layer runs on a GPU: a pure function of its sizes and of the device's, so it can be asked about any device.

The numbers in here come from compiling the kernels for sm_80, sm_90 and gfx942: registers, spills, shared memory.
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
    def capability(self) -> int:
        """90 for sm_90."""
        return int(self.architecture.removeprefix("sm_").rstrip("a"))


# One for each architecture, to compile for where no such device is at hand. Sizes from the vendors' documents.
DEVICES: dict[str, Device] = {
    device.architecture: device
    for device in (
        Device("A100", "sm_80", 108, 166_912),
        Device("RTX A6000", "sm_86", 84, 101_376),
        Device("RTX 4090", "sm_89", 128, 101_376),
        Device("H100", "sm_90", 132, 232_448),
        Device("B200", "sm_100", 148, 232_448),
        Device("MI300X", "gfx942", 304, 65_536),
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


class _Layer(NamedTuple):
    """What tiles depend on; ``item`` is the size of a value in bytes."""

    gates: int
    directions: int
    batch: int
    hidden: int
    item: int
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
    layer = _Layer(len(spec.facts.gates), spec.directions, batch, hidden, dtype.itemsize, device)
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
    if not device.amd and device.capability < 80:
        return f"it needs sm_80 or newer, not {device.architecture}"
    return None


def _resident(layer: _Layer, kind: str) -> Tile | str:
    hidden, item, device = layer.hidden, layer.item, layer.device
    units = max(16, 1 << (hidden - 1).bit_length())
    columns = units * layer.planes
    if units > 128:
        return f"one program holds at most 128 hidden units, not {hidden}"
    rows = 16
    weights = columns * units * item
    if device.amd and weights > 32_768:
        return f"its weights take {weights:,} bytes, more than a program keeps in registers without spills"
    shared = weights if device.amd else weights + rows * max(columns * item, units * 4)
    if shared > device.shared_memory:
        return f"its weights take {shared:,} bytes of shared memory, {device.name} has {device.shared_memory:,}"
    return Tile(rows, units, units, 1, 8 if columns >= 256 else 4, 1, layer.groups(rows), 1, shared)


def _cooperative(layer: _Layer, kind: str) -> Tile | str:
    hidden, device = layer.hidden, layer.device
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
                    warps, longest = 8, (128 if rows == 32 else 256) // item
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
            yield Tile(
                rows, units, block_k, split, warps, programs, min(at_once, groups), -(-groups // at_once), shared
            )


def _block(length: int, split: int, longest: int) -> int:
    """The power of two for pieces of a sum: little padding and few pieces, each of which takes two barriers of the
    block."""
    blocks = [2**i for i in range(4, longest.bit_length())]

    def cost(block: int) -> int:
        pieces = -(-length // (split * block))
        return pieces * (split * block + 32)

    return min(reversed(blocks), key=cost)
