"""``torch.nn``'s recurrent modules on fastrnn's layers.

Constructors, attributes, parameters and their initialisation, ``state_dict`` keys, shapes and errors are those of
``torch.nn``; its documentation of the arguments holds here. What differs:

- Under autocast every module computes and returns the autocast dtype, float64 excepted. ``torch.nn`` does so for some.
- Parameters are looked up by name at every call. There is no flat weight buffer: ``flatten_parameters()`` does
  nothing, and a weight replaced by a parametrization, pruning or ``functional_call`` is never stale.
- ``torch.compile`` captures the modules whole, and backward works in ``eval()`` mode on every device.
- A state whose dtype is not that of the input is refused with a message that says so. ``torch.nn`` raises the same
  RuntimeError from wherever the mismatch is first noticed.

The base classes are ``torch.nn.RNNBase`` and ``torch.nn.RNNCellBase``, not ``torch.nn.LSTM`` and its sisters: Dynamo
refuses those by an isinstance check. No module holds an attribute that its ``torch.nn`` counterpart lacks, so that
``fastrnn.accelerate`` only has to change the class.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, RNNBase, RNNCellBase
from torch.nn.utils.rnn import PackedSequence

from fastrnn.dispatch import infer, infer_step
from fastrnn.functional import autocast_enabled, stack, step

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Tensor, ...]

_CELL_WEIGHTS = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


def _weights(module: Module, names: list[str]) -> list[Tensor]:
    parameters: dict[str, Any] = module._parameters
    try:
        return [parameters[name] for name in names]  # a tenth of the time of getattr on a Module
    except KeyError:  # parametrized, pruned or replicated: a property or a plain attribute
        return [getattr(module, name) for name in names]


def _kind(mode: str) -> str:
    """``RNN``, ``LSTM`` or ``GRU``, as torch.nn's messages name the module."""
    return mode.partition("_")[0]


