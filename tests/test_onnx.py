"""What torch.onnx.export makes of the modules, computed by ONNX Runtime."""

import copy
import io
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from comparison import build, cells, each, every_module, inputs, layers, rows, states, tensors, with_options
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.testing import CELL_MODULES, LAYERS

# The older exporter says that it is old, and that checks of sizes are not part of a trace.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

exporters = pytest.mark.parametrize("dynamo", [False, True], ids=["traced", "dynamo"])

NODES = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM", "cifg": "LSTM"}
INPUTS, HIDDEN = 5, 6
SIZES = [(3, 4), (1, 1), (5, 7)]  # rows of the batch and steps: of the export, and of other calls


class WithAndWithoutState(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(modules)

    def forward(self, x: Tensor, hx: Any) -> list[Any]:
        return [module(x, *given) for module in self.inner for given in ((), (hx,))]


class Packed(nn.Module):
    def __init__(self, layer: nn.Module, enforce_sorted: bool) -> None:
        super().__init__()
        self.layer, self.enforce_sorted = layer, enforce_sorted

    def forward(self, x: Tensor, lengths: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        y, hx = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=self.enforce_sorted), hx)
        return pad_packed_sequence(y)[0], hx


def export(model: nn.Module, arguments: tuple[Any, ...], free: tuple[Any, ...], dynamo: bool) -> onnx.ModelProto:
    """``free`` are names of dimensions by their place, in the form of the arguments."""
    file = io.BytesIO()
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs it")
        torch.onnx.export(model, arguments, dynamo=True, dynamic_shapes=free, verbose=False).save(file)
    else:
        flat = [place for entry in free for place in (entry if isinstance(entry, tuple) else (entry,))]
        names = [f"input_{k}" for k in range(len(flat))]
        axes = dict(zip(names, flat, strict=True))
        torch.onnx.export(model, arguments, file, dynamo=False, input_names=names, dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


def check(exported: onnx.ModelProto, model: Callable[..., Any], *calls: tuple[Any, ...]) -> None:
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for arguments in calls:
        feed = {name: value.numpy() for name, value in zip(names, tensors(arguments), strict=True)}
        for got, expected in zip(session.run(None, feed), tensors(model(*arguments)), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=1e-5)


def arguments_of(kinds: Any, kind: str, options: dict[str, Any], batch: int, steps: int) -> tuple[Tensor, Any]:
    float32 = {"dtype": torch.float32}
    if kinds is CELL_MODULES:
        return inputs(batch, INPUTS, **float32), states(kind, None, batch, HIDDEN, **float32)
    leading = (batch, steps) if options.get("batch_first") else (steps, batch)
    return inputs(*leading, INPUTS, **float32), states(
        kind, rows(options), batch, HIDDEN, options.get("proj_size"), **float32
    )


def free_of(kinds: Any, options: dict[str, Any], hx: Any) -> tuple[Any, Any]:
    if kinds is CELL_MODULES:
        return {0: "batch"}, each(lambda _: {0: "batch"}, hx)
    leading = ("batch", "steps") if options.get("batch_first") else ("steps", "batch")
    return dict(enumerate(leading)), each(lambda _: {1: "batch"}, hx)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
    "projected": {"bidirectional": True, "proj_size": 4},
}
# A node is made of the same parts for either exporter: the newer, which takes ten times as long, has each part once.
BY_BOTH = {f"{kind}-all" for kind in LAYERS} | {"lstm-plain", "lstm-projected"}


@pytest.mark.parametrize(
    "kind,options,dynamo",
    [
        pytest.param(*layer.values, dynamo, id=f"{layer.id}-{exporter}")
        for layer in with_options(OPTIONS).args[1]
        for exporter, dynamo in (("traced", False), ("dynamo", True))
        if not dynamo or layer.id in BY_BOTH
    ],
)
def test_a_layer_is_onnx_s_own_node(kind, options, dynamo):
    torch.manual_seed(0)
    model = WithAndWithoutState(build(fastrnn, LAYERS, kind, INPUTS, HIDDEN, **options)).eval()
    calls = [arguments_of(LAYERS, kind, options, *size) for size in SIZES]
    exported = export(model, calls[0], free_of(LAYERS, options, calls[0][1]), dynamo)
    nodes = Counter(node.op_type for node in exported.graph.node)
    assert nodes[NODES[kind]] == 2 * options.get("num_layers", 1)
    assert {node.domain for node in exported.graph.node} == {""} and not nodes.keys() & {"Loop", "Scan", "Sigmoid"}
    check(exported, model, *calls)


@exporters
@cells
def test_a_cell_is_a_node_of_one_step(kind, dynamo):
    torch.manual_seed(0)
    with_bias, without = (build(fastrnn, CELL_MODULES, kind, INPUTS, HIDDEN, bias=bias) for bias in (True, False))
    model = WithAndWithoutState(with_bias, without).eval()
    calls = [arguments_of(CELL_MODULES, kind, {}, *size) for size in SIZES]
    exported = export(model, calls[0], free_of(CELL_MODULES, {}, calls[0][1]), dynamo)
    assert Counter(node.op_type for node in exported.graph.node)[NODES[kind]] == 4
    check(exported, model, *calls)


