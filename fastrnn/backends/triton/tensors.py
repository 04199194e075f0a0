"""A layer's tensors as the time loops take them, by the names that kernels give them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrnn.spec import LayerSpec

__all__ = ["BackwardTensors", "ForwardTensors", "Weights", "aligned"]

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Weights:
    """Of all directions, one after another: ``w_ih`` [D*G*H, I], ``w_hh`` [D, G*H, P], ``w_hr`` [D, P, H].

    Attributes:
        b_ih: [D*G*H].
        b_hh: [D, G*H], zeros where the layer has no bias.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor
    w_hr: Tensor | None

    @staticmethod
    def of(spec: LayerSpec, weights: Sequence[Tensor]) -> "Weights":
        names = spec.weight_names
        stacked = {name: _stack(weights[i :: len(names)]) for i, name in enumerate(names)}
        w_hh, b_ih = stacked["weight_hh"], stacked.get("bias_ih")
        return Weights(
            stacked["weight_ih"].flatten(0, 1),
            w_hh,
            None if b_ih is None else b_ih.flatten(),
            stacked["bias_hh"] if spec.has_bias else w_hh.new_zeros(w_hh.shape[:2]),
            stacked.get("weight_hr"),
        )

    @property
    def hidden(self) -> int:
        return self.w_hr.shape[2] if self.w_hr is not None else self.w_hh.shape[2]

    @property
    def outputs(self) -> int:
        return self.w_hh.shape[2]


@dataclass(frozen=True)
class ForwardTensors:
    """gx [N, D*G*H] and the initial states are read; y [N, D*P] and saved [D, N, S*H], with N = 0 in inference, are
    filled."""

    gx: Tensor
    initial: States
    y: Tensor
    saved: Tensor

    @property
    def save(self) -> bool:
        return self.saved.shape[1] > 0


@dataclass(frozen=True)
class BackwardTensors:
    """dgh and dgx [N, D*G*H] are filled and, with a projection, the gradients of its results ``dprojected`` [N, D*P].

    Where the gates' gradients are the same for both products, dgx is dgh. ``dcell_states`` [D, N, H], of the cell's own
    state after every step, is None where there are none.
    """

    dy: Tensor
    dcell_states: Tensor | None
    dfinal: States
    initial: States
    y: Tensor
    saved: Tensor
    dgx: Tensor
    dgh: Tensor
    dprojected: Tensor | None

    @property
    def every_state(self) -> bool:
        return self.dcell_states is not None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return aligned(tensors[0]).unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def aligned(tensor: Tensor) -> Tensor:
    """Contiguous, beginning at a multiple of 16 bytes: what kernels are compiled for."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor
