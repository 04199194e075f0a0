"""What a file of ``fastrnn.export`` computes, in PyTorch: the values that its 8 and 16 bits stand for, in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastrnn.exporting.chain import Chain
from fastrnn.exporting.describe import Operation
from fastrnn.exporting.links import POOLINGS, Affine, Pool
from fastrnn.exporting.tensors import read
from fastrnn.modules.counterparts import FASTRNN
from fastrnn.modules.layers import Layers
from fastrnn.spec import CELLS

__all__ = ["load", "rebuilt"]

_ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(-1),
}


def load(path: Path) -> Chain:
    tensors, metadata = read(path)
    operations, k = [], 0
    while str(k) in metadata:
        own = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{k}.")}
        operations.append(Operation(metadata[str(k)], own))
        k += 1
    return rebuilt(operations)


def rebuilt(operations: Sequence[Operation]) -> Chain:
    """Batches come first."""
    return Chain([_link(op.text, op.tensors) for op in operations]).eval().requires_grad_(False)


def _link(text: str, tensors: dict[str, Tensor]) -> nn.Module:
    kind, _, option = text.partition(" directions=")
    if kind in _ACTIVATIONS:
        return _ACTIVATIONS[kind]()
    if kind in POOLINGS:
        return Pool(kind, int(option or 1))
    values = {name: _widened(name, tensors) for name in tensors if not name.startswith("scale_")}
    if kind == "affine":
        return Affine(values["scale"], values["shift"])
    if kind in CELLS:
        return _layer(kind, int(option), values)
    scaled = {name: value for name, value in values.items() if name != "scale"}
    outputs, inputs = scaled["weight"].shape
    module = nn.Embedding(outputs, inputs) if kind == "embedding" else nn.Linear(inputs, outputs, "bias" in scaled)
    module.load_state_dict(scaled)
    return module


def _widened(name: str, tensors: dict[str, Tensor]) -> Tensor:
    scale = tensors.get(name.replace("weight", "scale"))
    value = tensors[name].float()
    return value if scale is None or not name.startswith("weight") else value * scale[:, None]


def _layer(cell: str, directions: int, values: dict[str, Tensor]) -> nn.Module:
    cls: Any = next(c for c in FASTRNN if issubclass(c, Layers) and cell.startswith(_cell_of(c)))
    w_ih, w_hh = values["weight_ih"], values["weight_hh"]
    hidden, outputs = len(w_ih) // len(CELLS[cell].gates), w_hh.size(1)
    options: dict[str, Any] = {"bias": "bias_ih" in values, "bidirectional": directions == 2, "batch_first": True}
    if outputs != hidden:
        options["proj_size"] = outputs
    if cell.startswith("rnn_"):
        options["nonlinearity"] = cell.removeprefix("rnn_")
    layer = cls(w_ih.size(1), hidden, **options)
    for name, value in values.items():
        plain, reverse, _ = name.partition("_reverse")
        setattr(layer, f"{plain}_l0{reverse}", nn.Parameter(value))
    return layer


def _cell_of(cls: Any) -> str:
    """The cell's name, or what those of RNN begin with."""
    return getattr(cls, "mode", "RNN").lower()
