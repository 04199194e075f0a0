"""What a result depends on besides the code: machine, versions, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from benches.limits import extension
from fastrnn.backends.cpu import processor

__all__ = ["describe"]

_ROOT = Path(__file__).resolve().parent.parent


def describe(threads: int) -> dict[str, object]:
    compiled = extension()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "cpu": processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": compiled.isa() if compiled is not None else None,
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("torch", "fastrnn", "numpy", "onnxruntime", "onnx")},
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
