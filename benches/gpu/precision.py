"""The precisions that are compared: a dtype, and for float32 how its products are rounded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["PRECISIONS", "TIMED", "Precision"]


@dataclass(frozen=True)
class Precision:
    """
    Attributes:
        products: of float32, a value of ``torch.backends.*.fp32_precision``; empty for other dtypes.
        ulp: of 1, in the format to which the factors of products are rounded.
        floor_ulps: what the accuracy rule allows beside twice the error of torch.nn.
    """

    name: str
    dtype: torch.dtype
    products: str
    ulp: float
    floor_ulps: float

    @property
    def tf32(self) -> bool:
        return self.products == "tf32"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Sets how float32 products are rounded, in recurrent layers of cuDNN and in products of cuBLAS alike."""
        if not self.products:
            yield
            return
        settings = (torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
        before = [setting.fp32_precision for setting in settings]
        for setting in settings:
            setting.fp32_precision = self.products
        try:
            yield
        finally:
            for setting, value in zip(settings, before, strict=True):
                setting.fp32_precision = value


# Where cuDNN keeps a value in float32 that is stored in 16 bits here, or computes exactly although tf32 is allowed,
# its error says nothing of the format: the floor is two roundings of it. float64 has no oracle more exact than itself.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("bfloat16", torch.bfloat16, "", 2**-7, 2),
        Precision("float16", torch.float16, "", 2**-10, 2),
        Precision("tf32", torch.float32, "tf32", 2**-10, 2),
        Precision("ieee", torch.float32, "ieee", 2**-23, 8),
        Precision("float64", torch.float64, "", 2**-52, 1000),
    )
}
TIMED = ("bfloat16", "float16", "tf32")
