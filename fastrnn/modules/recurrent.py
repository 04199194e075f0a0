"""``torch.nn``'s recurrent modules on fastrnn's layers.

Constructors, attributes, parameters and their initialisation, ``state_dict`` keys, shapes and errors are those of
``torch.nn``; its documentation of the arguments holds here. What differs:

- Under autocast every module computes and returns the autocast dtype, float64 excepted. ``torch.nn`` does so for some.
- Parameters are looked up by name at every call. There is no flat weight buffer: ``flatten_parameters()`` does
  nothing, and a weight replaced by a parametrization, pruning or ``functional_call`` is never stale. Tensors that are
  assigned to ``_flat_weights`` take their place until a weight is replaced by its name, as in ``torch.nn``.
- ``torch.compile`` captures the modules whole, and backward works in ``eval()`` mode on every device.
- A state whose dtype is not that of the input is refused with a message that says so. ``torch.nn`` raises the same
  RuntimeError from wherever the mismatch is first noticed.

What the layers have and ``torch.nn``'s lack, forward and backward, alone or together, stands in ``LSTM``.

The base classes are ``torch.nn.RNNBase`` and ``torch.nn.RNNCellBase``, not ``torch.nn.LSTM`` and its sisters: Dynamo
refuses those by an isinstance check; ``fastrnn.accelerate`` derives from both. No module holds an attribute that its
``torch.nn`` counterpart lacks, so that it only has to change the class.
"""

from typing import Any

import torch
from torch.nn import RNNCellBase

from fastrnn.modules.cells import Cell, CellOfTwo
from fastrnn.modules.layers import Layers

__all__ = ["CIFG", "GRU", "LSTM", "RNN", "CIFGCell", "GRUCell", "LSTMCell", "RNNCell"]


class RNN(Layers):
    """``torch.nn.RNN``: Elman (1990), ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or ReLU if ``nonlinearity='relu'``.

    Call: ``output, h_n = rnn(input, hx=None)``, all of one floating dtype, that of the parameters.
        input: [T, B, I]; [B, T, I] if ``batch_first``; [T, I] unbatched; or a ``PackedSequence``.
        hx, h_n: [num_layers * D, B, H], or [num_layers * D, H] unbatched. ``hx=None`` is zeros.
        output: as input, with D * H in the last dimension.

    Raises:
        ValueError: input of a wrong dtype or number of dimensions.
        RuntimeError: any other size that does not fit, or no time step.
    """

    _noun = " tensor"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        weight_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
        recompute: bool | int = False,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, layer_norm)
        made = {"device": device, "dtype": dtype}
        self._make(f"RNN_{nonlinearity.upper()}", input_size, hidden_size, options, made, kwargs)
        self.nonlinearity = nonlinearity
        self._set_own(self.layer_spec, weight_dropout, recurrent_dropout, zoneout, recompute)


class RNNCell(Cell):
    """``torch.nn.RNNCell``: one step of ``RNN``. ``h' = cell(input, h=None)``.

    input is [B, I] or [I], h and h' are [B, H] or [H], all of the parameters' dtype. Every cell takes ``zoneout`` and
    ``layer_norm`` by name, as ``LSTM``; draws of ``zoneout`` are new at each call.

    Raises:
        ValueError: wrong number of dimensions.
        RuntimeError: any other size or dtype that does not fit, or an unknown ``nonlinearity``.
    """

    __constants__ = [*Cell.__constants__, "nonlinearity"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        *,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
    ) -> None:
        RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity
        self._set_own_of_cell(zoneout, layer_norm)

    @property
    def mode(self) -> str:  # type: ignore[override]
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return "RNN_TANH" if self.nonlinearity == "tanh" else "RNN_RELU"


class GRU(Layers):
    """``torch.nn.GRU``: Cho et al. (2014) with the reset gate after the product, gates stacked as r, z, n::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    Call, shapes and errors as of ``RNN``.
    """

    mode = "GRU"


class GRUCell(Cell):
    """``torch.nn.GRUCell``: one step of ``GRU``. Call, shapes and errors as of ``RNNCell``."""

    mode = "GRU"


