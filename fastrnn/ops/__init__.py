"""One layer: the operators, the choice of the backend that runs them, and the gradient around them."""

from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward

__all__ = ["frozen_forward", "layer_backward", "layer_forward"]
