"""What the results depend on, and the rates of the device that bound any layer."""

from typing import Any

import torch

from benches.gpu.clock import Clock, median_seconds
from benches.gpu.precision import PRECISIONS, TIMED
from benches.machine import output_of, provenance
from fastrnn.backends.triton.launch import current_device
from fastrnn.backends.triton.plans import Device

__all__ = ["describe", "device_of_plans", "rates"]

_PACKAGES = ("torch", "triton", "fastrnn", "numpy")


def describe() -> dict[str, Any]:
    """Device, driver, versions, commit."""
    properties = torch.cuda.get_device_properties(0)
    device = current_device(torch.device("cuda", 0))
    smi = output_of("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader")
    driver, clock, power = (smi.splitlines()[0] if smi else ", , ").split(", ")
    about = provenance(_PACKAGES)
    about["versions"] = {
        **about["versions"],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver or None,
    }
    sample = torch.zeros(1, device="cuda")
    return about | {
        "device": properties.name,
        "architecture": device.architecture,
        "capability": [properties.major, properties.minor],
        "multiprocessors": device.multiprocessors,
        "shared_memory": device.shared_memory,
        "memory": properties.total_memory,
        "max_clock": clock or None,
        "power_limit": power or None,
        # Not so before cuDNN 9.13: torch.nn then runs bfloat16 without cuDNN.
        "cudnn_takes": [name for name in TIMED if torch.cudnn_is_acceptable(sample.to(PRECISIONS[name].dtype))],
    }


def device_of_plans() -> Device:
    return current_device(torch.device("cuda", 0))


def rates(clock: Clock, device: str = "cuda", size: int = 8192) -> dict[str, Any]:
    """Operations a second of a square product in each precision; bytes a second of a copy, read and written."""
    peaks = {}
    for name in TIMED:
        precision = PRECISIONS[name]
        a, b = (torch.randn(size, size, device=device, dtype=precision.dtype) for _ in range(2))
        out = torch.empty_like(a)
        with precision.active():
            peaks[name] = 2 * size**3 / median_seconds(clock, lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 5, 4)
    source = torch.empty(2 * size * size, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return {"operations": peaks, "copy": moved / median_seconds(clock, lambda: target.copy_(source), 5, 4)}
