"""One layer: the operators, the choice of the backend that runs them, and what transforms and counters ask of them."""

from fastrnn.ops import batching, derivatives, fallback  # noqa: F401, their rules are registered
from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward

__all__ = ["frozen_forward", "layer_backward", "layer_forward"]
