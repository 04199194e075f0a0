"""Chooses where a layer runs: on a fused backend, or on the reference where no backend takes it."""

import functools
import warnings

import torch

from fastrnn.backends import cpu

__all__ = ["BACKENDS", "reasons_against", "runs_fused"]

BACKENDS = (cpu,)


def reasons_against(device: torch.device, dtype: torch.dtype) -> dict[str, list[str]]:
    """For each backend by name, why it does not take a layer of this device and dtype; no reasons if it does."""
    return {backend.NAME: backend.reasons_against(device, dtype) for backend in BACKENDS}


# Cached by type and dtype: the question is asked at every call, and its answer does not change.
@functools.cache
def _runs_fused(device_type: str, dtype: torch.dtype) -> bool:
    against = reasons_against(torch.device(device_type), dtype)
    if not all(against.values()):
        return True
    told = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in against.items())
    warnings.warn(f"fastrnn: layers on {device_type} in {dtype} run on the slow reference ({told})", stacklevel=2)
    return False


def runs_fused(x: torch.Tensor) -> bool:
    """Whether a fused backend takes layers on tensors like ``x``. Warns once for each kind that none takes."""
    return _runs_fused(x.device.type, x.dtype)
