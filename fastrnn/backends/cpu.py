"""The C++ kernels of ``fastrnn._C``: which layers they take, and the plan they follow."""

import importlib
import platform
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from fastrnn.spec import LayerSpec, Sizes


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, whose loading registers its implementations of the operators, or why there is none to use.

    Raises:
        ValueError: for a FASTRNN_CPU_ISA that this build or processor does not run, or a bad file FASTRNN_MACHINE.
    """
    try:
        module = importlib.import_module("fastrnn._C")
    except ImportError as error:
        return None, f"the compiled extension fastrnn._C cannot be loaded ({error})"
    built_for = module.built_for_torch
    if built_for.split(".")[:2] != torch.__version__.split(".")[:2]:
        again = "pip install --no-build-isolation . builds it again"
        return None, f"the compiled extension was built for torch {built_for}, this is {torch.__version__}; {again}"
    module.isa()
    module.machine()
    return module, None


extension, missing = _load()
_cells: list[str] = extension.cells() if extension else []
# For programs without Python: loading it registers the operators.
library = str(Path(extension.__file__ or "").with_name("libfastrnn_torch.so")) if extension else None

__all__ = [
    "NAME",
    "Plan",
    "extension",
    "frozen_products",
    "library",
    "machine",
    "measure",
    "missing",
    "plan",
    "processor",
    "reasons_against",
]

NAME = "cpu"

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def reasons_against(cell: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the C++ kernels cannot take a cell on tensors of this device and dtype; empty if they can."""
    reasons = []
    if missing:
        reasons.append(missing)
    elif cell not in _cells:
        reasons.append(f"it has the cells {', '.join(_cells)}, not {cell}")
    if device.type not in ("cpu", "meta"):
        reasons.append(f"it runs on the CPU, the input is on {device}")
    if dtype not in _DTYPES:
        reasons.append(f"it takes {', '.join(str(d) for d in _DTYPES)}, the input is {dtype}")
    return reasons


@dataclass(frozen=True)
class Plan:
    """How the kernels share one layer among threads, and how forward forms its products."""

    isa: str
    threads: int
    directions_at_once: int
    row_parts: int
    unit_parts: int
    products: str
    backward_products: str
    matrix_steps: bool
    matrix_gradients: bool
    dtype: torch.dtype
    products_in: torch.dtype  # what they take; of float32 tensors bfloat16 where PyTorch's switch is on
    hoist_rows: int
    chunk_rows: int
    fetch_panels: bool
    seconds: float  # what the time loops are estimated to take, forward and backward

    def __str__(self) -> str:
        parts = {"directions": self.directions_at_once, "rows": self.row_parts, "units": self.unit_parts}
        split = " x ".join(f"{n} parts of the {name}" for name, n in parts.items() if n > 1)
        threads = f"{self.threads} threads ({split})" if split else "1 thread"
        if self.products_in == torch.bfloat16:
            rounded = f"{self.dtype} rounded to bfloat16" if self.dtype == torch.float32 else f"{self.dtype}"
            converted = f"; products of {rounded} summed in float32"
            if self.matrix_steps or self.matrix_gradients:
                where = "steps and gradients" if self.matrix_steps else "gradients"
                converted += f", those of {where} on the matrix unit"
            else:
                converted += ", the rest computed in float32"
        elif self.dtype in (torch.bfloat16, torch.float16):
            converted = f"; {self.dtype} computed in float32"
        else:
            converted = ""
        backward = "as they lie" if self.backward_products == "direct" else "packed"
        ahead = ", panels fetched ahead" if self.fetch_panels else ""
        products = _PRODUCTS[self.products].format(rows=self.hoist_rows) + ahead
        return f"{self.isa} on {threads}; {products}; backward on weights {backward}{converted}"


_PRODUCTS = {
    "fused": "x W_ih^T + h W_hh^T accumulate in one register tile over packed weights",
    "hoisted": "x W_ih^T ahead of the steps in chunks of {rows} rows, h W_hh^T in each step, packed weights",
    "direct": "dot products on the weights as they lie, nothing packed",
}


def plan(spec: LayerSpec, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Plan:
    """What the kernels would do with one layer of these sizes, on the current number of threads."""
    assert extension is not None
    threads = torch.get_num_threads() if extension.openmp_library() else 1
    n = sizes
    products_in = getattr(torch, extension.products_of(str(dtype).removeprefix("torch."), n.steps, n.rows))
    element_bytes = products_in.itemsize
    chosen = extension.plan(
        spec.cell, n.steps, n.batch, n.inputs, n.hidden, n.outputs, spec.directions, n.rows, element_bytes, threads
    )
    return Plan(isa=extension.isa(), dtype=dtype, products_in=products_in, **chosen)


def machine() -> str:
    """What plans take this machine for: its caches, what they deliver to a core, and a core's multiply-adds."""
    assert extension is not None
    facts = extension.machine()
    caches = [
        f"{level.upper()} {facts[f'{level}_bytes'] / 2**10:,.0f} KB at {facts[f'{level}_rate'] / 1e9:.0f} GB/s"
        + (f" for {facts[f'{level}_cores']} cores" if facts[f"{level}_cores"] > 1 else "")
        for level in ("l1", "l2", "l3")
        if facts[f"{level}_bytes"]
    ]
    flops = f"{facts['vector_float32'] / 1e9:.0f} GFLOP/s a core in float32"
    return f"{facts['name']}, {facts['cores']} cores, {', '.join(caches)}, {flops}"


def measure() -> dict[str, float]:
    """This machine's rates, for one thread at a time: what a file named by FASTRNN_MACHINE may hold."""
    assert extension is not None
    facts = extension.machine()
    rates = {f"vector_{name}": extension.peak_flops(name, 1) for name in ("float32", "float64")}
    if extension.has_bfloat16():
        unit = "matrix" if extension.has_matrix_unit() else "vector"
        rates[f"{unit}_bfloat16"] = extension.peak_flops("bfloat16", 1)
    below = 0.0
    for level in ("l1", "l2", "l3"):
        if facts[f"{level}_bytes"]:
            # Twice what the level below holds, or half of this one where that is less; of a large L3, part.
            size = min(facts[f"{level}_bytes"] / 2, max(4 * below, 2**14), 2**25)
            rates[f"{level}_rate"] = extension.read_bandwidth(int(size), 1)
            below = facts[f"{level}_bytes"]
    return rates


def frozen_products() -> str:
    """What becomes of frozen weights on the instruction set in use."""
    assert extension is not None
    # What multiplies bfloat16 multiplies int8 too.
    how = "multiplied as they are" if extension.has_bfloat16() else "widened to float32"
    unit = " on the matrix unit" if extension.has_matrix_unit() else ""
    return f"{how}{unit} ({extension.isa()})"


def processor() -> str:
    """The model name of this machine's processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
