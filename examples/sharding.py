"""A model whose weights and moments are spread over several processes, for one that outgrows a device."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def shard(model: nn.Module, device: torch.device, number: int) -> None:
    """Leaves each of ``number`` processes its part of every weight, on its device.

    The whole weights of a module are there while it runs, so ``forward`` of the modules that own them is what may be
    called, by all processes alike.
    """
    # Dropout and the like follow the modules, and none of them works in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (number,))
    owners: dict[Tensor, list[nn.Module]] = {}  # modules that share a weight stay together
    for module in model.modules():
        own = next(module.parameters(recurse=False), None)
        if own is not None:
            owners.setdefault(own, []).append(module)
    for modules in owners.values():
        fully_shard(modules, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tree: Any, keep: bool) -> Any:
    """A state with whole tensors on the CPU in place of spread ones; None in their place unless ``keep``."""

    def join(leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        full = leaf.full_tensor()
        return full.cpu() if keep else None

    return tree_map(join, tree)


def spread(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A state of an optimizer, with the tensors that belong to a spread weight spread as it is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def split(value: Any, weight: Any) -> Any:
        if not (isinstance(value, Tensor) and isinstance(weight, DTensor) and value.shape == weight.shape):
            return value
        return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)

    moments = {
        index: {name: split(value, weights[index]) for name, value in moment.items()}
        for index, moment in state["state"].items()
    }
    return state | {"state": moments}
