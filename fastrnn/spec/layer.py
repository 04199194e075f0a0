"""A layer's options as one value, and the shapes that follow from it. What goes from the modules to the kernels."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fastrnn.spec.cell import CELLS, CellSpec

__all__ = ["NORM_EPSILON", "LayerSpec", "Sizes", "place_of_w_hh"]

NORM_EPSILON = 1e-5  # added to variances, as in torch.nn.LayerNorm


def place_of_w_hh(gates_given: bool) -> int:
    """Among the weights of a direction, and so of the first."""
    return 0 if gates_given else 1


Shape = tuple[int, ...]


class LayerSpec(NamedTuple):
    """One layer: its cell, and how its tensors are laid out.

    Attributes:
        cell: key of ``CELLS``.
        directions: 1, or 2 where the second reads each row from its own end.
        has_bias: each direction has ``bias_ih`` and ``bias_hh``.
        batch_first: x and y are [B, T, ...]. A packed batch has neither order.
        projected: each direction has ``weight_hr``, and P outputs instead of H.
        layer_norm: the products with x and with h are normalised, and the cell's own state on its way to h: each
            direction has the gains of that.
        gates_given: x are the gates' normalised products with it, [..., D*G*H], and what forms them is not among the
            weights. So the operators take a layer with ``layer_norm``.
    """

    cell: str
    directions: int = 1
    has_bias: bool = True
    batch_first: bool = False
    projected: bool = False
    layer_norm: bool = False
    gates_given: bool = False

    @staticmethod
    def of_weights(
        cell: str, directions: int, has_bias: bool, batch_first: bool, weights: Sequence[Tensor], layer_norm: bool
    ) -> "LayerSpec":
        """From the arguments of an operator, where the number of weights tells whether there is a projection.

        Raises:
            ValueError: where these do not fit one another.
        """
        if cell not in CELLS:
            raise ValueError(f"unknown cell '{cell}', expected one of {' '.join(CELLS)}")
        if directions not in (1, 2):
            raise ValueError(f"expected 1 or 2 directions, got {directions}")
        plain = LayerSpec(cell, directions, has_bias, batch_first, layer_norm=layer_norm, gates_given=layer_norm)
        layer = plain._replace(projected=len(weights) > directions * len(plain.weight_names))
        if len(weights) != directions * len(layer.weight_names):
            expected = len(plain.weight_names)
            raise ValueError(
                f"expected {expected} weights ({expected + 1} with a projection) per direction, got {len(weights)} "
                f"for {directions}"
            )
        if layer.projected and not layer.facts.projectable:
            raise ValueError(f"expected no projection for cell {cell}, got one")
        return layer

    @property
    def arguments(self) -> tuple[str, int, bool, bool]:
        """Those of the operators in front, in their order. They see a projection by the number of weights."""
        return self.cell, self.directions, self.has_bias, self.batch_first

    @property
    def facts(self) -> CellSpec:
        return CELLS[self.cell]

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Of one direction, in order; with ``_l0`` and the like behind them they are those of ``torch.nn``."""
        biases = ("bias_ih", "bias_hh") if self.has_bias else ()
        names = ("weight_ih", "weight_hh", *biases, *(("weight_hr",) if self.projected else ()))
        if self.layer_norm:
            names += self.norm_names
        return tuple([name for name in names if not name.endswith("_ih")]) if self.gates_given else names

    @property
    def w_hh(self) -> int:
        return place_of_w_hh(self.gates_given)

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Of the gains of a layer that is normalised, and a bias for what has none otherwise: the cell's own state."""
        of_state = ("weight_ln_c", *(("bias_ln_c",) if self.has_bias else ()))
        return ("weight_ln_ih", "weight_ln_hh", *(of_state if len(self.facts.states) > 1 else ()))

    def weight_shapes(self, inputs: int, hidden: int, outputs: int) -> dict[str, Shape]:
        """Of one direction, by name."""
        gates = self.gates_width(hidden)
        every = {
            "weight_ih": (gates, inputs),
            "weight_hh": (gates, outputs),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
            "weight_hr": (outputs, hidden),
            "weight_ln_ih": (gates,),
            "weight_ln_hh": (gates,),
            "weight_ln_c": (hidden,),
            "bias_ln_c": (hidden,),
        }
        return {name: every[name] for name in self.weight_names}

    def gates_width(self, hidden: int) -> int:
        return len(self.facts.gates) * hidden

    def state_widths(self, hidden: int, outputs: int) -> dict[str, int]:
        """Last sizes of the states by name: P for ``h``, H for the others."""
        return {name: outputs if name == "h" else hidden for name in self.facts.states}

    def hidden_and_outputs(self, w_hh: Tensor) -> tuple[int, int]:
        """H and P, from ``weight_hh`` [..., G*H, P]."""
        gates_rows, outputs = w_hh.shape[-2:]
        return gates_rows // len(self.facts.gates), outputs


class Sizes(NamedTuple):
    """What a plan depends on besides the options. ``rows`` counts them over all steps, T * B unless ragged."""

    steps: int
    batch: int
    rows: int
    inputs: int
    hidden: int
    outputs: int
