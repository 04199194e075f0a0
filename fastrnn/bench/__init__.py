"""Races of a layer of any shape against ``torch.nn`` and, in inference, ONNX Runtime and OpenVINO where installed.

Every competitor is verified first (``verify.py``), then all are timed in turn (``timing.py``). ``python -m fastrnn
bench`` takes the shape from its arguments, ``benches`` has many by name.
"""

from fastrnn.bench.case import MODES, Case
from fastrnn.bench.measured import Measured, measure
from fastrnn.bench.picture import draw_ratios
from fastrnn.bench.timing import Budget, Quartiles, race

__all__ = ["MODES", "Budget", "Case", "Measured", "Quartiles", "draw_ratios", "measure", "race"]
