"""What all layers of the modules share: parameters from the description, and a call of a stack."""

import weakref
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter, RNNBase
from torch.nn.utils.rnn import PackedSequence

from fastrnn.checks import autocast_enabled, check_recompute, check_segments
from fastrnn.functional import DEFAULTS, Options, stack
from fastrnn.modules import fx, onnx, scripted
from fastrnn.modules.options import OwnOptions, begin_gains
from fastrnn.ops.dispatch import call_layers
from fastrnn.spec import CELLS, CellSpec, LayerSpec, Segments

__all__ = ["Layers"]

State = tuple[Tensor, ...]

# The states after every step, by the names of a cell's.
_STATES: Any = {names: namedtuple("States", names) for names in {cell.states for cell in CELLS.values()}}  # noqa: PYI024

_TEMPLATE = torch.nn.LSTM  # as it is now: programs put fastrnn's class in its place


def weights_of(module: Module, names: Sequence[str]) -> list[Tensor]:
    parameters: dict[str, Any] = module._parameters
    try:
        return [parameters[name] for name in names]  # a tenth of the time of getattr on a Module
    except KeyError:  # parametrized, pruned or replicated: a property or a plain attribute
        return [getattr(module, name) for name in names]


def assigned_weights(module: Any) -> list[Tensor] | None:
    """What was assigned to a layer's ``_flat_weights``, torch.nn's or fastrnn's, if forward uses it: other tensors than
    its own, which have stayed the same since."""
    weights = vars(module).get("_flat_weights")  # torch.nn's own weights, too
    if weights is None or module._weights_have_changed():
        return None
    return None if same_tensors(weights, named_weights(module)) else weights


def named_weights(module: Any) -> list[Any]:
    """By their names, None where one is missing."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def same_tensors(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def kind_of(mode: str) -> str:
    """``RNN``, ``LSTM`` or ``GRU``, as torch.nn's messages name the module."""
    return mode.partition("_")[0]


def hx_of(state: State) -> Any:
    """What the user holds: a tensor, or a tuple where the cell has several states."""
    return state if len(state) > 1 else state[0]


class _OwnWeights(list[Any]):
    """A layer's weights. As in ``torch.nn``, an assigned item counts as an assignment to ``_flat_weights``."""

    def __init__(self, module: "Layers") -> None:
        super().__init__(named_weights(module))
        self._module = module

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self._module._flat_weights = list(self)


