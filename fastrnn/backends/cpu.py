"""The C++ kernels of ``fastrnn._C``: which layers they take, and the plan they follow."""

from types import ModuleType

import torch

extension: ModuleType | None
missing: str | None
try:
    # Loading the extension registers its implementations of the operators in fastrnn.ops.
    from fastrnn import _C as extension

    missing = None
except ImportError as error:
    extension = None
    missing = f"the compiled extension fastrnn._C cannot be loaded ({error})"

__all__ = ["NAME", "extension", "missing", "plan", "reasons_against"]

NAME = "cpu"

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def reasons_against(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the C++ kernels cannot take tensors of this device and dtype; empty if they can."""
    reasons = []
    if missing:
        reasons.append(missing)
    if device.type not in ("cpu", "meta"):
        reasons.append(f"it runs on the CPU, the input is on {device}")
    if dtype not in _DTYPES:
        reasons.append(f"it takes {', '.join(str(d) for d in _DTYPES)}, the input is {dtype}")
    return reasons


def plan(
    cell: str,
    steps: int,
    batch: int,
    rows: int,
    inputs: int,
    hidden: int,
    outputs: int,
    directions: int,
    dtype: torch.dtype,
) -> str:
    """What the kernels would do with one layer of these sizes, on the current number of threads."""
    assert extension is not None
    element_bytes = 8 if dtype == torch.float64 else 4
    chosen = extension.plan(
        cell, steps, batch, inputs, hidden, outputs, directions, rows, element_bytes, torch.get_num_threads()
    )
    products = {
        "fused": "x W_ih^T + h W_hh^T accumulate in one register tile over packed weights",
        "hoisted": "x W_ih^T ahead of the steps in chunks, h W_hh^T in each step, packed weights",
        "direct": "dot products on the weights as they lie, nothing packed",
    }[chosen["products"]]
    converted = f", {dtype} computed in float32" if dtype in (torch.bfloat16, torch.float16) else ""
    return (
        f"{extension.isa()} kernels on {chosen['threads']} threads "
        f"({chosen['directions_at_once']} directions at once x {chosen['row_parts']} parts of the rows "
        f"x {chosen['unit_parts']} parts of the units); {products}{converted}"
    )
