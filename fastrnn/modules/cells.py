"""``torch.nn``'s cells, one step of a layer each. What ``layers.py`` says of the modules holds here too."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.rnn import RNNCellBase

from fastrnn.functional import autocast_enabled, step
from fastrnn.modules.layers import hx_of, kind_of, weights_of
from fastrnn.ops.dispatch import infer_step
from fastrnn.spec import CELLS, CellSpec, LayerSpec

__all__ = ["CIFGCell", "Cell", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Tensor, ...]

_WITH_BIAS = list(LayerSpec("").weight_names)
_WITHOUT_BIAS = list(LayerSpec("", has_bias=False).weight_names)


class Cell(RNNCellBase):
    """What all cells share. A class for another cell of ``CELLS`` states its ``mode``, the cell's name in capitals."""

    mode: str

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        gates = len(self.cell_spec.gates)
        super().__init__(input_size, hidden_size, bias, num_chunks=gates, device=device, dtype=dtype)

    @property
    def cell_spec(self) -> CellSpec:
        return CELLS[self.mode.lower()]

    @property
    def layer_spec(self) -> LayerSpec:
        return LayerSpec(self.mode.lower(), has_bias=self.bias)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As ``torch.nn``: ``input`` [B, I] or [I] and the state to the new state."""
        if not torch.compiler.is_compiling():
            result = infer_step(self._parameters, self._weight_names, input, hx, self.mode.lower(), self.bias)
            if result is not None:
                return result
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"{kind_of(self.mode)}Cell: Expected input to be 1D or 2D, got {dim}D instead")
        state = () if hx is None else self._state(hx)
        if dim == 2:
            return hx_of(self._run(input, state))
        state = self._run(input.unsqueeze(0), tuple([s.unsqueeze(0) for s in state]))
        return hx_of(tuple([s.squeeze(0) for s in state]))

    @property
    def _weight_names(self) -> list[str]:
        return _WITH_BIAS if self.bias else _WITHOUT_BIAS

    def _run(self, x: Tensor, state: State) -> State:
        weights = weights_of(self, self._weight_names)
        self._check_input(x, state)
        if x.dtype != weights[0].dtype and not autocast_enabled(x):
            raise RuntimeError(f"Expected input of the weights' dtype {weights[0].dtype}, got {x.dtype}")
        return step(self.layer_spec, x, state, weights)

    def _check_input(self, x: Tensor, state: State) -> None:
        if x.size(1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {x.size(1)} expected {self.input_size}")
        for k, s in enumerate(state):
            if s.shape != (x.size(0), self.hidden_size):
                self._refuse_state(x, k, s)
            if s.dtype != x.dtype and not autocast_enabled(x):
                raise RuntimeError(f"Expected hx of the input's dtype {x.dtype}, got {s.dtype}")

    def _refuse_state(self, x: Tensor, k: int, s: Tensor) -> None:
        if s.size(0) != x.size(0):
            raise RuntimeError(f"Input batch size {x.size(0)} doesn't match hidden{k} batch size {s.size(0)}")
        got = s.size(1) if s.dim() > 1 else "none"
        raise RuntimeError(f"hidden{k} has inconsistent hidden_size: got {got}, expected {self.hidden_size}")

    def _state(self, hx: Any) -> State:
        names = self.cell_spec.states
        several = len(names) > 1
        state = tuple(hx) if several else (hx,)
        for k, s in enumerate(state):
            if s.dim() not in (1, 2):
                name = f"hx[{k}]" if several else "hidden"
                kind = kind_of(self.mode)
                raise ValueError(f"{kind}Cell: Expected {name} to be 1D or 2D, got {s.dim()}D instead")
        if len(state) != len(names):
            raise RuntimeError(f"{self.mode.lower()}_cell expects two hidden states")
        return state


class RNNCell(Cell):
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
        RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    @property
    def mode(self) -> str:  # type: ignore[override]
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return "RNN_TANH" if self.nonlinearity == "tanh" else "RNN_RELU"


class GRUCell(Cell):
    """``torch.nn.GRUCell``: one step of ``GRU``. Call, shapes and errors as of ``RNNCell``."""

    mode = "GRU"


class LSTMCell(Cell):
    """``torch.nn.LSTMCell``: one step of ``LSTM``. ``h', c' = cell(input, (h, c)=None)``, otherwise as ``RNNCell``."""

    mode = "LSTM"


class CIFGCell(Cell):
    """One step of ``CIFG``. ``h', c' = cell(input, (h, c)=None)``, otherwise as ``LSTMCell``."""

    mode = "CIFG"
