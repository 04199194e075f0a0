"""A recurrent layer of torch.nn as an ONNX model, node by node; imports ``onnx``.

ONNX has its own gate order and stacks both biases: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from fastrnn.bench.case import Case
from fastrnn.spec import CELLS

__all__ = ["onnx_model"]

_OPSET, _IR_VERSION = 17, 9


class _Operator(NamedTuple):
    """``gates``: for each of ONNX's, the place of PyTorch's. ``activation``: where it is not the usual one."""

    name: str
    gates: list[int]
    options: dict[str, Any] = {}
    activation: str = ""


_OPERATORS = {
    "lstm": _Operator("LSTM", [0, 3, 1, 2]),  # i f g o -> i o f c
    "gru": _Operator("GRU", [1, 0, 2], {"linear_before_reset": 1}),  # r z n -> z r h
    "rnn_tanh": _Operator("RNN", [0]),
    "rnn_relu": _Operator("RNN", [0], activation="Relu"),
}


def onnx_model(case: Case, weights: dict[str, Tensor]) -> ModelProto:
    """Inputs ``x`` and, for a single step, ``h_0`` (and ``c_0``); outputs ``y``, ``h_n`` (and ``c_n``)."""
    states = CELLS[case.cell].states
    depth, width = case.layers * case.directions, case.directions * case.hidden_size
    leading = [case.batch, case.steps] if case.batch_first else [case.steps, case.batch]

    nodes: list[NodeProto] = []
    constants = {"sequence": np.array([0, 0, width], np.int64)}
    if case.steps == 1:
        constants["per_layer"] = np.full(case.layers, case.directions, np.int64)
        nodes += [_split(f"{s}_0", [f"{s}_0_l{n}" for n in range(case.layers)]) for s in states]
    source = "x"
    if case.batch_first:
        nodes.append(helper.make_node("Transpose", ["x"], ["x_time_first"], perm=[1, 0, 2]))
        source = "x_time_first"
    for layer in range(case.layers):
        constants |= {f"{name}_l{layer}": value for name, value in _layer_weights(case, weights, layer).items()}
        nodes += _layer(case, layer, source, states)
        source = f"y_l{layer}"
    nodes.append(helper.make_node("Transpose", [source], ["y"], perm=[1, 0, 2] if case.batch_first else [0, 1, 2]))
    nodes += [
        helper.make_node("Concat", [f"{s}_n_l{n}" for n in range(case.layers)], [f"{s}_n"], axis=0) for s in states
    ]

    def value(name: str, *shape: int):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    initial = [value(f"{s}_0", depth, case.batch, case.hidden_size) for s in states if case.steps == 1]
    graph = helper.make_graph(
        nodes,
        case.name,
        [value("x", *leading, case.input_size), *initial],
        [value("y", *leading, width), *(value(f"{s}_n", depth, case.batch, case.hidden_size) for s in states)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _split(source: str, targets: list[str]) -> NodeProto:
    return helper.make_node("Split", [source, "per_layer"], targets, axis=0)


def _layer_weights(case: Case, weights: dict[str, Tensor], layer: int) -> dict[str, np.ndarray]:
    """``W`` [D, G*H, I], ``R`` [D, G*H, H], ``b`` [D, 2*G*H] with ONNX's gates."""
    order = _OPERATORS[case.cell].gates

    def stacked(name: str) -> np.ndarray:
        values = [weights[f"{name}_l{layer}{suffix}"] for suffix in ("", "_reverse")[: case.directions]]
        return np.stack([v.unflatten(0, (case.gates, -1))[order].flatten(0, 1).numpy() for v in values])

    biases = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return {"W": stacked("weight_ih"), "R": stacked("weight_hh"), "b": biases}


def _layer(case: Case, layer: int, source: str, states: Sequence[str]) -> list[NodeProto]:
    """One recurrent node, and its output from ONNX's [T, D, B, H] to [T, B, D*H]."""
    operator = _OPERATORS[case.cell]
    options = {"direction": "bidirectional" if case.bidirectional else "forward"} | operator.options
    if operator.activation:
        options["activations"] = [operator.activation] * case.directions
    initial = [f"{s}_0_l{layer}" for s in states] if case.steps == 1 else []
    return [
        helper.make_node(
            operator.name,
            [source, *(f"{name}_l{layer}" for name in "WRb"), "", *initial],
            [f"raw_l{layer}", *(f"{s}_n_l{layer}" for s in states)],
            hidden_size=case.hidden_size,
            **options,
        ),
        helper.make_node("Transpose", [f"raw_l{layer}"], [f"rows_l{layer}"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"rows_l{layer}", "sequence"], [f"y_l{layer}"]),
    ]
