"""torch.fx.symbolic_trace takes fastrnn's modules for leaves."""

import pytest
import torch
from comparison import build, every_module, inputs, states
from torch import fx, nn

import fastrnn
from fastrnn.testing import LAYERS


class Model(nn.Module):
    """The module twice, inside another one and with a state that is a value of the graph."""

    def __init__(self, module, is_layer):
        super().__init__()
        self.inner, self.is_layer = nn.Sequential(nn.Linear(4, 4), module), is_layer

    def forward(self, x, hx):
        first = self.inner(x)
        return first, self.inner[1](x, hx=first[1] if self.is_layer else first), self.inner[1](x + 1, hx)


@pytest.mark.parametrize("frozen", [False, True], ids=["plain", "frozen"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@every_module
def test_modules_are_leaves(kinds, kind, training, frozen):
    is_layer = kinds is LAYERS
    module = build(fastrnn, kinds, kind, 4, 5)
    model = Model(fastrnn.freeze(module, "int8") if frozen else module, is_layer).train(training)
    x = inputs(*((3, 2) if is_layer else (2,)), 4, dtype=torch.float32)
    hx = states(kind, 1 if is_layer else None, 2, 5, dtype=torch.float32)
    with torch.set_grad_enabled(training and not frozen):
        traced = fx.symbolic_trace(model)
        assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["inner.0"] + ["inner.1"] * 3
        assert traced.get_submodule("inner.1") is module
        torch.testing.assert_close(traced(x, hx), model(x, hx), rtol=0, atol=0)


def test_hooks_are_not_run_twice():
    """As torch.fx has traced them when it finds the leaf."""
    module = fastrnn.GRU(4, 4)
    module.register_forward_pre_hook(lambda module, arguments: (2 * arguments[0],))
    model = nn.Sequential(module)
    with pytest.raises(fx.proxy.TraceError, match=r"0 has forward hooks: expected a Tracer whose is_leaf_module\(\)"):
        fx.symbolic_trace(model)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, path):
            return isinstance(module, fastrnn.GRU) or super().is_leaf_module(module, path)

    x = torch.randn(3, 2, 4)
    traced = fx.GraphModule(model, Tracer().trace(model))
    torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)


def test_a_leaf_itself_is_not_traced():
    with pytest.raises(fx.proxy.TraceError, match="LSTM is a leaf: expected a model that contains it"):
        fx.symbolic_trace(fastrnn.LSTM(4, 4))


def test_segments_are_those_of_the_leaf():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = fastrnn.LSTM(4, 5)

        def forward(self, x, lengths, reset):
            y, _, states = self.rnn(x, lengths=lengths, reset=reset, return_states=True)
            return y, states[1]

    model = Model()
    traced = fx.symbolic_trace(model)
    (leaf,) = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert list(leaf.kwargs) == ["lengths", "reset", "return_states"]
    given = torch.randn(3, 2, 4), torch.tensor([3, 1]), torch.rand(3, 2) < 0.5
    torch.testing.assert_close(traced(*given), model(*given), rtol=0, atol=0)
