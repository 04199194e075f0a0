"""``torch.nn``'s recurrent modules; swapping, freezing and explaining them."""

from fastrnn.modules.cells import Cell, CIFGCell, GRUCell, LSTMCell, RNNCell
from fastrnn.modules.explain import explain
from fastrnn.modules.frozen import freeze
from fastrnn.modules.layers import CIFG, GRU, LSTM, RNN, Layers
from fastrnn.modules.replace import accelerate, restore

__all__ = [
    "CIFG",
    "GRU",
    "LSTM",
    "RNN",
    "CIFGCell",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "Layers",
    "RNNCell",
    "accelerate",
    "explain",
    "freeze",
    "restore",
]
