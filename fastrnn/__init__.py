"""fastrnn: torch.nn's recurrent layers on fused kernels."""

from fastrnn import functional
from fastrnn.explain import explain
from fastrnn.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from fastrnn.replace import accelerate, restore

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "accelerate", "explain", "functional", "restore"]
