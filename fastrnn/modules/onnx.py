"""Recurrent layers as ONNX's own nodes RNN, LSTM and GRU, for both exporters of ``torch.onnx.export``.

While an exporter traces a model, modules call ``stack`` and ``step`` here in place of those in ``functional``, by the
same contract. Weights are rearranged by torch's operations, which the exporters translate and fold, so that only the
node itself is made in two ways: by ``torch.onnx.ops``, which the exporter of ``torch.export`` programs knows
(``dynamo=True``), or by the ``symbolic`` of an autograd Function, which the exporter of traced graphs calls.

ONNX describes its nodes at https://onnx.ai/onnx/operators/onnx__LSTM.html and beside it.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout

from fastrnn.checks import autocast_enabled
from fastrnn.functional import DEFAULTS, Options
from fastrnn.ops.function import layer
from fastrnn.spec import NONE, LayerSpec, Noise

__all__ = ["exporting", "stack", "step"]

State = tuple[Tensor, ...]


class _Operator(NamedTuple):
    """``gates``: for each of ONNX's, in its order, the cell's own; its weights are negated where it begins with "-"."""

    name: str
    gates: tuple[str, ...]
    attributes: dict[str, Any] = {}
    activation: str = ""


_OPERATORS = {
    "rnn_tanh": _Operator("RNN", ("h",), activation="Tanh"),
    "rnn_relu": _Operator("RNN", ("h",), activation="Relu"),
    "lstm": _Operator("LSTM", ("i", "o", "f", "g")),
    "gru": _Operator("GRU", ("z", "r", "n"), {"linear_before_reset": 1}),
    # 1 - sigmoid(f) = sigmoid(-f). ONNX's input_forget couples the gates the other way round: f = 1 - i.
    "cifg": _Operator("LSTM", ("-f", "o", "f", "g")),
}


def exporting() -> bool:
    """Whether ``torch.onnx.export`` is tracing a model."""
    if not (torch.compiler.is_exporting() or torch.jit.is_tracing()):
        return False
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()  # torch alone does not import it


def stack(
    spec: LayerSpec,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    *,
    num_layers: int,
    dropout: float,
    options: Options = DEFAULTS,
) -> tuple[Tensor, State, State]:
    """As ``functional.stack``.

    Raises:
        RuntimeError: no node computes the cell, or the exporter has none for packed sequences, or for projected ones,
            or none computes what the options ask for.
    """
    noise = options.weight_dropout or options.recurrent_dropout or any(options.zoneout)
    if options.segments or options.every_state or spec.layer_norm or noise:
        raise RuntimeError(
            "torch.onnx: expected a layer without lengths, reset, return_states, zoneout, layer_norm, and "
            "weight_dropout and recurrent_dropout in training, which its operators lack"
        )
    if batch_sizes is not None:
        _check_packed(spec)
    transposed = spec.batch_first and batch_sizes is None
    spec = spec._replace(batch_first=False)
    x = x.transpose(0, 1) if transposed else x
    per_layer = len(weights) // num_layers
    finals = []
    for i in range(num_layers):
        if i > 0 and dropout > 0:
            x = apply_dropout(x, dropout)
        rows = slice(i * spec.directions, (i + 1) * spec.directions)
        of_layer = state if num_layers == 1 else tuple([s[rows] for s in state])
        x, final = _layer(spec, x, of_layer, weights[i * per_layer : (i + 1) * per_layer], batch_sizes)
        finals.append(final)
    final = finals[0] if num_layers == 1 else tuple([torch.cat(s) for s in zip(*finals, strict=True)])
    return x.transpose(0, 1) if transposed else x, final, ()


def step(spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor], noise: Noise = NONE) -> State:
    """As ``functional.step``: a sequence of one step."""
    if spec.layer_norm or noise:
        raise RuntimeError("torch.onnx: expected a cell without zoneout and layer_norm, which its operators lack")
    _, final = _layer(spec, x.unsqueeze(0), tuple([s.unsqueeze(0) for s in state]), weights, None)
    return tuple([s[0] for s in final])


def _check_packed(spec: LayerSpec) -> None:
    if not torch.jit.is_tracing():
        raise RuntimeError(
            "packed sequences: expected torch.onnx.export(dynamo=False), the only exporter that has them"
        )
    if spec.projected:
        raise RuntimeError("packed sequences: expected proj_size=0 in torch.onnx.export, as ONNX has no projection")


def _layer(
    spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor], batch_sizes: Tensor | None
) -> tuple[Tensor, State]:
    if autocast_enabled(x):  # a node computes in the dtype of its weights
        dtype = weights[0].dtype
        x, state = x.to(dtype), tuple([s.to(dtype) for s in state])
    if spec.projected:
        return _projected_layer(spec, x, state, weights)
    if spec.cell not in _OPERATORS:
        raise RuntimeError(f"torch.onnx.export: expected one of the cells {', '.join(_OPERATORS)}, got {spec.cell}")
    hidden, _ = _hidden_and_outputs(spec, weights)
    attributes = _attributes(spec, hidden)
    arranged = _arranged(spec, weights, hidden)
    if torch.jit.is_tracing():
        y, *final = _Traced.apply(spec, attributes, batch_sizes, len(arranged), *arranged, x, *state, *weights)
        return y, tuple(final)
    steps, batch, _ = x.shape
    states = len(spec.facts.states)
    y, *final = torch.onnx.ops.symbolic_multi_out(
        _OPERATORS[spec.cell].name,
        _inputs(spec, x, arranged, None, state, absent=None),
        attributes,
        dtypes=[x.dtype] * (1 + states),
        shapes=[(steps, spec.directions, batch, hidden)] + [(spec.directions, batch, hidden)] * states,
    )
    return y.squeeze(1) if spec.directions == 1 else y.transpose(1, 2).flatten(2), tuple(final)


def _projected_layer(spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor]) -> tuple[Tensor, State]:
    """With a projection, which ONNX lacks: a layer of H outputs, which are projected behind it and, by its recurrent
    weights, inside.

    An initial ``h`` has been projected already. P more units begin with it, which the recurrent weights take as it is;
    as all that these units compute is multiplied by zero, they are zero from the first step on.
    """
    hidden, outputs = _hidden_and_outputs(spec, weights)
    per_direction = len(spec.weight_names)
    plain, projections = [], weights[per_direction - 1 :: per_direction]
    for d, w_hr in enumerate(projections):
        w_ih, w_hh, *biases, _ = weights[d * per_direction : (d + 1) * per_direction]
        inside = w_hh @ w_hr
        if state:
            grown = (w_ih, torch.cat([inside, w_hh], 1), *biases)
            plain += [_more_units(w, hidden, outputs) for w in grown]
        else:
            plain += [w_ih, inside, *biases]
    if state:
        h, c = state
        state = torch.cat([torch.zeros_like(c), h], -1), torch.cat([c, torch.zeros_like(h)], -1)
    y, (h, c) = _layer(spec._replace(projected=False), x, state, plain, None)
    units = hidden + (outputs if state else 0)
    ys = [y[..., d * units : d * units + hidden] @ w_hr.t() for d, w_hr in enumerate(projections)]
    hs = [h[d, :, :hidden] @ w_hr.t() for d, w_hr in enumerate(projections)]
    return torch.cat(ys, -1), (torch.stack(hs), c[..., :hidden])


def _hidden_and_outputs(spec: LayerSpec, weights: Sequence[Tensor]) -> tuple[int, int]:
    """H and P, which a traced graph is to hold as constants; sizes that are asked for in a trace belong to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        hidden, outputs = spec.hidden_and_outputs(weights[1])
        return int(hidden), int(outputs)