class Layers(RNNBase, scripted.ScriptedLayers, OwnOptions):
    """What all layers share. ``state`` is the tuple of a cell's states, ``hx`` what the user holds.

    A class for another cell of ``CELLS`` states its ``mode``, the cell's name in capitals.
    """

    mode: str
    __jit_unused_properties__ = ["all_weights", "cell_spec", "layer_spec", "_flat_weights", scripted.WEIGHTS]

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
        *,
        weight_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
        recompute: bool | int = False,
        **kwargs: Any,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, layer_norm)
        self._make(type(self).mode, input_size, hidden_size, options, {"device": device, "dtype": dtype}, kwargs)
        self._set_own(self.layer_spec, weight_dropout, recurrent_dropout, zoneout, recompute)

    def _make(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        options: tuple[Any, ...],
        made: dict[str, Any],
        unknown: dict[str, Any],
    ) -> None:
        """Attributes and parameters. ``options`` are those from num_layers to proj_size, and layer_norm."""
        *others, proj_size, layer_norm = options
        if proj_size is not None and not CELLS[mode.lower()].projectable:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        # torch.nn checks the arguments and names the parameters, but knows its own modes only: the one that takes all
        # options stands for any other.
        template = vars(_TEMPLATE(input_size, hidden_size, *others, proj_size or 0, device="meta", **unknown))
        Module.__init__(self)
        new = vars(self)
        new |= {name: value for name, value in template.items() if name not in new and name != "_flat_weights"}
        self.mode = mode
        self._flat_weight_refs = []
        if layer_norm:
            self.layer_norm = True
            self._name_gains()
        spec = self.layer_spec
        outputs = self.proj_size or hidden_size
        for k, names in enumerate(self._all_weights):
            inputs = input_size if k < spec.directions else spec.directions * outputs
            shapes = spec.weight_shapes(inputs, hidden_size, outputs).values()
            for name, shape in zip(names, shapes, strict=True):
                setattr(self, name, Parameter(torch.empty(shape, **made)))
        self.reset_parameters()

    def _name_gains(self) -> None:
        """Those that torch.nn does not name, behind the others of each layer and direction."""
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            names += [name + suffix for name in self.layer_spec.norm_names]
        self._flat_weights_names = sum(self._all_weights, [])

    def reset_parameters(self) -> None:
        """As ``torch.nn``; gains become 1, and the bias of a normalised state 0."""
        super().reset_parameters()
        begin_gains(self)

    def extra_repr(self) -> str:
        return self._with_own(super().extra_repr())

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_flat_weights", None)  # torch.nn drops it when it reads the state
        state["_flat_weight_refs"] = []
        return state

    # RNNBase mirrors the parameters in a list with weak references. Without the mirror, the methods that come after its
    # own do: Module's, or those of another base of a user's class.
    def __setattr__(self, name: str, value: Any) -> None:
        super(RNNBase, self).__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super(RNNBase, self).__setstate__(state)

    def _replicate_for_data_parallel(self) -> Any:
        return super(RNNBase, self)._replicate_for_data_parallel()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._init_flat_weights()
        return super(RNNBase, self)._apply(fn, recurse)

    @property
    def cell_spec(self) -> CellSpec:
        return CELLS[self.mode.lower()]

    @property
    def layer_spec(self) -> LayerSpec:
        """Of each layer of the stack."""
        directions = 2 if self.bidirectional else 1
        projected = self.proj_size > 0
        return LayerSpec(self.mode.lower(), directions, self.bias, self.batch_first, projected, self.layer_norm)

    @property
    def _flat_weights(self) -> list[Any]:
        """The layer's own weights, or what was assigned, as long as it holds."""
        self._update_flat_weights()
        assigned = self.__dict__.get("_flat_weights")
        return _OwnWeights(self) if assigned is None else assigned

    @_flat_weights.setter
    def _flat_weights(self, weights: list[Any]) -> None:
        """As in ``torch.nn``, forward uses what is assigned until a weight is replaced by its name."""
        self._init_flat_weights()
        named = named_weights(self)
        if not same_tensors(weights, named):
            self.__dict__["_flat_weights"] = weights
            self._flat_weight_refs = [None if w is None else weakref.ref(w) for w in named]

    @property
    def _script_weights(self) -> list[Tensor]:
        return list(self._flat_weights)

    def _init_flat_weights(self) -> None:
        self.__dict__.pop("_flat_weights", None)
        self._flat_weight_refs = []

    def _update_flat_weights(self) -> None:
        if self._weights_have_changed():
            self._init_flat_weights()

    def _weights_have_changed(self) -> bool:
        return "_flat_weights" in self.__dict__ and super()._weights_have_changed()

    def __prepare_scriptable__(self) -> "Layers":
        return scripted.prepare(self, Layers.forward)

    def flatten_parameters(self) -> None:
        """Does nothing: there is no flat buffer that parameters could leave."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        # By name; not marked as such, because the older ONNX exporter passes every default by position.
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        reset_state: Any = None,
        return_states: bool | None = None,
    ) -> Any:
        """As ``torch.nn``: ``input`` [T, B, I], [B, T, I], [T, I] or packed, to the output and the final ``hx``.

        What else can be asked for, ``fastrnn.LSTM`` explains.
        """
        short = reset_state is None and not return_states
        dropped = self.dropout and self.training
        own = dropped or self._takes_own_way()
        if short and not (own or torch.compiler.is_compiling() or "_flat_weights" in self.__dict__):
            result = call_layers(
                self._parameters,
                self._flat_weights_names,
                input,
                hx,
                lengths,
                reset,
                self.mode.lower(),
                self.num_layers,
                self.bidirectional,
                self.bias,
                self.batch_first,
            )
            if result is not None:
                return result
        if tracer := fx.tracer_of(input, hx, lengths, reset, reset_state):
            named = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "return_states": return_states}
            return fx.record(tracer, self, input, hx, named)
        segments = Segments(lengths, reset, () if reset_state is None else self._state(reset_state))
        options = self._options_of_call(segments, bool(return_states))
        run: Any = self._forward_packed if isinstance(input, PackedSequence) else self._forward_tensor
        y, hx, states = run(input, hx, options)
        return (y, hx, _STATES[self.cell_spec.states](*states)) if return_states else (y, hx)

    def _forward_tensor(self, input: Tensor, hx: Any, options: Options) -> tuple[Tensor, Any, State]:
        dim = input.dim()
        if dim == 3:
            y, state, states = self._run(input, () if hx is None else self._state(hx, dim), None, options)
            return y, hx_of(state), states
        if dim != 2:
            raise ValueError(f"{kind_of(self.mode)}: Expected input to be 2D or 3D, got {dim}D{self._noun} instead")
        batch_dim = 0 if self.batch_first else 1
        state = () if hx is None else self._state(hx, dim)
        if options.segments:
            lengths, reset, reset_state = options.segments
            lengths = None if lengths is None else lengths.unsqueeze(0)
            reset = None if reset is None else reset.unsqueeze(batch_dim)
            options = options._replace(segments=Segments(lengths, reset, [s.unsqueeze(-2) for s in reset_state]))
        y, state, states = self._run(input.unsqueeze(batch_dim), tuple([s.unsqueeze(1) for s in state]), None, options)
        return y.squeeze(batch_dim), hx_of(tuple([s.squeeze(1) for s in state])), tuple([s.squeeze(2) for s in states])

    _noun = ""  # for a tensor, in torch.nn's message

    def _forward_packed(self, input: PackedSequence, hx: Any, options: Options) -> tuple[PackedSequence, Any, State]:
        x, batch_sizes, sorted_indices, unsorted_indices = input
        if x.dim() != 2:
            self.check_input(x, batch_sizes)
        state = () if hx is None else self._state(self.permute_hidden(hx, sorted_indices))
        y, state, states = self._run(x, state, batch_sizes, options)
        output = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        return output, self.permute_hidden(hx_of(state), unsorted_indices), states

    def _run(
        self, x: Tensor, state: State, batch_sizes: Tensor | None, options: Options
    ) -> tuple[Tensor, State, State]:
        assigned = "_flat_weights" in self.__dict__
        weights = self._flat_weights if assigned else weights_of(self, self._flat_weights_names)
        if x.dtype != weights[0].dtype and not autocast_enabled(x):
            self.check_input(x, batch_sizes)
        self._check_sizes(x, state, batch_sizes)
        self._check_options(x, batch_sizes, options)
        dropout = self.dropout if self.training else 0.0
        run = onnx.stack if onnx.exporting() else stack
        return run(
            self.layer_spec,
            x,
            state,
            weights,
            batch_sizes,
            num_layers=self.num_layers,
            dropout=dropout,
            options=options,
        )

    def _check_options(self, x: Tensor, batch_sizes: Tensor | None, options: Options) -> None:
        if options is DEFAULTS or torch.jit.is_tracing():
            return
        widths = (self.hidden_size, self.proj_size or self.hidden_size)
        check_segments(self.layer_spec, self.num_layers, x, *widths, batch_sizes, options.segments)
        check_recompute(options.recompute, self.layer_spec, batch_sizes, options.segments, options.zoneout)

    def _check_sizes(self, x: Tensor, state: State, batch_sizes: Tensor | None) -> None:
        if torch.jit.is_tracing():
            return  # they are free in a traced program, and the operators check them when it runs
        if x.size(-1) != self.input_size:
            self.check_input(x, batch_sizes)
        if state:
            self._check_state(x, state, batch_sizes)
        if batch_sizes is None and x.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")

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
