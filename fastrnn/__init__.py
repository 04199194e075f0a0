"""fastrnn: torch.nn's recurrent layers on fused kernels."""

from fastrnn import functional
from fastrnn.explain import explain
from fastrnn.frozen import freeze
from fastrnn.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from fastrnn.replace import accelerate, restore

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "accelerate",
    "explain",
    "freeze",
    "functional",
    "restore",
]
