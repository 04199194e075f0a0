"""Activations on tiles, and their derivatives from their outputs.

``1 / (1 + 2^(-x log2 e))`` is the shortest form that is safe for every x: a power too large is infinity, and
1 / infinity is zero.
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp2(-1.4426950408889634 * x))


@triton.jit
def tanh(x):
    wide = 2 / (1 + tl.exp2(-2.8853900817779268 * x)) - 1
    if x.dtype == tl.float32:
        # The subtraction loses the small results. Minimax polynomial for |x| <= 0.6, relative error 8.4e-8.
        s = x * x
        p = ((0.015612626 * s - 0.052211803) * s + 0.13313117) * s - 0.33332598
        return tl.where(tl.abs(x) < 0.6, x + x * s * p, wide)
    return wide


@triton.jit
def d_sigmoid(y):
    return y * (1 - y)


@triton.jit
def d_tanh(y):
    return 1 - y * y
