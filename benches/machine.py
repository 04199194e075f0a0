"""What a result depends on besides the code: machine, versions, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch

from benches.limits import extension
from fastrnn.backends.cpu import processor

__all__ = ["describe", "output_of", "provenance"]

_ROOT = Path(__file__).resolve().parent.parent


def provenance(packages: Iterable[str]) -> dict[str, object]:
    """When, at which commit, on which processor and system, with which versions; ``None`` for what cannot be found."""
    changes = output_of("git", "status", "--porcelain", "--", ".", ":!benches/results")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": output_of("git", "rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "cpu": processor(),
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def describe(threads: int) -> dict[str, object]:
    compiled = extension()
    return provenance(("torch", "fastrnn", "numpy", "onnxruntime", "openvino", "onnx")) | {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": compiled.isa() if compiled is not None else None,
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
    }


def output_of(*command: str) -> str | None:
    """What a command prints, or ``None`` where it is absent or fails."""
    try:
        result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
