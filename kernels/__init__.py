"""Triton kernels of recurrent layers. They know pointers and sizes; ``fastrnn.backends`` knows tensors and plans."""

# By name here, where no Triton is loaded; ``cells.py`` has the functions.
CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru", "cifg")
