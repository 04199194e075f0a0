"""Float32 layers whose products take operands rounded to bfloat16: asked for, and as the reference computes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PRODUCTS", "RoundedProducts", "bfloat16_products_allowed"]

_ATEN = torch.ops.aten
# The operations that are products, with the places of their factors. Inference mode leaves linear as it is.
PRODUCTS = {_ATEN.mm.default: (0, 1), _ATEN.addmm.default: (1, 2), _ATEN.linear.default: (0, 1)}


@contextmanager
def bfloat16_products_allowed() -> Iterator[None]:
    """With PyTorch's switch on, by which recurrent layers on the CPU may round float32."""
    rnn = getattr(torch.backends.mkldnn, "rnn")  # noqa: B009 - torch's annotations do not know it
    before = rnn.fp32_precision
    rnn.fp32_precision = "bf16"
    try:
        yield
    finally:
        rnn.fp32_precision = before


class RoundedProducts(TorchDispatchMode):
    """Matrix products of tensors rounded to bfloat16, summed in the dtype that they have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def rounded(place: int, argument: Any) -> Any:
            factor = isinstance(argument, Tensor) and place in PRODUCTS.get(func, ())
            return argument.bfloat16().to(argument.dtype) if factor else argument

        return func(*(rounded(i, argument) for i, argument in enumerate(args)), **(kwargs or {}))
