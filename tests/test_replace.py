"""accelerate and restore: what changes is the class, and nothing else."""

import copy
import functools
import pickle

import pytest
import torch
from comparison import LAYERS, assert_same, every_torch_module, inputs, pair, results, run_by_fastrnn
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastrnn
from fastrnn.modules import Cell

pytestmark = pytest.mark.usefixtures("single_thread", "no_warnings_unless_expected")


class Tagger(nn.Module):
    """Recurrent modules at several depths, one of them in two places."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(4, 5, 2, bidirectional=True, dropout=0.3)
        self.layers = nn.ModuleList([nn.GRU(10, 10), nn.RNN(10, 10)])
        self.again = self.layers[0]
        self.cells = nn.ModuleDict({"lstm": nn.LSTMCell(10, 10), "gru": nn.GRUCell(10, 10), "rnn": nn.RNNCell(10, 10)})
        self.head = nn.Linear(10, 2)

    def forward(self, x, hx=None):
        y, _ = self.encoder(x, hx)
        for layer in (*self.layers, self.again):
            y, _ = layer(y)
        h = self.cells["rnn"](self.cells["gru"](self.cells["lstm"](y[-1])[0]))
        return self.head(h)


def tagger():
    torch.manual_seed(0)
    return Tagger().double()


def recurrent(model):
    return [m for m in model.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]


either_class = pytest.mark.parametrize("fullgraph", [False, True], ids=["", "fullgraph"])


@either_class
@every_torch_module
def test_a_module_itself_is_swapped_and_restored(kinds, kind, fullgraph):
    theirs, _ = pair(kinds, kind, 4, 5, dtype=torch.float64)
    cls, attributes, text = type(theirs), set(vars(theirs)), repr(theirs)
    x = inputs(3, 4)
    expected = results(theirs, x)

    assert fastrnn.accelerate(theirs, fullgraph) is theirs
    assert isinstance(theirs, getattr(fastrnn, cls.__name__))
    assert isinstance(theirs, cls) is not fullgraph
    assert run_by_fastrnn(theirs, x)
    assert repr(theirs) == text
    assert_same(results(theirs, x), expected)

    assert fastrnn.restore(theirs) is theirs
    assert type(theirs) is cls
    assert set(vars(theirs)) == attributes
    assert_same(results(theirs, x), expected)


@every_torch_module
def test_a_module_built_as_fastrnn_is_restored_too(kinds, kind):
    theirs, ours = pair(kinds, kind, 4, 5, dtype=torch.float64)
    restored = fastrnn.restore(ours)
    assert type(restored) is type(theirs)
    assert vars(restored).keys() == vars(theirs).keys()
    assert_same(results(restored, inputs(3, 4)), results(theirs, inputs(3, 4)))


def test_a_model_keeps_everything_but_the_classes():
    model = tagger()
    x = inputs(6, 3, 4)
    expected = results(model, x)
    parameters = dict(model.named_parameters())
    names, text = list(model.state_dict()), repr(model)

    fastrnn.accelerate(model)
    assert all(isinstance(m, (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN, Cell)) for m in recurrent(model))
    assert model.again is model.layers[0]
    assert all(parameters[name] is p for name, p in model.named_parameters())
    assert (list(model.state_dict()), repr(model)) == (names, text)
    assert_same(results(model, x), expected)

    fastrnn.restore(model)
    assert all(type(m) is getattr(nn, type(m).__name__) for m in recurrent(model))
    assert all(parameters[name] is p for name, p in model.named_parameters())
    assert_same(results(model, x), expected)


@either_class
def test_swapping_twice_changes_nothing(fullgraph):
    model = fastrnn.accelerate(tagger(), fullgraph)
    classes = [type(m) for m in model.modules()]
    assert [type(m) for m in fastrnn.accelerate(model, fullgraph).modules()] == classes
    fastrnn.restore(fastrnn.restore(model))
    assert [type(m) for m in model.modules()] == [type(m) for m in tagger().modules()]


def test_one_choice_changes_over_to_the_other():
    model, x = tagger(), inputs(6, 3, 4)
    expected = results(model, x)
    for fullgraph in (False, True, False):
        fastrnn.accelerate(model, fullgraph)
        kept = [isinstance(m, (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)) for m in recurrent(model)]
        assert kept == [not fullgraph] * 6
        assert_same(results(model, x), expected)


@torch.no_grad()
def test_a_model_is_compiled_whole_where_it_was_asked_for():
    x = inputs(6, 3, 4)
    model = fastrnn.accelerate(tagger().eval())
    expected = model(x)
    whole = functools.partial(torch.compile, model, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Attempted to wrap RNN, GRU, or LSTM"):
        whole()(x)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), expected)
    with torch._dynamo.config.patch(allow_rnn=True):
        torch.testing.assert_close(whole()(x), expected)
    fastrnn.accelerate(model, fullgraph=True)
    torch.testing.assert_close(whole()(x), expected)


def test_mode_hooks_buffers_and_attributes_stay():
    lstm = nn.LSTM(4, 5, dtype=torch.float64).eval()
    lstm.weight_hh_l0.requires_grad_(False)
    lstm.register_buffer("steps", torch.tensor(7))
    lstm.note = "mine"
    seen = []
    lstm.register_forward_pre_hook(lambda *_: seen.append("pre"))
    lstm.register_forward_hook(lambda *_: seen.append("forward"))
    lstm.register_full_backward_hook(lambda *_: seen.append("backward"))
    lstm.register_state_dict_post_hook(lambda *_: seen.append("state_dict"))
    for swap in (fastrnn.accelerate, fastrnn.restore):
        swap(lstm)
        seen.clear()
        lstm(inputs(6, 3, 4).requires_grad_())[0].sum().backward()
        assert set(lstm.state_dict()) >= {"steps", "weight_hh_l0"}
        assert seen == ["pre", "forward", "backward", "state_dict"]
        assert not lstm.training and not lstm.weight_hh_l0.requires_grad
        assert lstm.note == "mine" and lstm.steps == 7


def test_an_optimizer_goes_on_with_the_same_parameters():
    model, reference = tagger(), tagger()
    steppers = [torch.optim.Adam(m.parameters()) for m in (model, reference)]
    for swap in (fastrnn.accelerate, fastrnn.restore):
        swap(model)
        for m, stepper in zip((model, reference), steppers, strict=True):
            stepper.zero_grad()
            torch.manual_seed(1)
            m(inputs(6, 3, 4)).square().sum().backward()
            stepper.step()
        assert_same(model.state_dict(), reference.state_dict())


def test_to_after_restore_moves_what_torch_uses():
    model = fastrnn.restore(fastrnn.accelerate(tagger())).float()
    assert model(inputs(6, 3, 4, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_swapped_models_can_be_copied(duplicate):
    x = inputs(6, 3, 4)
    model = tagger()
    expected = results(model, x)
    for swap in (fastrnn.accelerate, fastrnn.restore):
        swap(model)
        assert_same(results(duplicate(model), x), expected)


def test_pruned_modules_stay_pruned():
    gru = nn.GRU(4, 5, dtype=torch.float64)
    prune.l1_unstructured(gru, "weight_hh_l0", 0.5)
    expected = results(gru, inputs(6, 3, 4))
    for swap in (fastrnn.accelerate, fastrnn.restore):
        assert_same(results(swap(gru), inputs(6, 3, 4)), expected)
        assert prune.is_pruned(gru)


def weight_normed(kinds, kind):
    module, _ = pair(kinds, kind, 4, 5, dtype=torch.float64)
    name = "weight_hh_l0" if kinds is LAYERS else "weight_hh"
    return parametrizations.weight_norm(module, name), name


@every_torch_module
def test_parametrized_modules(kinds, kind):
    module, name = weight_normed(kinds, kind)
    plain, text = type(module).__bases__[0], repr(module)
    expected = results(module, inputs(3, 4))

    fastrnn.accelerate(module)
    assert isinstance(module, getattr(fastrnn, plain.__name__)) and isinstance(module, plain) and repr(module) == text
    assert_same(results(module, inputs(3, 4)), expected)
    assert_same(results(copy.deepcopy(module), inputs(3, 4)), expected)

    fastrnn.restore(module)
    assert type(module).__bases__ == (plain,) and repr(module) == text
    assert_same(results(module, inputs(3, 4)), expected)


@every_torch_module
def test_parametrizations_come_and_go_while_accelerated(kinds, kind):
    module, name = weight_normed(kinds, kind)
    other = name.replace("hh", "ih")
    fastrnn.accelerate(module)
    accelerated = type(module).__bases__[0]
    parametrize.remove_parametrizations(module, name)
    assert type(module) is accelerated
    parametrizations.weight_norm(module, other)
    expected = results(module, inputs(3, 4))
    fastrnn.restore(module)
    assert_same(results(module, inputs(3, 4)), expected)
    parametrize.remove_parametrizations(module, other)
    assert type(module) is getattr(nn, type(module).__name__)


def test_a_copy_made_before_is_not_touched():
    module, name = weight_normed(LAYERS, "lstm")
    twin = copy.deepcopy(module)
    fastrnn.accelerate(module)
    parametrize.remove_parametrizations(module, name)
    assert isinstance(twin, nn.LSTM)
    assert parametrize.is_parametrized(twin, name)
    assert_same({"y": twin(inputs(6, 3, 4))[0]}, {"y": module(inputs(6, 3, 4))[0]})


@either_class
def test_assigned_weights_go_along(fullgraph):
    lstm, x = nn.LSTM(4, 5, dtype=torch.float64), inputs(6, 3, 4)
    lstm._flat_weights = [w.detach() / 2 for w in lstm._flat_weights]
    expected = lstm(x)[0]
    for swap in (lambda m: fastrnn.accelerate(m, fullgraph), fastrnn.restore):
        torch.testing.assert_close(swap(lstm)(x)[0], expected)
