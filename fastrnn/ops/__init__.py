"""One layer: the operators, the choice of the backend that runs them, and the rules for what is asked of them besides."""

from fastrnn.ops import batching, derivatives  # noqa: F401, which register the rules of vmap and the derivatives
from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward

__all__ = ["frozen_forward", "layer_backward", "layer_forward"]
