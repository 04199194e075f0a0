"""The cells. Each is two pure functions on tuples of tiles, one element for each gate or state.

    forward   gx, gh, state, norms          -> new state, kept
    backward  kept, new, old, dstate, norms -> dgx, dgh, dold, doutput

``gx`` and ``gh`` are the products of input and hidden state with their biases, in PyTorch's order of gates. ``state``
is ``h`` and what only the cell sees. ``kept`` are the values for backward beside the states. ``dold`` is the gradient
of the old state without what passes through the recurrent product. What only the cell sees is the ``output`` of
``norms`` on its way to ``h``, of which ``doutput`` is the gradient; both are for ``layer_norm`` alone to look into.

The time loops take these functions as constants. To add a cell, write ``<name>_forward`` and ``<name>_backward`` and
name it in ``CELLS``.
"""

import triton
import triton.language as tl

from . import CELLS
from .layer_norm import output, through_output
from .math import d_sigmoid, d_tanh, sigmoid, tanh


@triton.jit
def lstm_forward(gx, gh, state, norms):
    h, c = state
    i = sigmoid(gx[0] + gh[0])
    f = sigmoid(gx[1] + gh[1])
    g = tanh(gx[2] + gh[2])
    o = sigmoid(gx[3] + gh[3])
    c = f * c + i * g
    return (o * tanh(output(c, norms)), c), (i, f, g, o)


@triton.jit
def lstm_backward(kept, new, old, dstate, norms):
    i, f, g, o = kept
    dh, dc = dstate
    tanh_c = tanh(output(new[1], norms))
    doutput = dh * o * d_tanh(tanh_c)
    dc += through_output(doutput, new[1], norms)
    di = dc * g * d_sigmoid(i)
    df = dc * old[1] * d_sigmoid(f)
    dg = dc * i * d_tanh(g)
    do = dh * tanh_c * d_sigmoid(o)
    return (di, df, dg, do), (di, df, dg, do), (dh * 0, dc * f), (doutput,)


@triton.jit
def gru_forward(gx, gh, state, norms):
    r = sigmoid(gx[0] + gh[0])
    z = sigmoid(gx[1] + gh[1])
    n = tanh(gx[2] + r * gh[2])
    return (n + z * (state[0] - n),), (r, z, n, gh[2])


@triton.jit
def gru_backward(kept, new, old, dstate, norms):
    r, z, n, gh_n = kept
    dh = dstate[0]
    dn = dh * (1 - z) * d_tanh(n)
    dr = dn * gh_n * d_sigmoid(r)
    dz = dh * (old[0] - n) * d_sigmoid(z)
    return (dr, dz, dn), (dr, dz, dn * r), (dh * z,), ()


@triton.jit
def cifg_forward(gx, gh, state, norms):
    h, c = state
    f = sigmoid(gx[0] + gh[0])
    g = tanh(gx[1] + gh[1])
    o = sigmoid(gx[2] + gh[2])
    c = f * c + (1 - f) * g
    return (o * tanh(output(c, norms)), c), (f, g, o)


@triton.jit
def cifg_backward(kept, new, old, dstate, norms):
    f, g, o = kept
    dh, dc = dstate
    tanh_c = tanh(output(new[1], norms))
    doutput = dh * o * d_tanh(tanh_c)
    dc += through_output(doutput, new[1], norms)
    df = dc * (old[1] - g) * d_sigmoid(f)
    dg = dc * (1 - f) * d_tanh(g)
    do = dh * tanh_c * d_sigmoid(o)
    return (df, dg, do), (df, dg, do), (dh * 0, dc * f), (doutput,)


@triton.jit
def rnn_tanh_forward(gx, gh, state, norms):
    return (tanh(gx[0] + gh[0]),), ()


@triton.jit
def rnn_tanh_backward(kept, new, old, dstate, norms):
    da = dstate[0] * d_tanh(new[0])
    return (da,), (da,), (da * 0,), ()


@triton.jit
def rnn_relu_forward(gx, gh, state, norms):
    a = gx[0] + gh[0]
    return (tl.where(a <= 0, 0.0, a),), ()  # NaN stays NaN


@triton.jit
def rnn_relu_backward(kept, new, old, dstate, norms):
    da = dstate[0] * (new[0] > 0)
    return (da,), (da,), (da * 0,), ()


FORWARD = {cell: globals()[f"{cell}_forward"] for cell in CELLS}
BACKWARD = {cell: globals()[f"{cell}_backward"] for cell in CELLS}
