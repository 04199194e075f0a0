"""What all cells of the modules share: one step of a layer."""

from typing import Any

import torch
from torch import Tensor
from torch.jit import is_scripting
from torch.nn import Parameter
from torch.nn.modules.rnn import RNNCellBase

from fastrnn.checks import autocast_enabled
from fastrnn.functional import step, zoneout_seed
from fastrnn.modules import fx, onnx, scripted
from fastrnn.modules.layers import hx_of, kind_of, weights_of
from fastrnn.modules.options import OwnOptions, begin_gains
from fastrnn.ops.dispatch import call_cell
from fastrnn.spec import CELLS, NONE, CellSpec, LayerSpec, Noise

__all__ = ["Cell", "CellOfTwo"]

State = tuple[Tensor, ...]

# The names of a direction's weights are those of every cell.
_WITH_BIAS = list(LayerSpec("").weight_names)
_WITHOUT_BIAS = list(LayerSpec("", has_bias=False).weight_names)


class Cell(RNNCellBase, scripted.ScriptedCell, OwnOptions):
    """What all cells share. A class for another cell of ``CELLS`` states its ``mode``, the cell's name in capitals.

    ``forward`` has the types of a cell of one state, for TorchScript; ``CellOfTwo`` is for the others.
    """

    mode: str
    __constants__ = [*RNNCellBase.__constants__, "mode"]
    __jit_unused_properties__ = ["cell_spec", "layer_spec", "mode", scripted.WEIGHTS]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
    ) -> None:
        gates = len(self.cell_spec.gates)
        RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=gates, device=device, dtype=dtype)
        self._set_own_of_cell(zoneout, layer_norm)

    def _set_own_of_cell(self, zoneout: float | tuple[float, float], layer_norm: bool) -> None:
        if layer_norm:
            self.layer_norm = True
            spec, w = self.layer_spec, self.weight_hh
            shapes = spec.weight_shapes(self.input_size, self.hidden_size, self.hidden_size)
            for name in spec.norm_names:
                setattr(self, name, Parameter(w.new_empty(shapes[name])))
            begin_gains(self)
        self._set_own(self.layer_spec, zoneout=zoneout)

    def reset_parameters(self) -> None:
        """As ``torch.nn``; gains become 1, and the bias of a normalised state 0."""
        super().reset_parameters()
        begin_gains(self)

    def extra_repr(self) -> str:
        return self._with_own(super().extra_repr())

    @property
    def cell_spec(self) -> CellSpec:
        return CELLS[self.mode.lower()]

    @property
    def layer_spec(self) -> LayerSpec:
        return LayerSpec(self.mode.lower(), has_bias=bool(self.bias), layer_norm=self.layer_norm)

    @property
    def _script_weights(self) -> list[Tensor]:
        return weights_of(self, _WITH_BIAS if self.bias else _WITHOUT_BIAS)

    def __prepare_scriptable__(self) -> "Cell":
        return scripted.prepare(self, CellOfTwo.forward if len(self.cell_spec.states) > 1 else Cell.forward)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """As ``torch.nn``: ``input`` [B, I] or [I] and the state to the new state."""
        if is_scripting():
            return self._scripted_step(input, hx, None)[0]
        return self._step(input, hx)

    def _step(self, input: Tensor, hx: Any) -> Any:
        if not (torch.compiler.is_compiling() or self.zoneout or self.layer_norm):
            names = _WITH_BIAS if self.bias else _WITHOUT_BIAS
            result = call_cell(self._parameters, names, input, hx, self.mode.lower(), names is _WITH_BIAS)
            if result is not None:
                return result
        if tracer := fx.tracer_of(input, hx):
            return fx.record(tracer, self, input, hx)
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"{kind_of(self.mode)}Cell: Expected input to be 1D or 2D, got {dim}D instead")
        state = () if hx is None else self._state(hx)
        if dim == 2:
            return hx_of(self._run(input, state))
        state = self._run(input.unsqueeze(0), tuple([s.unsqueeze(0) for s in state]))
        return hx_of(tuple([s.squeeze(0) for s in state]))

    def _run(self, x: Tensor, state: State) -> State:
        spec = self.layer_spec
        weights = weights_of(self, spec.weight_names)
        self._check_input(x, state)
        if x.dtype != weights[0].dtype and not autocast_enabled(x):
            raise RuntimeError(f"Expected input of the weights' dtype {weights[0].dtype}, got {x.dtype}")
        run = onnx.step if onnx.exporting() else step
        return run(spec, x, state, weights, self._noise(x))

    def _noise(self, x: Tensor) -> Noise:
        if not self.zoneout:
            return NONE
        of_h, of_c = self._zoneout_of_states()
        return Noise(None, of_h, of_c, zoneout_seed(x) if self.training else None)

    def _check_input(self, x: Tensor, state: State) -> None:
        if torch.jit.is_tracing():
            return  # sizes are free in a traced program, and the operators check them when it runs
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


class CellOfTwo(Cell):
    """What cells of two states share."""

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``torch.nn``: ``input`` [B, I] or [I] and the states to the new states."""
        if is_scripting():
            h, c = (None, None) if hx is None else hx
            new = self._scripted_step(input, h, c)
            return new[0], new[1]
        return self._step(input, hx)
