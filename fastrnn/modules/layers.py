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

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter, RNNBase
from torch.nn.utils.rnn import PackedSequence

from fastrnn.functional import autocast_enabled, stack
from fastrnn.ops.dispatch import infer
from fastrnn.spec import CELLS, CellSpec, LayerSpec

__all__ = ["CIFG", "GRU", "LSTM", "RNN", "Layers"]

State = tuple[Tensor, ...]


def weights_of(module: Module, names: Sequence[str]) -> list[Tensor]:
    parameters: dict[str, Any] = module._parameters
    try:
        return [parameters[name] for name in names]  # a tenth of the time of getattr on a Module
    except KeyError:  # parametrized, pruned or replicated: a property or a plain attribute
        return [getattr(module, name) for name in names]


def kind_of(mode: str) -> str:
    """``RNN``, ``LSTM`` or ``GRU``, as torch.nn's messages name the module."""
    return mode.partition("_")[0]


def hx_of(state: State) -> Any:
    """What the user holds: a tensor, or a tuple where the cell has several states."""
    return state if len(state) > 1 else state[0]


class Layers(RNNBase):
    """What all layers share. ``state`` is the tuple of a cell's states, ``hx`` what the user holds.

    A class for another cell of ``CELLS`` states its ``mode``, the cell's name in capitals.
    """

    mode: str
    # RNNBase mirrors the parameters in a list with weak references. Without the mirror, Module's own methods do.
    __setattr__ = Module.__setattr__  # type: ignore[assignment]
    __setstate__ = Module.__setstate__
    _apply = Module._apply
    _replicate_for_data_parallel = Module._replicate_for_data_parallel

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int | None = None,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        self._make(type(self).mode, input_size, hidden_size, options, {"device": device, "dtype": dtype}, kwargs)

    def _make(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        options: tuple[Any, ...],
        made: dict[str, Any],
        unknown: dict[str, Any],
    ) -> None:
        """Attributes and parameters. ``options`` are those from num_layers to proj_size."""
        *others, proj_size = options
        if proj_size is not None and not CELLS[mode.lower()].projectable:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        # torch.nn checks the arguments and names the parameters, but knows its own modes only: the one that takes all
        # options stands for any other.
        template = vars(torch.nn.LSTM(input_size, hidden_size, *others, proj_size or 0, device="meta", **unknown))
        Module.__init__(self)
        new = vars(self)
        new |= {name: value for name, value in template.items() if name not in new and name != "_flat_weights"}
        self.mode = mode
        self._flat_weight_refs = []
        spec = self.layer_spec
        outputs = self.proj_size or hidden_size
        for k, names in enumerate(self._all_weights):
            inputs = input_size if k < spec.directions else spec.directions * outputs
            shapes = spec.weight_shapes(inputs, hidden_size, outputs).values()
            for name, shape in zip(names, shapes, strict=True):
                setattr(self, name, Parameter(torch.empty(shape, **made)))
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    @property
    def cell_spec(self) -> CellSpec:
        return CELLS[self.mode.lower()]

    @property
    def layer_spec(self) -> LayerSpec:
        """Of each layer of the stack."""
        directions = 2 if self.bidirectional else 1
        return LayerSpec(self.mode.lower(), directions, self.bias, self.batch_first, self.proj_size > 0)

    @property
    def _flat_weights(self) -> list[Tensor]:  # type: ignore[override]
        return weights_of(self, self._flat_weights_names)

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
            raise ValueError(f"{kind_of(self.mode)}: Expected input to be 2D or 3D, got {dim}D{self._noun} instead")
        return y, hx_of(state)

    _noun = ""  # for a tensor, in torch.nn's message

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        x, batch_sizes, sorted_indices, unsorted_indices = input
        if x.dim() != 2:
            self.check_input(x, batch_sizes)
        state = () if hx is None else self._state(self.permute_hidden(hx, sorted_indices))
        y, state = self._run(x, state, batch_sizes)
        output = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        return output, self.permute_hidden(hx_of(state), unsorted_indices)

    def _run(self, x: Tensor, state: State, batch_sizes: Tensor | None = None) -> tuple[Tensor, State]:
        weights = weights_of(self, self._flat_weights_names)
        if x.dtype != weights[0].dtype or x.size(-1) != self.input_size:
            self.check_input(x, batch_sizes)
        if state:
            self._check_state(x, state, batch_sizes)
        if batch_sizes is None and x.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        dropout = self.dropout if self.training else 0.0
        return stack(self.layer_spec, x, state, weights, batch_sizes, num_layers=self.num_layers, dropout=dropout)

    def _check_state(self, x: Tensor, state: State, batch_sizes: Tensor | None) -> None:
        rows = self.num_layers * (2 if self.bidirectional else 1)
        batch = int(batch_sizes[0]) if batch_sizes is not None else x.size(0 if self.batch_first else 1)
        width = self.proj_size or self.hidden_size
        for s in state:
            if s.shape != (rows, batch, width):
                self.check_forward_args(x, hx_of(state), batch_sizes)
            if s.dtype != x.dtype and not autocast_enabled(x):
                raise RuntimeError(f"Expected hx of the input's dtype {x.dtype}, got {s.dtype}")
            width = self.hidden_size

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """As ``torch.nn``: raises RuntimeError where a size does not fit."""
        self.check_input(input, batch_sizes)
        state = self._state(hidden)
        rows, batch, width = self.get_expected_hidden_size(input, batch_sizes)
        for k, s in enumerate(state):
            name = f"hidden[{k}]" if len(state) > 1 else "hidden"
            expected = (rows, batch, self.hidden_size if k else width)
            self.check_hidden_size(s, expected, f"Expected {name} size {{}}, got {{}}")

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """As ``torch.nn``: the rows of the batch in another order."""
        if permutation is None:
            return hx
        return hx_of(tuple([s.index_select(1, permutation) for s in self._state(hx)]))

    def _state(self, hx: Any, dim: int | None = None) -> State:
        names = self.cell_spec.states
        if len(names) == 1:
            if dim is not None and hx.dim() != dim:
                kind = "batched" if dim == 3 else "unbatched"
                message = f"For {kind} {dim}-D input, hx should also be {dim}-D but got {hx.dim()}-D tensor"
                raise RuntimeError(message)
            return (hx,)
        if dim is not None and any(hx[k].dim() != dim for k in range(len(names))):
            kind = "batched" if dim == 3 else "unbatched"
            got = ", ".join(f"{hx[k].dim()}-D" for k in range(len(names)))
            every = " and ".join(f"{name}x" for name in names)
            raise RuntimeError(f"For {kind} {dim}-D input, {every} should also be {dim}-D but got ({got}) tensors")
        if len(hx) != len(names):
            raise RuntimeError(f"{self.mode.lower()} expects two hidden states")
        return tuple(hx)


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
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        made = {"device": device, "dtype": dtype}
        self._make(f"RNN_{nonlinearity.upper()}", input_size, hidden_size, options, made, kwargs)
        self.nonlinearity = nonlinearity


class GRU(Layers):
    """``torch.nn.GRU``: Cho et al. (2014) with the reset gate after the product, gates stacked as r, z, n::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    Call, shapes and errors as of ``RNN``.
    """

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
    """

    mode = "LSTM"

    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size


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
