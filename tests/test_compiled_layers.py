"""Layers whole in torch.compile, in compiled autograd and in torch.func."""

import copy

import pytest
import torch
from comparison import LAYERS, assert_same, inputs, pair
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

import fastrnn
from fastrnn.ops import layer_backward


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.rnn = fastrnn.LSTM(8, 16)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


def test_compiled_model_trains_and_infers_at_any_length():
    """Three compilations: the first length, any length, any length without gradients."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = Tagger().double()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True)
    before = counters["stats"]["unique_graphs"]

    def train(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = nn.functional.cross_entropy(model(tokens[:-1]).flatten(0, 1), tokens[1:].flatten())
        loss.backward()
        gradients = {name.removeprefix("_orig_mod."): p.grad for name, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.detach()} | gradients

    for length in (7, 7, 9, 5, 12, 2):
        tokens = torch.randint(20, (length + 1, 3))
        expected = train(eager, tokens)
        assert_same(train(compiled, tokens), expected)
    assert counters["stats"]["unique_graphs"] - before == 2
    with torch.no_grad():
        for length in (8, 4, 31):
            tokens = torch.randint(20, (length, 3))
            assert_same({"y": compiled(tokens)}, {"y": eager(tokens)})
    assert counters["stats"]["unique_graphs"] - before == 3


def test_the_first_use_of_all_compiles_once(monkeypatch):
    """Nothing that a traced call changes may be guarded, or the second call compiles again."""
    monkeypatch.setattr("fastrnn.ops.dispatch._answers", {}, raising=False)
    torch._dynamo.reset()
    compiled = torch.compile(fastrnn.GRU(4, 5), fullgraph=True, backend="eager")
    before = counters["stats"]["unique_graphs"]
    for _ in range(2):
        compiled(inputs(6, 3, 4, dtype=torch.float32))
    assert counters["stats"]["unique_graphs"] - before == 1


@pytest.mark.parametrize("kind", ["gru", "lstm"])  # of one state and of two
def test_compiled_autograd_takes_backward_whole(kind):
    torch._dynamo.reset()
    _, module = pair(LAYERS, kind, 4, 5, 2, bidirectional=True, dtype=torch.float64)
    x, graphs = inputs(6, 3, 4), []

    def record(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    expected = torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()))
    loss = module(x)[0].square().sum()
    with torch._dynamo.compiled_autograd._enable(
        torch.compile(backend=aot_autograd(fw_compiler=record), fullgraph=True)
    ):
        loss.backward()
    got = {name: p.grad for name, p in module.named_parameters()}
    assert_same(got, dict(zip(got, expected, strict=True)))
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes].count(layer_backward) == 2


@pytest.mark.parametrize("kind", LAYERS)
def test_torch_func_grad(kind):
    _, module = pair(LAYERS, kind, 4, 5, bidirectional=True, dtype=torch.float64)
    x = inputs(6, 3, 4)
    parameters = dict(module.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, parameters, (x,))[0].square().sum()

    got = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    assert_same(got, dict(zip(parameters, expected, strict=True)))
