"""Layers on CUDA tensors as PyTorch sees them, on fake tensors: no GPU is needed, and no value is computed.

Nothing is differentiated here: autograd asks for the device of a tensor, fake or not.
"""

import importlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import LAYERS, layers
from problems import Case, Problem, names, problem
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import fastrnn
from fastrnn import explain, ops
from fastrnn.backends import cpu
from fastrnn.ops import dispatch
from fastrnn.spec import CELLS, ForwardCall, pair_of

pytest.importorskip("triton")

from fastrnn.backends import triton  # noqa: E402
from fastrnn.backends.triton import launch, operators, persistent, stepwise  # noqa: E402

pytestmark = pytest.mark.skipif(not launch.interpreted, reason="needs TRITON_INTERPRET=1")


@pytest.fixture(autouse=True)
def both_backends(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_answers", {})
    if triton not in dispatch.BACKENDS:
        for module in (dispatch, importlib.import_module("fastrnn.explain")):
            monkeypatch.setattr(module, "BACKENDS", (cpu, triton))


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Names of the kernels that would be launched, where what is in tensors does not matter: none is."""
    kernels: list[str] = []
    for regime in (persistent, stepwise):
        monkeypatch.setattr(regime, "launch", lambda kernel, *_: kernels.append(kernel.name))
    return kernels


CASES = {
    "dense": Case(3, 5, 17, 4),
    "no-state": Case(3, 5, 17, 4, directions=2, state=False, bias=False),
    "batch-first": Case(3, 5, 17, 4, directions=2, batch_first=True),
    "ragged": Case(3, 3, 17, 4, directions=2, lengths=(3, 2, 1)),
    "no-rows": Case(3, 0, 17, 4),
    "projected": Case(3, 5, 17, 4, directions=2, P=3),
    "lengths": Case(3, 5, 17, 4, padded=True, every_state=True, state=False),
    "resets": Case(3, 5, 17, 4, directions=2, batch_first=True, padded=True, reset="by-step", every_state=True),
    "normalised": Case(3, 5, 17, 4, directions=2, batch_first=True, every_state=True, layer_norm=True),
}
every_case = pytest.mark.parametrize(
    "cell,case",
    [
        pytest.param(cell, case, id=f"{cell}-{name}")
        for cell in CELLS
        for name, case in CASES.items()
        if not case.P or CELLS[cell].projectable
    ],
)


def arguments_of_forward(p: Problem, save: bool = True) -> tuple:
    case = p.case
    return (
        p.x,
        *pair_of(p.state),
        p.weights,
        case.batch_sizes,
        p.cell,
        case.directions,
        case.bias,
        case.batch_first,
        save,
        *(p.segments.arguments or [None] * 4),
        case.every_state,
        False,  # recompute
        *p.noise,
        p.spec.layer_norm,
    )


def arguments_of_backward(p: Problem, y: Tensor, saved: Tensor, dy: bool = True) -> tuple:
    """Without one of the weights' gradients, and without the last of dstate."""
    gradients = (p.dy if dy else None, [*p.dstate[:-1], None])
    call = ForwardCall(*arguments_of_forward(p))
    needed = [name != "w_hh[0]" for name in names(p)]
    plain = (call.x, call.h_0, call.c_0, call.weights, y, saved, call.batch_sizes, *call.options)
    return *gradients, *plain, needed, 1, *call.trailing_arguments


def fake(mode: FakeTensorMode, value: Any) -> Any:
    """The same with fake CUDA tensors; those of integers stay on the CPU."""
    if isinstance(value, Tensor):
        integers = value.dtype == torch.int64
        return mode.from_tensor(value) if integers else torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return [fake(mode, v) for v in value] if isinstance(value, list) else value


def flat(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [t for result in results for t in flat(result)]


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=["float64", "float16"])
def test_fake_results_have_the_form_of_real_ones(cell, case, dtype, launched):
    p = problem(cell, case).to(dtype)
    y, _, saved = operators.layer_forward(*arguments_of_forward(p))
    for name, arguments in {
        "layer_forward": arguments_of_forward(p),
        "layer_forward without save": arguments_of_forward(p, save=False),
        "layer_backward": arguments_of_backward(p, y, saved),
    }.items():
        operator = name.split()[0]
        real = flat(getattr(operators, operator)(*arguments))
        with FakeTensorMode() as mode:
            found = flat(getattr(ops, operator)(*[fake(mode, argument) for argument in arguments]))
        assert all(t.device.type == "cuda" for t in found), name
        assert [(t.shape, t.dtype, t.stride()) for t in found] == [(t.shape, t.dtype, t.stride()) for t in real], name


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Any]:
    """The operators under another name, implemented by Triton on the CPU, for PyTorch's checks on real tensors."""
    library = torch.library.Library("fastrnn_interpreted", "DEF")
    for name in ("layer_forward", "layer_backward"):
        library.define(str(getattr(ops, name)._schema).removeprefix("fastrnn::"))
        library.impl(name, getattr(operators, name), "CPU")
        torch.library.register_fake(
            f"fastrnn_interpreted::{name}", getattr(ops.operators, f"_{name}_fake"), lib=library
        )
    yield torch.ops.fastrnn_interpreted
    library._destroy()


