"""fastrnn: torch.nn's recurrent layers on fused kernels."""

from fastrnn import functional
from fastrnn.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, accelerate, explain, freeze, restore

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
