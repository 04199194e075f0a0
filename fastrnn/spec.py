"""What each cell is made of: the names of its gates, states and saved values. A leaf: it imports nothing of fastrnn."""

from dataclasses import dataclass

__all__ = ["CELLS", "CellSpec"]


@dataclass(frozen=True)
class CellSpec:
    """One recurrent cell.

    Attributes:
        name: key in ``CELLS``; the lower-case ``mode`` of ``torch.nn.RNNBase``.
        gates: in PyTorch's order, as stacked in ``weight_ih`` and ``weight_hh``.
        states: the hidden state ``h`` first, then what only the cell itself sees.
        saved: per row and step, the values of size ``hidden_size`` that a fused forward keeps for backward.
            Outputs are kept besides, so a cell whose derivative follows from its output saves nothing.
            States other than ``h`` come last.
        apart: the gradients of a gate's two products differ, so that a fused backward forms both.
        equation: for documentation and ``explain``.
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    saved: tuple[str, ...]
    apart: bool
    equation: str

    @property
    def kept(self) -> int:
        """How many of the saved values are not states."""
        return len(self.saved) - (len(self.states) - 1)

    def state_widths(self, gate_rows: int, outputs: int) -> list[int]:
        """Last sizes of the states, given those of ``weight_hh`` [G*H, P]: P for ``h``, H for the others."""
        return [outputs if name == "h" else gate_rows // len(self.gates) for name in self.states]


CELLS: dict[str, CellSpec] = {
    spec.name: spec
    for spec in (
        CellSpec("rnn_tanh", ("h",), ("h",), (), False, "h' = tanh(gx + gh)"),
        CellSpec("rnn_relu", ("h",), ("h",), (), False, "h' = relu(gx + gh)"),
        CellSpec(
            "lstm",
            ("i", "f", "g", "o"),
            ("h", "c"),
            ("i", "f", "g", "o", "c"),
            False,
            "c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c')",
        ),
        CellSpec(
            "gru",
            ("r", "z", "n"),
            ("h",),
            ("r", "z", "n", "gh_n"),
            True,
            "n = tanh(gx_n + sigmoid(r) gh_n); h' = (1 - sigmoid(z)) n + sigmoid(z) h",
        ),
    )
}