class LSTM(Layers):
    """``torch.nn.LSTM``: Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000) and the
    projection of Sak et al. (2014), gates stacked as i, f, g, o::

        i, f, o = sigmoid(W_i. x + b_i. + W_h. h + b_h.)    for each of the three
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f * c + i * g
        h' = o * tanh(c')       and W_hr h' if proj_size > 0

    Call: ``output, (h_n, c_n) = lstm(input, hx=None)``. ``hx`` is a pair ``(h_0, c_0)``; ``h`` is
    [num_layers * D, B, P] with P = proj_size or H, ``c`` [num_layers * D, B, H]; the output's last dimension is D * P.
    Otherwise as ``RNN``.

    Every layer, not only this one, also takes by name, in a call on an input that is not packed:
        lengths: integers [B] from 0 to T, in any order, on the input's device: the steps of each row. The output is
            zero beyond them, ``h_n`` and ``c_n`` are those of the last step, the initial ones of a row without any,
            and the reverse direction begins at each row's own last step: what a ``PackedSequence`` gives, without
            packing.
        reset: bool [T, B], or [B, T] if ``batch_first``: before a step that is marked, the row's state becomes zero, or
            ``reset_state``. What is before a mark and what follows do not depend on each other, in neither direction:
            the reverse one enters each piece at its end. The initial state is that of the first piece, for the reverse
            direction that of the last one; the final state is that by which the direction leaves the row.
        reset_state: shaped as ``hx``, or with a dimension of T behind the first: the states that enter at each step, of
            which the reverse direction takes those at the last step of a piece. It gets its gradient.
        return_states: the call returns a third value, a named tuple ``(h, c)``, or ``(h,)``, of the states after every
            step, [num_layers * D, T, B, P or H] each, through which gradients flow. A packed input has them, too:
            [num_layers * D, N, ...] in the order of its data.
    and by name when it is made:
        weight_dropout: probability of zeroing an element of ``weight_hh`` in training, the same for all steps of a call
            (DropConnect: Merity et al., 2018). Masks come from torch's generator.
        recurrent_dropout: probability of zeroing an element of ``h`` before the products with ``weight_hh``, in
            training: one mask for each row, layer and direction, the same at all steps (Gal and Ghahramani, 2016). What
            else a cell does with ``h``, as a GRU, sees it whole.
        zoneout: probability that a unit's states stay as they were before a step, drawn anew for each unit and step in
            training (Krueger et al., 2017), or one for ``h`` and one for ``c``; in ``eval()`` the states are mixed as
            expected. With a projection for ``c`` alone. Draws follow from torch's generator and the place in the batch,
            whatever the number of threads, and nothing is kept of them.
        layer_norm: the products with ``x`` and with ``h`` are normalised over the units of all gates, a GRU's ``n`` by
            itself, before their biases are added, and the cell's own state on its way to ``h`` (Ba et al., 2016), with
            gains ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` [G*H], ``weight_ln_c_l0`` and ``bias_ln_c_l0`` [H] and so
            on for each layer and direction, last in ``all_weights``. Not with ``recompute``.
        recompute: True: nothing is kept for backward but inputs and outputs; backward runs forward once more, with the
            same results, bit for bit. A number: of so many steps at a time, so that backward of a long sequence, too,
            holds no more than these need; results may differ in rounding where shorter parts are computed by another
            plan. Not for packed inputs, nor for two directions with ``lengths``, ``reset`` or ``zoneout``.
    """

    mode = "LSTM"

    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size


class LSTMCell(CellOfTwo):
    """``torch.nn.LSTMCell``: one step of ``LSTM``. ``h', c' = cell(input, (h, c)=None)``, otherwise as ``RNNCell``."""

    mode = "LSTM"


class CIFG(Layers):
    """An LSTM whose input and forget gate are coupled, i = 1 - f: Greff et al. (2015). A quarter fewer parameters.

    Gates are stacked as f, g, o::

        f, o = sigmoid(W_i. x + b_i. + W_h. h + b_h.)    for each of the two
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f * c + (1 - f) * g
        h' = o * tanh(c')       and W_hr h' if proj_size > 0

    Arguments, call, shapes and errors as of ``LSTM``. ``torch.nn`` has no such layer, so ``restore`` leaves it.
    """

    mode = "CIFG"


class CIFGCell(CellOfTwo):
    """One step of ``CIFG``. ``h', c' = cell(input, (h, c)=None)``, otherwise as ``LSTMCell``."""

    mode = "CIFG"
