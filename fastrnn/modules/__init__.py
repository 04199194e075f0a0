"""``torch.nn``'s recurrent modules; swapping, freezing and explaining them."""

from fastrnn.modules import recurrent
from fastrnn.modules.cells import Cell
from fastrnn.modules.explain import explain
from fastrnn.modules.frozen import freeze
from fastrnn.modules.layers import Layers
from fastrnn.modules.recurrent import *  # noqa: F403
from fastrnn.modules.replace import accelerate, restore

__all__ = ["Cell", "Layers", "accelerate", "explain", "freeze", "restore"]
__all__ += recurrent.__all__
