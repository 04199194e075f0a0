"""``bytes_kept``: the memory that lies between forward and backward."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["bytes_kept"]


def bytes_kept(forward: Callable[[], Any], owned: Iterable[Tensor]) -> int:
    """How many bytes ``forward()`` keeps for backward.

    They are those of the distinct storages that autograd is given to save, without the storages of the ``owned``
    tensors, such as parameters and inputs, which are there anyway.
    """
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)  # held, or another tensor might take its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    kept, free = ({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in ts} for ts in (saved, owned))
    return sum(size for address, size in kept.items() if address not in free)
