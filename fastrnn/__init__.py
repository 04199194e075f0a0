"""fastrnn: torch.nn's recurrent layers on fused kernels."""

from fastrnn import functional
from fastrnn.modules import (
    CIFG,
    GRU,
    LSTM,
    RNN,
    CIFGCell,
    GRUCell,
    LSTMCell,
    RNNCell,
    accelerate,
    explain,
    freeze,
    restore,
)

__all__ = [
    "CIFG",
    "GRU",
    "LSTM",
    "RNN",
    "CIFGCell",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "accelerate",
    "explain",
    "freeze",
    "functional",
    "restore",
]
