"""Makes a checkout importable that was not installed: ``fastrnn.kernels`` lies in ``kernels`` at the top."""

import importlib.util
import sys
from pathlib import Path

import fastrnn

__all__ = ["make_kernels_importable"]

_KERNELS = Path(__file__).resolve().parents[2] / "kernels"


def make_kernels_importable() -> None:
    """Does nothing where ``fastrnn`` is installed with its kernels."""
    name = "fastrnn.kernels"
    if importlib.util.find_spec(name) is not None:
        return
    spec = importlib.util.spec_from_file_location(
        name, _KERNELS / "__init__.py", submodule_search_locations=[str(_KERNELS)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    fastrnn.kernels = module  # type: ignore[attr-defined]
