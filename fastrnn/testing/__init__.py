"""What tests and benchmarks share: layers to compute, ways to compute them, and the rule by which results are right.

It needs torch alone: no test runner, and neither the C++ extension nor Triton.
"""

from fastrnn.testing.accuracy import Comparison, assert_accurate, compare
from fastrnn.testing.modules import CELL_MODULES, IN_TORCH, LAYERS, TIED, Kind, counterpart_of, on_reference
from fastrnn.testing.poison import poisoned
from fastrnn.testing.problem import Case, Problem, by_operators, by_peer, by_reference, by_torch_nn, make_problem
from fastrnn.testing.rounded import RoundedProducts, bfloat16_products_allowed

__all__ = [
    "CELL_MODULES",
    "IN_TORCH",
    "LAYERS",
    "TIED",
    "Case",
    "Comparison",
    "Kind",
    "Problem",
    "RoundedProducts",
    "assert_accurate",
    "bfloat16_products_allowed",
    "by_operators",
    "by_peer",
    "by_reference",
    "by_torch_nn",
    "compare",
    "counterpart_of",
    "make_problem",
    "on_reference",
    "poisoned",
]
