"""Triton kernels of recurrent layers. They know pointers and sizes; ``fastrnn.backends`` knows tensors and plans."""
