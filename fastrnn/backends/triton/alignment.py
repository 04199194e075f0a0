"""Where tensors that kernels read must begin."""

from torch import Tensor

__all__ = ["ALIGNMENT", "aligned"]

ALIGNMENT = 16


def aligned(tensor: Tensor) -> Tensor:
    """Contiguous, beginning at a multiple of ``ALIGNMENT`` bytes: what kernels are compiled for."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