def read_as_float32(module: nn.Module, frozen: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(getattr(frozen, name))
    return twin


# What is read of a frozen module does not depend on the cell, whose nodes are tested above with either exporter.
@pytest.mark.parametrize(
    "kinds,kind,dynamo",
    [pytest.param(*module.values, False, id=f"{module.id}-traced") for module in every_module.args[1]]
    + [
        pytest.param(LAYERS, "gru", True, id="gru-dynamo"),
        pytest.param(LAYERS, "lstm", True, id="lstm-dynamo"),
        pytest.param(CELL_MODULES, "lstm", True, id="lstm-cell-dynamo"),
    ],
)
def test_a_frozen_module_has_its_weights(kinds, kind, dynamo):
    torch.manual_seed(0)
    module = build(fastrnn, kinds, kind, INPUTS, HIDDEN).eval()
    frozen = [fastrnn.freeze(copy.deepcopy(module), stored) for stored in ("bfloat16", "int8")]
    calls = [arguments_of(kinds, kind, {}, *size) for size in SIZES]
    exported = export(WithAndWithoutState(*frozen), calls[0], free_of(kinds, {}, calls[0][1]), dynamo)
    # The frozen kernels round activations as well.
    check(exported, WithAndWithoutState(*(read_as_float32(module, f) for f in frozen)), *calls)


def test_the_newer_exporter_keeps_weights_in_8_bits():
    frozen = fastrnn.freeze(fastrnn.LSTM(64, 64).eval(), "int8")
    exported = export(frozen, (torch.randn(2, 1, 64),), ({0: "steps"},), dynamo=True)
    assert exported.ByteSize() < 0.5 * 4 * sum(p.numel() for p in fastrnn.LSTM(64, 64).parameters())


@pytest.mark.parametrize("enforce_sorted", [True, False])
@layers
def test_packed_sequences(kind, enforce_sorted):
    """With the exporter that has them."""
    options = {"num_layers": 2, "bidirectional": True}
    torch.manual_seed(0)
    layer = build(fastrnn, LAYERS, kind, INPUTS, HIDDEN, **options).eval()
    ragged = [torch.tensor(lengths) for lengths in ([4, 2], [1], [7, 7, 3] if enforce_sorted else [3, 7, 1, 7])]
    free = ({0: "steps", 1: "batch"}, {0: "batch"})
    for module in (layer, fastrnn.freeze(copy.deepcopy(layer), "int8")):
        model = Packed(module, enforce_sorted)
        calls = []
        for lengths in ragged:
            x, hx = arguments_of(LAYERS, kind, options, len(lengths), int(lengths.max()))
            calls.append((x, lengths, hx))
        expected = Packed(layer if module is layer else read_as_float32(layer, module), enforce_sorted)
        with_state = export(model, calls[0], (*free, each(lambda _: {1: "batch"}, calls[0][2])), dynamo=False)
        check(with_state, expected, *calls)
        without = [call[:2] for call in calls]
        check(export(model, without[0], free, dynamo=False), expected, *without)


@pytest.mark.parametrize(
    "options,dynamo,message",
    [
        ({}, True, r"packed sequences: expected torch.onnx.export\(dynamo=False\)"),
        ({"proj_size": 4}, False, "packed sequences: expected proj_size=0"),
    ],
    ids=["dynamo", "projected"],
)
def test_packed_sequences_that_onnx_cannot_have(options, dynamo, message):
    model = Packed(fastrnn.LSTM(INPUTS, HIDDEN, **options), enforce_sorted=True).eval()
    with pytest.raises(RuntimeError, match=message):
        export(model, (torch.randn(4, 2, INPUTS), torch.tensor([4, 2])), ({}, {}), dynamo)


def test_a_cell_that_no_node_computes(monkeypatch):
    monkeypatch.delitem(fastrnn.modules.onnx._OPERATORS, "gru")
    with pytest.raises(RuntimeError, match="expected one of the cells rnn_tanh, .* got gru"):
        export(fastrnn.GRU(INPUTS, HIDDEN).eval(), (torch.randn(4, 2, INPUTS),), ({},), dynamo=False)


class UnderAutocast(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu"):
            return self.layer(x.bfloat16())[0]


@exporters
def test_under_autocast_a_node_computes_in_the_dtype_of_its_weights(dynamo):
    torch.manual_seed(0)
    layer, x = fastrnn.GRU(INPUTS, HIDDEN).eval(), inputs(4, 3, INPUTS, dtype=torch.float32)
    exported = export(UnderAutocast(layer).eval(), (x,), ({0: "steps", 1: "batch"},), dynamo)
    check(exported, lambda x: layer(x.bfloat16().float())[0], (x,))


@layers
def test_a_model_that_is_traced_sees_its_layer_s_values(kind):
    layer, seen = build(fastrnn, LAYERS, kind, INPUTS, HIDDEN).eval(), []
    layer.register_forward_hook(lambda module, given, results: seen.append(results[0].detach()))
    x = inputs(4, 3, INPUTS, dtype=torch.float32)
    export(layer, (x,), ({},), dynamo=False)
    torch.testing.assert_close(seen[0], layer(x)[0])


def test_importing_fastrnn_imports_no_exporter():
    code = "import sys, fastrnn; assert 'torch.onnx' not in sys.modules and 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