def _more_units(w: Tensor, hidden: int, more: int) -> Tensor:
    """A weight or bias [G*H, ...] with zeros for more units, fewer than H, behind those of each gate."""
    gates = w.split(hidden)
    return torch.cat([part for gate in gates for part in (gate, torch.zeros_like(gate[:more]))])


def _inputs(
    spec: LayerSpec, x: Any, arranged: Sequence[Any], lengths: Any, state: Sequence[Any], absent: Any
) -> list[Any]:
    """Of a node, in ONNX's order."""
    bias = [] if spec.has_bias else [absent]
    return [x, *arranged, *bias, absent if lengths is None else lengths, *state]


def _attributes(spec: LayerSpec, hidden: int) -> dict[str, Any]:
    operator = _OPERATORS[spec.cell]
    activations = {"activations": [operator.activation] * spec.directions} if operator.activation else {}
    direction = "bidirectional" if spec.directions == 2 else "forward"
    return {"hidden_size": hidden, "direction": direction} | activations | operator.attributes


def _arranged(spec: LayerSpec, weights: Sequence[Tensor], hidden: int) -> list[Tensor]:
    """ONNX's W [D, G*H, I] and R [D, G*H, H], with bias B [D, 2*G*H]."""
    per_direction = len(spec.weight_names)
    w_ih, w_hh, *biases = [
        torch.stack([_gates(spec, w, hidden) for w in weights[k::per_direction]]) for k in range(per_direction)
    ]
    return [w_ih, w_hh, *([torch.cat(biases, 1)] if biases else [])]


def _gates(spec: LayerSpec, w: Tensor, hidden: int) -> Tensor:
    """One weight or bias [G*H, ...], its gates in ONNX's order."""
    own = {name: w[k * hidden : (k + 1) * hidden] for k, name in enumerate(spec.facts.gates)}
    parts = [-own[gate[1:]] if gate[0] == "-" else own[gate] for gate in _OPERATORS[spec.cell].gates]
    return torch.cat(parts) if len(parts) > 1 else w


class _Traced(torch.autograd.Function):
    """The node in a traced graph. Arguments: the layer, the node's attributes, ``batch_sizes``, how many tensors
    ONNX's weights are, these, then x, the states and the weights, from which the layer is computed meanwhile."""

    @staticmethod
    def forward(
        ctx: Any,
        spec: LayerSpec,
        attributes: dict[str, Any],
        batch_sizes: Tensor | None,
        arranged: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        x, *others = tensors[arranged:]
        own = len(others) - spec.directions * len(spec.weight_names)
        state, weights = tuple(others[:own]), others[own:]
        y, final = layer(spec, x, state, weights, batch_sizes)
        return y, *final

    @staticmethod
    def symbolic(
        g: Any, spec: LayerSpec, attributes: dict[str, Any], batch_sizes: Any, arranged: int, *values: Any
    ) -> Any:
        x, *others = values[arranged:]
        state = others[: len(others) - spec.directions * len(spec.weight_names)]
        absent = g.op("prim::Constant")
        absent.setType(torch._C.OptionalType.ofTensor())
        inputs = _inputs(spec, x, values[:arranged], batch_sizes, state, absent)
        typed = {f"{name}_{'i' if isinstance(value, int) else 's'}": value for name, value in attributes.items()}
        y, *final = g.op(_OPERATORS[spec.cell].name, *inputs, outputs=1 + len(spec.facts.states), **typed)
        # From [T, D, B, H]. It is by these two nodes that the exporter finds the layer of a packed sequence.
        y = g.op("Transpose", y, perm_i=[0, 2, 1, 3])
        y = g.op("Reshape", y, g.op("Constant", value_t=torch.tensor([0, 0, -1])))
        return y, *final
