"""Gradients of a layer's weights, which are products and sums over all steps, once its time loop has run backward."""

from collections.abc import Sequence
from functools import cache

from torch import Tensor
from torch.nn.functional import layer_norm

from fastrnn.backends.triton.checks import Inputs
from fastrnn.backends.triton.layout import Layout
from fastrnn.backends.triton.tensors import BackwardTensors
from fastrnn.spec import NORM_EPSILON, LayerSpec, reference

__all__ = ["weight_gradients"]


def weight_gradients(
    spec: LayerSpec, layout: Layout, tensors: BackwardTensors, inputs: Inputs, needed: Sequence[bool], samples: int
) -> list[Tensor]:
    """Those of the weights that are needed, one direction after the other."""
    dgx, dgh, dnorm, noise = tensors.dgx, tensors.dgh, tensors.dnorm, tensors.noise
    names = spec.weight_names

    @cache
    def rows() -> Tensor:
        return layout.without_padding(inputs.x.flatten(0, -2))

    @cache
    def sums(apart: bool) -> Tensor:
        gates = dgx if apart else dgh
        return gates.sum(0) if samples == 1 else gates.unflatten(0, (-1, samples)).sum(0)

    def product(left: Tensor, right: Tensor) -> Tensor:
        """Over all rows, or over those of each sample."""
        if samples == 1:
            return left.t() @ right
        return left.unflatten(0, (-1, samples)).permute(1, 2, 0) @ right.unflatten(0, (-1, samples)).transpose(0, 1)

    def saved(direction: int) -> dict[str, Tensor]:
        """By name [N, H], and the products with h before they are normalised [N, G*H]."""
        own, every = (spec.facts.saved_values(noise.kind.zoneout, norm) for norm in (False, spec.layer_norm))
        values = tensors.saved[direction].unflatten(-1, (every, -1))
        return {**dict(zip(spec.facts.saved, values.unbind(1), strict=False)), "products": values[:, own:].flatten(1)}

    def doutput(direction: int) -> Tensor:
        assert dnorm is not None
        return dnorm.output[direction]

    def of_weight(direction: int, name: str) -> Tensor:
        of_gates = _part(dgh, direction, spec)
        of_outputs = _part(tensors.y, direction, spec)
        match name:
            case "weight_ih":
                return product(dgx[:, of_gates], rows())
            case "weight_hh":
                before = layout.before(tensors.y[:, of_outputs], tensors.initial[0][direction], direction)
                if noise.h_mask is not None:
                    before *= layout.of_rows(noise.h_mask[direction])
                return product(tensors.dproducts[:, of_gates], before)
            case "bias_ih":
                return sums(bool(spec.facts.apart))[..., of_gates].clone()
            case "bias_hh":
                return sums(False)[..., of_gates].clone()
            case "weight_ln_hh":
                return (dgh[:, of_gates] * reference.normalised(spec, saved(direction)["products"])).sum(0)
            case "weight_ln_c":
                c = saved(direction)["c"]
                return (doutput(direction) * layer_norm(c, c.shape[-1:], eps=NORM_EPSILON)).sum(0)
            case "bias_ln_c":
                return doutput(direction).sum(0)
            case _:
                assert tensors.dprojected is not None
                weights = inputs.weights[direction * len(names) : (direction + 1) * len(names)]
                hidden = reference.hidden(spec, saved(direction), weights)
                return product(tensors.dprojected[:, of_outputs], hidden)

    every = [(d, name) for d in range(spec.directions) for name in names]
    return [of_weight(*weight) for weight, wanted in zip(every, needed, strict=True) if wanted]


def _part(rows: Tensor, direction: int, spec: LayerSpec) -> slice:
    """The columns of one direction in [N, D*width]."""
    width = rows.shape[1] // spec.directions
    return slice(direction * width, (direction + 1) * width)
