"""What is computed: cells and layers as data, and the oracle in plain PyTorch. It imports nothing else of fastrnn."""

from fastrnn.spec.cell import CELLS, CellSpec
from fastrnn.spec.layer import LayerSpec, Sizes, given, pair_of

__all__ = ["CELLS", "CellSpec", "LayerSpec", "Sizes", "given", "pair_of"]
