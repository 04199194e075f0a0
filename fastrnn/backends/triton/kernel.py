"""One specialised kernel: which, for which types and constants. The same description compiles ahead of time and at
run time."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastrnn import kernels
from fastrnn.backends.triton.alignment import ALIGNMENT
from fastrnn.backends.triton.plans import Device
from fastrnn.kernels import cells, persistent, pointwise
from fastrnn.kernels.layer_norm import Norm, NormGradients
from fastrnn.kernels.noise import Draws, Mask, Shares
from fastrnn.kernels.persistent import Launch
from fastrnn.kernels.tiles import Geometry

__all__ = ["Kernel", "sources_fingerprint", "target"]

_FUNCTIONS = {
    "persistent_forward": persistent.forward,
    "persistent_backward": persistent.backward,
    "pointwise_forward": pointwise.forward,
    "pointwise_backward": pointwise.backward,
}
_NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_STATES = ("initial", "carried", "final")
_OTHERS: dict[str, Any] = {
    "counters": "*i32",
    "geometry": Geometry(offsets="*i64", lengths="*i32", batch="i64", rows="i64", steps="i32", directions="i32"),
    "launch": Launch(first_group="i32", first_step="i32", last_step="i32"),
    "draws": Draws(seed="*i64", rows="*i64", h="i32", c="i32"),
    "shares": Shares(h="fp64", c="fp64"),
    "base": "*i32",
    "step": "i32",
}
_SHORTEST_PIECE = 16  # that tl.dot takes


@dataclass(frozen=True)
class Kernel:
    """
    Attributes:
        name: key of the table of kernels.
        dtype: of every floating tensor, but for the states of the stepwise regime.
        states: how many the cell has.
        constants: values of the kernel's constexpr parameters; of ``CELL``, a function, the name of the cell. A pointer
            that is None is one of them, and no parameter of what is compiled.
        cooperative: all programs of a launch must be resident at once.
    """

    name: str
    dtype: torch.dtype
    states: int
    constants: tuple[tuple[str, Any], ...]
    warps: int
    cooperative: bool = False

    @property
    def function(self) -> Any:
        return _FUNCTIONS[self.name]

    @property
    def options(self) -> dict[str, Any]:
        return {
            "num_warps": self.warps,
            "num_stages": 1,  # a pipelined load could move across the barrier
            "launch_cooperative_grid": self.cooperative,
            "enable_fp_fusion": True,
        }

    def __str__(self) -> str:
        constants = " ".join(f"{name.lower()}={value}" for name, value in self.constants)
        return f"{self.name} {_NAMES[self.dtype]} warps={self.warps} {constants}"

    def key(self) -> str:
        """A name for files, the same in every Python and Triton."""
        return hashlib.sha256(f"{self} {self.states} {self.cooperative}".encode()).hexdigest()[:24]

    def in_shorter_pieces(self) -> Iterator["Kernel"]:
        """The kernel, and the same with the pieces of its sum halved again and again."""
        constants = dict(self.constants)
        yield self
        # A program that owns all units takes its sum at once.
        while constants.get("BARRIER") and constants["BLOCK_K"] > _SHORTEST_PIECE:
            constants["BLOCK_K"] //= 2
            yield replace(self, constants=tuple(constants.items()))

    def takes(self, name: str) -> bool:
        """Whether this is a parameter that is no constant."""
        return name in self.function.arg_names and name not in dict(self.constants)

    def source(self) -> ASTSource:
        """Pointers are multiples of 16 bytes; integers are taken as they come."""
        constants = self._values()
        signature: dict[str, Any] = {}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, name in enumerate(self.function.arg_names):
            kind = signature[name] = "constexpr" if name in constants else self._type(name)
            leaves = {(i, j): leaf for j, leaf in enumerate(kind)} if isinstance(kind, tuple) else {(i,): kind}
            aligned = [["tt.divisibility", ALIGNMENT]]
            attributes |= {path: aligned for path, leaf in leaves.items() if leaf.startswith("*")}
        return ASTSource(self.function, signature, constants, attributes)

    def _type(self, name: str) -> Any:
        """A type, or a tuple of types."""
        own = "*" + _NAMES[self.dtype]
        if name == "h_mask":
            return Mask(own, own, own)
        if name == "norm":
            return Norm(own, own, own, own, "fp64")
        if name == "dnorm":
            return NormGradients(own, own)
        if name not in _STATES:
            return _OTHERS.get(name, own)
        # The stepwise regime carries all states but h in the type of computation, from step to step in memory.
        wide = "*fp64" if self.dtype == torch.float64 else "*fp32"
        others = wide if self.name.startswith("pointwise") and name != "initial" else own
        return (own, *[others] * (self.states - 1))

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """All arguments in order, the constants among them."""
        values = {**given, **self._values()}
        return [values[name] for name in self.function.arg_names]

    def _values(self) -> dict[str, Any]:
        """Those of the constexpr parameters themselves."""
        constants = dict(self.constants)
        functions = cells.FORWARD if self.name.endswith("forward") else cells.BACKWARD
        if constants["CELL"] not in functions:
            raise ValueError(f"there are kernels for the cells {', '.join(functions)}, not {constants['CELL']}")
        return {**constants, "CELL": functions[constants["CELL"]]}


def target(device: Device) -> GPUTarget:
    backend, architecture = ("hip", device.architecture) if device.amd else ("cuda", device.capability)
    return GPUTarget(backend, architecture, device.warp)


@cache
def sources_fingerprint() -> str:
    """Changes with the source of any kernel, and of what decides on signatures and options."""
    digest = hashlib.sha256()
    here = Path(__file__)
    for path in [*sorted(Path(kernels.__path__[0]).glob("*.py")), here, here.with_name("build.py")]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
