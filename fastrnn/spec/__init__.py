"""What is computed: cells and layers as data, and the oracle in plain PyTorch. It imports nothing else of fastrnn."""

from fastrnn.spec.call import CONSTANTS, BackwardCall, ForwardCall, pair_of
from fastrnn.spec.cell import CELLS, CellSpec
from fastrnn.spec.layer import NORM_EPSILON, LayerSpec, Sizes, place_of_w_hh
from fastrnn.spec.noise import NONE, Noise
from fastrnn.spec.segments import WHOLE, Segments

__all__ = [
    "CELLS",
    "CONSTANTS",
    "NONE",
    "NORM_EPSILON",
    "WHOLE",
    "BackwardCall",
    "CellSpec",
    "ForwardCall",
    "LayerSpec",
    "Noise",
    "Segments",
    "Sizes",
    "pair_of",
    "place_of_w_hh",
]