def _refuse_proj_size(kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class _Layers(RNNBase):
    """What RNN, LSTM and GRU share. ``state`` is the tuple of a cell's states, ``hx`` what the user holds."""

    # RNNBase mirrors the parameters in a list with weak references. Without the mirror, Module's own methods do.
    __setattr__ = Module.__setattr__  # type: ignore[assignment]
    __setstate__ = Module.__setstate__
    _apply = Module._apply
    _replicate_for_data_parallel = Module._replicate_for_data_parallel

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    @property
    def _flat_weights(self) -> list[Tensor]:  # type: ignore[override]
        return _weights(self, self._flat_weights_names)

    def _init_flat_weights(self) -> None:
        pass

    def _update_flat_weights(self) -> None:
        pass

    def flatten_parameters(self) -> None:
        """Does nothing: there is no flat buffer that parameters could leave."""

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """As ``torch.nn``: ``input`` [T, B, I], [B, T, I], [T, I] or packed, to the output and the final ``hx``."""
        if not (torch.compiler.is_compiling() or (self.dropout and self.training)):
            result = infer(
                self._parameters,
                self._flat_weights_names,
                input,
                hx,
                self.mode.lower(),
                self.num_layers,
                self.bidirectional,
                self.bias,
                self.batch_first,
            )
            if result is not None:
                return result
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        dim = input.dim()
        if dim == 3:
            y, state = self._run(input, () if hx is None else self._state(hx, dim))
        elif dim == 2:
            batch_dim = 0 if self.batch_first else 1
            state = () if hx is None else self._state(hx, dim)
            y, state = self._run(input.unsqueeze(batch_dim), tuple([s.unsqueeze(1) for s in state]))
            y, state = y.squeeze(batch_dim), tuple([s.squeeze(1) for s in state])
        else:
            kind = _kind(self.mode)
            noun = " tensor" if kind == "RNN" else ""
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {dim}D{noun} instead")
        return y, self._hx(state)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        x, batch_sizes, sorted_indices, unsorted_indices = input
        if x.dim() != 2:
            self.check_input(x, batch_sizes)
        state = () if hx is None else self._state(self.permute_hidden(hx, sorted_indices))
        y, state = self._run(x, state, batch_sizes)
        output = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        return output, self.permute_hidden(self._hx(state), unsorted_indices)

    def _run(self, x: Tensor, state: State, batch_sizes: Tensor | None = None) -> tuple[Tensor, State]:
        weights = _weights(self, self._flat_weights_names)
        if x.dtype != weights[0].dtype or x.size(-1) != self.input_size:
            self.check_input(x, batch_sizes)
        if state:
            self._check_state(x, state, batch_sizes)
        if batch_sizes is None and x.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return stack(
            self.mode.lower(),
            x,
            state,
            weights,
            num_layers=self.num_layers,
            directions=2 if self.bidirectional else 1,
            has_bias=self.bias,
            dropout=self.dropout if self.training else 0.0,
            batch_first=self.batch_first,
            batch_sizes=batch_sizes,
        )

    def _check_state(self, x: Tensor, state: State, batch_sizes: Tensor | None) -> None:
        rows = self.num_layers * (2 if self.bidirectional else 1)
        batch = int(batch_sizes[0]) if batch_sizes is not None else x.size(0 if self.batch_first else 1)
        width = self.proj_size or self.hidden_size
        for s in state:
            if s.shape != (rows, batch, width):
                self.check_forward_args(x, self._hx(state), batch_sizes)
            if s.dtype != x.dtype and not autocast_enabled(x):
                raise RuntimeError(f"Expected hx of the input's dtype {x.dtype}, got {s.dtype}")
            width = self.hidden_size

    def _state(self, hx: Any, dim: int | None = None) -> State:
        if dim is not None and hx.dim() != dim:
            kind = "batched" if dim == 3 else "unbatched"
            raise RuntimeError(
                f"For {kind} {dim}-D input, hx should also be {dim}-D but got {hx.dim()}-D tensor",
            )
        return (hx,)

    def _hx(self, state: State) -> Any:
        return state[0]


class RNN(_Layers):
    """``torch.nn.RNN``: Elman (1990), ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or ReLU if ``nonlinearity='relu'``.

    Call: ``output, h_n = rnn(input, hx=None)``, all of one floating dtype, that of the parameters.
        input: [T, B, I]; [B, T, I] if ``batch_first``; [T, I] unbatched; or a ``PackedSequence``.
        hx, h_n: [num_layers * D, B, H], or [num_layers * D, H] unbatched. ``hx=None`` is zeros.
        output: as input, with D * H in the last dimension.

    Raises:
        ValueError: input of a wrong dtype or number of dimensions.
        RuntimeError: any other size that does not fit, or no time step.
    """

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
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        _refuse_proj_size(kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, *options, device=device, dtype=dtype, **kwargs
        )
        self.nonlinearity = nonlinearity


class GRU(_Layers):
    """``torch.nn.GRU``: Cho et al. (2014) with the reset gate after the product, gates stacked as r, z, n::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    Call, shapes and errors as of ``RNN``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        _refuse_proj_size(kwargs)
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", input_size, hidden_size, *options, device=device, dtype=dtype, **kwargs)


class LSTM(_Layers):
    """``torch.nn.LSTM``: Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000) and the
    projection of Sak et al. (2014), gates stacked as i, f, g, o::

        i, f, o = sigmoid(W_i. x + b_i. + W_h. h + b_h.)    for each of the three
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f * c + i * g
        h' = o * tanh(c')       and W_hr h' if proj_size > 0

    Call: ``output, (h_n, c_n) = lstm(input, hx=None)``. ``hx`` is a pair ``(h_0, c_0)``; ``h`` is
    [num_layers * D, B, P] with P = proj_size or H, ``c`` [num_layers * D, B, H]; the output's last dimension is D * P.
    Otherwise as ``RNN``.
    """

    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = torch.nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__("LSTM", input_size, hidden_size, *options, device=device, dtype=dtype, **kwargs)

    def _state(self, hx: Any, dim: int | None = None) -> State:
        if dim is not None and (hx[0].dim() != dim or hx[1].dim() != dim):
            kind = "batched" if dim == 3 else "unbatched"
            raise RuntimeError(
                f"For {kind} {dim}-D input, hx and cx should also be {dim}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        if len(hx) != 2:
            raise RuntimeError("lstm expects two hidden states")
        return tuple(hx)

    def _hx(self, state: State) -> State:
        return state


class _Cell(RNNCellBase):
    """What the cells share. ``mode`` as in ``RNNBase``."""

    mode: str

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As ``torch.nn``: ``input`` [B, I] or [I] and the state to the new state."""
        if not torch.compiler.is_compiling():
            names = _CELL_WEIGHTS if self.bias else _CELL_WEIGHTS[:2]
            result = infer_step(self._parameters, names, input, hx, self.mode.lower(), self.bias)
            if result is not None:
                return result
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"{_kind(self.mode)}Cell: Expected input to be 1D or 2D, got {dim}D instead")
        state = () if hx is None else self._state(hx)
        if dim == 2:
            return self._hx(self._run(input, state))
        state = self._run(input.unsqueeze(0), tuple([s.unsqueeze(0) for s in state]))
        return self._hx(tuple([s.squeeze(0) for s in state]))

    def _run(self, x: Tensor, state: State) -> State:
        weights = _weights(self, _CELL_WEIGHTS if self.bias else _CELL_WEIGHTS[:2])
        if x.size(1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {x.size(1)} expected {self.input_size}")
        if x.dtype != weights[0].dtype and not autocast_enabled(x):
            raise RuntimeError(f"Expected input of the weights' dtype {weights[0].dtype}, got {x.dtype}")
        for k, s in enumerate(state):
            if s.shape != (x.size(0), self.hidden_size):
                self._refuse_state(x, k, s)
            if s.dtype != x.dtype and not autocast_enabled(x):
                raise RuntimeError(f"Expected hx of the input's dtype {x.dtype}, got {s.dtype}")
        return step(self.mode.lower(), x, state, weights, has_bias=self.bias)

    def _refuse_state(self, x: Tensor, k: int, s: Tensor) -> None:
        if s.size(0) != x.size(0):
            raise RuntimeError(f"Input batch size {x.size(0)} doesn't match hidden{k} batch size {s.size(0)}")
        got = s.size(1) if s.dim() > 1 else "none"
        raise RuntimeError(f"hidden{k} has inconsistent hidden_size: got {got}, expected {self.hidden_size}")

    def _state(self, hx: Any) -> State:
        if hx.dim() not in (1, 2):
            raise ValueError(f"{_kind(self.mode)}Cell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        return (hx,)

    def _hx(self, state: State) -> Any:
        return state[0]


class RNNCell(_Cell):
    """``torch.nn.RNNCell``: one step of ``RNN``. ``h' = cell(input, h=None)``.

    input is [B, I] or [I], h and h' are [B, H] or [H], all of the parameters' dtype.

    Raises:
        ValueError: wrong number of dimensions.
        RuntimeError: any other size or dtype that does not fit, or an unknown ``nonlinearity``.
    """

    __constants__ = torch.nn.RNNCell.__constants__

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    @property
    def mode(self) -> str:  # type: ignore[override]
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return "RNN_TANH" if self.nonlinearity == "tanh" else "RNN_RELU"


class GRUCell(_Cell):
    """``torch.nn.GRUCell``: one step of ``GRU``. Call, shapes and errors as of ``RNNCell``."""

    mode = "GRU"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)


class LSTMCell(_Cell):
    """``torch.nn.LSTMCell``: one step of ``LSTM``. ``h', c' = cell(input, (h, c)=None)``, otherwise as ``RNNCell``."""

    mode = "LSTM"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def _state(self, hx: Any) -> State:
        for k, s in enumerate(hx):
            if s.dim() not in (1, 2):
                raise ValueError(f"LSTMCell: Expected hx[{k}] to be 1D or 2D, got {s.dim()}D instead")
        if len(hx) != 2:
            raise RuntimeError("lstm_cell expects two hidden states")
        return tuple(hx)

    def _hx(self, state: State) -> State:
        return state
