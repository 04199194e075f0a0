"""A layer's tensors as the time loops take them, by the names that kernels give them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastrnn.backends.triton.alignment import aligned
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.noise import NoiseKind
from fastrnn.kernels.layer_norm import Norm, NormGradients
from fastrnn.kernels.noise import Draws, Shares
from fastrnn.spec import NORM_EPSILON, LayerSpec, Noise

__all__ = ["BackwardTensors", "ForwardTensors", "KernelNoise", "Weights"]

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Weights:
    """Of all directions, one after another: ``w_ih`` [D*G*H, I], ``w_hh`` [D, G*H, P], ``w_hr`` [D, P, H].

    Attributes:
        w_ih: None, as b_ih is, where the gates are given.
        b_ih: [D*G*H].
        b_hh: [D, G*H], zeros where the layer has no bias.
        norm: of a normalised layer, with zeros for biases that it does not have.
    """

    w_ih: Tensor | None
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor
    w_hr: Tensor | None
    norm: Norm | None

    @staticmethod
    def of(spec: LayerSpec, weights: Sequence[Tensor]) -> "Weights":
        names = spec.weight_names
        stacked = {name: _stack(weights[i :: len(names)]) for i, name in enumerate(names)}
        w_ih, w_hh, b_ih = stacked.get("weight_ih"), stacked["weight_hh"], stacked.get("bias_ih")
        b_hh = stacked["bias_hh"] if spec.has_bias else w_hh.new_zeros(w_hh.shape[:2])
        return Weights(
            None if w_ih is None else w_ih.flatten(0, 1),
            w_hh,
            None if b_ih is None else b_ih.flatten(),
            b_hh,
            stacked.get("weight_hr"),
            _norm(stacked, b_hh) if spec.layer_norm else None,
        )

    @property
    def hidden(self) -> int:
        return self.w_hr.shape[2] if self.w_hr is not None else self.w_hh.shape[2]

    @property
    def outputs(self) -> int:
        return self.w_hh.shape[2]


def _norm(stacked: Mapping[str, Tensor], b_hh: Tensor) -> Norm:
    state_gain, state_bias = stacked.get("weight_ln_c"), stacked.get("bias_ln_c")
    if state_gain is not None and state_bias is None:
        state_bias = torch.zeros_like(state_gain)
    return Norm(stacked["weight_ln_hh"], b_hh, state_gain, state_bias, NORM_EPSILON)


class KernelNoise(NamedTuple):
    """``fastrnn.spec.Noise`` by the names of the kernels' parameters."""

    h_mask: Tensor | None
    draws: Draws | None
    shares: Shares | None

    @staticmethod
    def of(noise: Noise, layout: Layout) -> "KernelNoise":
        mask, seed = (None if t is None else aligned(t) for t in (noise.h_mask, noise.zoneout_seed))
        if not noise.zoneout:
            return KernelNoise(mask, None, None)
        if seed is None:
            return KernelNoise(mask, None, Shares(noise.zoneout_h, noise.zoneout_c))
        return KernelNoise(mask, Draws(seed, layout.numbers, *noise.thresholds), None)

    @property
    def kind(self) -> NoiseKind:
        return NoiseKind(*[value is not None for value in self])


@dataclass(frozen=True)
class ForwardTensors:
    """gx [N, D*G*H], the initial states and the noise are read; y [N, D*P] and saved [D, N, S*H], with N = 0 in
    inference, are filled."""

    gx: Tensor
    initial: States
    noise: KernelNoise
    y: Tensor
    saved: Tensor

    @property
    def save(self) -> bool:
        return self.saved.shape[1] > 0


@dataclass(frozen=True)
class BackwardTensors:
    """dgh and dgx [N, D*G*H] are filled and, with a projection, the gradients of its results ``dprojected`` [N, D*P].

    Where the gates' gradients are the same for both products, dgx is dgh. ``dcell_states`` [D, N, H], of the cell's own
    state after every step, is None where there are none. ``dnorm`` is filled too, of a normalised layer.
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
    noise: KernelNoise
    dnorm: NormGradients | None

    @property
    def dproducts(self) -> Tensor:
        """Of the products with h, [N, D*G*H]."""
        return self.dgh if self.dnorm is None else self.dnorm.products

    @property
    def every_state(self) -> bool:
        return self.dcell_states is not None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return aligned(tensors[0]).unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
