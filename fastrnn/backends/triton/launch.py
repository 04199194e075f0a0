"""Runs a kernel: compiled here, loaded from a folder that was compiled ahead of time, or interpreted."""

import json
import os
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from triton.compiler import CompiledKernel

from fastrnn.backends.triton import MANIFEST
from fastrnn.backends.triton.build import build
from fastrnn.backends.triton.kernel import Kernel, sources_fingerprint
from fastrnn.backends.triton.plans import DEVICES, Device

__all__ = ["current_device", "interpreted", "launch"]

interpreted: bool = triton.knobs.runtime.interpret


def launch(kernel: Kernel, grid: tuple[int, int], arguments: Mapping[str, Any], device: torch.device) -> None:
    """Starts ``kernel`` on the current stream of ``device``. Tensors must begin at a multiple of 16 bytes."""
    if interpreted:
        kernel.function[grid](*kernel.arguments(arguments))
        return
    with torch.cuda.device(device):
        _compiled(kernel, torch.cuda.current_device())[(grid[0], grid[1], 1)](*kernel.arguments(arguments))


def current_device(device: torch.device) -> Device:
    """What the plan needs to know of ``device``. The interpreter plays an H100."""
    if interpreted:
        return DEVICES["sm_90"]
    return _device(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _device(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        architecture = properties.gcnArchName.partition(":")[0]
    else:
        architecture = f"sm_{properties.major}{properties.minor}"
    shared = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return Device(properties.name, architecture, properties.multi_processor_count, shared)


@cache
def _compiled(kernel: Kernel, index: int) -> CompiledKernel:
    device = _device(index)
    group = _ahead_of_time(device.architecture).get(kernel.key())
    if group:
        return CompiledKernel(kernel.source(), group, kernel.key())
    return build(kernel, device).compiled


@cache
def _ahead_of_time(architecture: str) -> dict[str, dict[str, str]]:
    """Files of each kernel in the folder FASTRNN_KERNELS, by the kernel's key; none if it does not fit, with a
    warning."""
    folder = os.environ.get("FASTRNN_KERNELS")
    if not folder:
        return {}
    try:
        manifest = json.loads(Path(folder, MANIFEST).read_text())
        reason = _mismatch(manifest, architecture)
        if not reason:
            return {
                entry["key"]: {name: str(Path(folder, entry["folder"], name)) for name in entry["files"]}
                for entry in manifest["kernels"]
                if entry["target"] == architecture
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(f"fastrnn: kernels are compiled anew, not loaded from {folder}: {reason}", stacklevel=2)
    return {}


def _mismatch(manifest: Mapping[str, Any], architecture: str) -> str | None:
    for what, expected, found in (
        ("Triton", triton.__version__, manifest["triton"]),
        ("kernel sources", sources_fingerprint(), manifest["sources"]),
    ):
        if expected != found:
            return f"made for {what} {found}, here is {expected}"
    targets = sorted({entry["target"] for entry in manifest["kernels"]})
    if architecture not in targets:
        return f"made for {', '.join(targets)}, here is {architecture}"
    return None
