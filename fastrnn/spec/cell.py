"""What each cell is made of: the names of its gates, states and saved values. A leaf: it imports nothing of fastrnn."""

from dataclasses import dataclass

__all__ = ["CELLS", "CellSpec"]


@dataclass(frozen=True)
class CellSpec:
    """One recurrent cell.

    Attributes:
        name: key in ``CELLS``; the lower-case ``mode`` of its modules.
        gates: in PyTorch's order, as stacked in ``weight_ih`` and ``weight_hh``.
        states: the hidden state ``h`` first, then what only the cell sees, such as an LSTM's ``c``.
        saved: per row and step, the values of size ``hidden_size`` that a fused forward keeps for backward.
            Outputs are kept besides, so a cell whose derivative follows from its output saves nothing.
            States other than ``h`` come last.
        apart: gates whose products with x and with h are not just added, so that a fused backward forms the
            gradients of both. They come last.
        projectable: ``weight_hr`` may follow, so the cell's own ``h`` is formed again from the saved values.
        equation: for documentation and ``explain``.
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    saved: tuple[str, ...]
    equation: str
    apart: tuple[str, ...] = ()
    projectable: bool = False

    def __post_init__(self) -> None:
        together = self.gates[: len(self.gates) - len(self.apart)]
        assert self.gates == together + self.apart, f"{self.name}: expected gates apart behind the others"

    @property
    def normalised(self) -> tuple[int, ...]:
        """How many gates, in their order, are normalised together: those whose products are added, and those apart."""
        together = len(self.gates) - len(self.apart)
        return (together, *(1 for _ in self.apart))

    @property
    def saved_by_zoneout(self) -> int:
        """How many values are saved besides where states may stay: what is saved belongs to the new states, and the
        cell's own state as it stays, or a cell that saves nothing its new ``h``, comes behind it."""
        return int(len(self.states) > 1 or not self.saved)

    def saved_values(self, zoneout: bool, layer_norm: bool) -> int:
        """With ``layer_norm`` the products with h besides, as they were before."""
        return len(self.saved) + self.saved_by_zoneout * zoneout + len(self.gates) * layer_norm

    @property
    def kept(self) -> tuple[str, ...]:
        """The saved values that are not states."""
        return self.saved[: len(self.saved) - (len(self.states) - 1)]


CELLS: dict[str, CellSpec] = {
    spec.name: spec
    for spec in (
        CellSpec("rnn_tanh", ("h",), ("h",), (), "h' = tanh(gx + gh)"),
        CellSpec("rnn_relu", ("h",), ("h",), (), "h' = relu(gx + gh)"),
        CellSpec(
            "lstm",
            ("i", "f", "g", "o"),
            ("h", "c"),
            ("i", "f", "g", "o", "c"),
            "c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c')",
            projectable=True,
        ),
        CellSpec(
            "gru",
            ("r", "z", "n"),
            ("h",),
            ("r", "z", "n", "gh_n"),
            "n = tanh(gx_n + sigmoid(r) gh_n); h' = (1 - sigmoid(z)) n + sigmoid(z) h",
            apart=("n",),
        ),
        CellSpec(
            "cifg",
            ("f", "g", "o"),
            ("h", "c"),
            ("f", "g", "o", "c"),
            "c' = sigmoid(f) c + (1 - sigmoid(f)) tanh(g); h' = sigmoid(o) tanh(c')",
            projectable=True,
        ),
    )
}
