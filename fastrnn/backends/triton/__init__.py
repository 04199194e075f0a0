"""The Triton kernels on a GPU: which layers they take, and the plan they follow.

Triton is loaded at the first layer on a GPU: importing it takes longer than the rest of fastrnn.
"""

import importlib.util
from types import ModuleType
from typing import Any

import torch

from fastrnn.backends.triton.plans import Plan
from fastrnn.kernels import CELLS
from fastrnn.spec import LayerSpec, Sizes

__all__ = ["MANIFEST", "NAME", "missing", "plan", "reasons_against"]

NAME = "triton"
MANIFEST = "manifest.json"  # of a folder of kernels compiled ahead of time
missing: str | None = None if importlib.util.find_spec("triton") else "Triton is not installed"

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def reasons_against(cell: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the Triton kernels cannot take a cell on tensors of this device and dtype; empty if they can."""
    reasons = [missing] if missing else []
    if cell not in CELLS:
        reasons.append(f"it has the cells {', '.join(CELLS)}, not {cell}")
    if device.type != "cuda":
        reasons.append(f"it runs on a GPU, the input is on {device}")
    if dtype not in _DTYPES:
        reasons.append(f"it takes {', '.join(str(d) for d in _DTYPES)}, the input is {dtype}")
    return reasons


def plan(spec: LayerSpec, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Plan:
    """What the kernels would do with one layer of these sizes on ``device``."""
    return _operators().plan_for(spec, sizes.batch, sizes.hidden, dtype, device)


def _operators() -> ModuleType:
    return importlib.import_module("fastrnn.backends.triton.operators")


def _layer_forward(*args: Any, **kwargs: Any) -> Any:
    return _operators().layer_forward(*args, **kwargs)


def _layer_backward(*args: Any, **kwargs: Any) -> Any:
    return _operators().layer_backward(*args, **kwargs)


_library = torch.library.Library("fastrnn", "IMPL")
_library.impl("layer_forward", _layer_forward, "CUDA")
_library.impl("layer_backward", _layer_backward, "CUDA")