@pytest.mark.parametrize("cell,case", [pytest.param("lstm", case, id=name) for name, case in CASES.items()])
def test_opcheck(cell, case, interpreted):
    """Nothing given is changed or given back, and shapes that are symbols are followed."""
    p = problem(cell, case)
    checks = ("test_schema", "test_faketensor")
    y, _, saved = operators.layer_forward(*arguments_of_forward(p))
    torch.library.opcheck(interpreted.layer_forward.default, arguments_of_forward(p), test_utils=checks)
    for dy in (True, False):
        arguments = arguments_of_backward(p, y, saved, dy)
        torch.library.opcheck(interpreted.layer_backward.default, arguments, test_utils=checks)


REGIMES = {"resident": (17, 0, "tf32"), "cooperative": (70, 0, "tf32"), "stepwise": (17, 3, "ieee")}


@pytest.mark.parametrize("hidden,projection,precision", REGIMES.values(), ids=REGIMES)
def test_lengths_are_not_waited_for(hidden, projection, precision, monkeypatch, launched):
    """On tensors without values: to read one, or to make a size of one, is an error."""
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
    case = Case(3, 5, hidden, 4, directions=2, P=projection, padded=True, every_state=True)
    p = problem("lstm", case).to(torch.float32)
    y, _, saved = operators.layer_forward(*on_meta(arguments_of_forward(p)))
    operators.layer_backward(*on_meta(arguments_of_backward(p, y, saved)))
    kind = "pointwise" if projection else "persistent"
    assert set(launched) == {f"{kind}_forward", f"{kind}_backward"}
    with pytest.raises(NotImplementedError, match="meta tensor"):  # as of a reset
        operators.layer_forward(*on_meta(arguments_of_forward(problem("lstm", CASES["resets"]))))


def on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return [on_meta(v) for v in value] if isinstance(value, (list, tuple)) else value


# Modules


def on_cuda(module: nn.Module) -> nn.Module:
    """Puts a module on a fake GPU, where ``Module.to`` cannot without a real one. Inside a FakeTensorMode."""
    for submodule in module.modules():
        for name, parameter in submodule._parameters.items():
            on_gpu = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            submodule._parameters[name] = nn.Parameter(on_gpu)
    return module


def make(kind: str, *sizes: int, **options: Any) -> nn.Module:
    class_name, arguments = LAYERS[kind]
    return getattr(fastrnn, class_name)(*sizes, **arguments, **options, device="meta")


@layers
@torch.no_grad()
def test_a_module_is_compiled_to_the_operators_alone(kind):
    torch._dynamo.reset()
    module, graphs = make(kind, 4, 6, num_layers=2, bidirectional=True), []

    def record(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph

    with FakeTensorMode():
        module = on_cuda(module)
        x = torch.empty(3, 5, 4, device="cuda")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the reference would warn
            y, hx = module(x)
        compiled_y, compiled_hx = torch.compile(module, fullgraph=True, backend=record)(x)
    assert y.shape == (3, 5, 12) and y.device.type == "cuda"
    assert [(t.shape, t.device) for t in flat((compiled_y, compiled_hx))] == [
        (t.shape, t.device) for t in flat((y, hx))
    ]
    (graph,) = graphs
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert called.count(ops.layer_forward) == 2
    assert not {torch.tanh, torch.relu, torch.sigmoid, nn.functional.linear} & set(called)


def test_reasons_against_cuda(monkeypatch):
    cuda = torch.device("cuda")
    assert dispatch.reasons_against("gru", cuda, torch.bfloat16)["triton"] == []
    assert triton.reasons_against("gru", torch.device("cpu"), torch.float32) == [
        "it runs on a GPU, the input is on cpu"
    ]
    (reason,) = triton.reasons_against("elman", cuda, torch.float32)
    assert re.fullmatch(r"it has the cells (\w+, )*lstm(, \w+)*, not elman", reason)
    (reason,) = triton.reasons_against("gru", cuda, torch.int32)
    assert "it takes torch.float32" in reason and "the input is torch.int32" in reason
    monkeypatch.setattr(triton, "missing", "Triton is not installed")
    assert dispatch.reasons_against("gru", cuda, torch.bfloat16)["triton"] == ["Triton is not installed"]
    with FakeTensorMode(), pytest.warns(UserWarning, match="run on the slow reference .*triton: Triton is not inst"):
        assert not dispatch.runs_fused("gru", torch.empty(3, 5, 4, device="cuda"))


@pytest.mark.parametrize("hidden,regime", [(64, "resident"), (512, "cooperative"), (4096, "stepwise")])
def test_explain_shows_the_plan_on_the_gpu(hidden, regime):
    module = make("lstm", 4, hidden, dtype=torch.bfloat16)
    with FakeTensorMode():
        module = on_cuda(module)
        text = explain(module, torch.empty(3, 5, 4, device="cuda", dtype=torch.bfloat16))
    assert "backend: triton" in text and "not cpu: it runs on the CPU, the input is on cuda" in text
    assert f"plan: {regime} on H100 (sm_90): " in text
    not_taken = {"resident": [], "cooperative": ["resident"], "stepwise": ["resident", "cooperative"]}[regime]
    assert re.findall(r"; not (\w+): ", text) == not_taken


@layers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_explain_counts_the_bytes_that_forward_saves(kind, dtype, launched):
    p = problem(kind, replace(CASES["dense"], I=17)).to(dtype)
    *_, saved = operators.layer_forward(*arguments_of_forward(p))
    module = make(kind, 17, 17, dtype=dtype)
    with FakeTensorMode():
        text = explain(on_cuda(module), torch.empty(p.x.shape, dtype=dtype, device="cuda"))
    told = f"{saved.nbytes:,} bytes" if saved.numel() else "nothing besides input and output"
    assert f"saved for backward: {told}" in text
