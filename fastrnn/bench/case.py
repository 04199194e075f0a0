"""One recurrent layer on one input, as data."""

from __future__ import annotations

from dataclasses import dataclass

from fastrnn.spec import CELLS
from fastrnn.testing import LAYERS

__all__ = ["MODES", "Case"]

MODES = ("inference", "training")


@dataclass(frozen=True)
class Case:
    """One recurrent layer on one input.

    ``steps`` is the longest length. In a ``ragged`` case the lengths spread from a few steps to ``steps``, half of it
    on average, and the input is a ``PackedSequence``. A single step is given its state, as a loop around it would do.
    ``fp32_precision`` is what PyTorch's switch for float32 products of recurrent layers on CPUs is set to:
    ``torch.backends.mkldnn.rnn.fp32_precision``. torch.nn itself takes no notice of it.
    """

    name: str
    cell: str
    batch: int
    steps: int
    input_size: int
    hidden_size: int
    layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    ragged: bool = False
    batch_first: bool = False
    dtype: str = "float32"
    fp32_precision: str = ""

    @property
    def products(self) -> str:
        """The dtype of what is multiplied."""
        return "bfloat16" if self.fp32_precision == "bf16" else self.dtype

    @property
    def gates(self) -> int:
        return len(CELLS[self.cell].gates)

    @property
    def cell_name(self) -> str:
        """As people write it, such as ``RNN relu``."""
        class_name, arguments = LAYERS[self.cell]
        return " ".join([class_name, *arguments.values()])

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Of one direction."""
        return self.proj_size or self.hidden_size

    @property
    def shape(self) -> str:
        """Sizes, and whatever is not one dense float32 layer, such as ``B32-T100-I128-H128-L2-bi``."""
        parts = [f"B{self.batch}", f"T{self.steps}", f"I{self.input_size}", f"H{self.hidden_size}"]
        parts += [f"L{self.layers}"] * (self.layers > 1) + ["bi"] * self.bidirectional
        parts += [f"P{self.proj_size}"] * (self.proj_size > 0) + ["ragged"] * self.ragged
        parts += [self.dtype] * (self.dtype != "float32") + [f"as-{self.fp32_precision}"] * bool(self.fp32_precision)
        return "-".join(parts)

    @property
    def id(self) -> str:
        return f"{self.name}-{self.cell}-{self.shape}"

    @property
    def family(self) -> str:
        """The one group under which the summary counts this case."""
        if self.steps == 1:
            return "single step"
        if self.ragged:
            return "ragged"
        if self.fp32_precision:
            return f"float32 as {self.fp32_precision}"
        if self.dtype != "float32":
            return f"{self.dtype}, one row" if self.dtype == "bfloat16" and self.batch == 1 else self.dtype
        if self.proj_size:
            return "projected"
        if self.layers > 1 or self.bidirectional:
            return "stacked or bidirectional"
        return f"{LAYERS[self.cell].class_name} dense"
