"""accelerate and restore: what changes is the class, and nothing else."""

import abc
import copy
import functools
import gc
import io
import multiprocessing
import pickle
import warnings

import pytest
import torch
from comparison import LAYERS, assert_same, every_torch_module, inputs, pair, results
from torch import nn
from torch.autograd.profiler import profile
from torch.nn.utils import parametrizations, parametrize, prune

import fastrnn
from fastrnn.modules import Cell

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(autouse=True)
def no_warnings_unless_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


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


def run_by_fastrnn(module, x):
    with torch.no_grad(), profile(use_cpu=True) as events:
        module(x)
    return any(event.name == "fastrnn::layer_forward" for event in events.function_events)


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


# Subclasses


class Same(nn.GRU):
    pass


class Padded(nn.LSTM):
    """A forward around torch.nn's, an attribute and a method of its own."""

    def __init__(self, *args, scale, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = scale

    def forward(self, input, hx=None):
        y, hx = super().forward(self.scaled(input), hx)
        return y + 1, hx

    def scaled(self, input):
        return input * self.scale


class Again(Padded):
    def forward(self, input, hx=None):
        return super().forward(-input, hx)


def doubled(function):
    @functools.wraps(function)
    def wrapper(self, *args):
        y, hx = function(self, *args)
        return y * 2, hx

    return wrapper


class Decorated(nn.RNN):
    @doubled
    def forward(self, input, hx=None):
        return self.encoded(input, hx)

    def encoded(self, input, hx):
        return super().forward(input, hx)


class Base(abc.ABC, nn.RNNBase):
    """Its forward is torch.nn's only in a class that derives from both."""

    def forward(self, input, hx=None):
        return super().forward(input, hx=hx)


class Mixed(Base, nn.LSTM):
    pass


class Counted(nn.Module):
    moves = 0

    def _apply(self, fn, recurse=True):
        self.moves += 1
        return super()._apply(fn, recurse)


class Moved(nn.GRU, Counted):
    pass


class Named(nn.GRUCell):
    __slots__ = ("name",)

    def forward(self, input, hx=None):
        return super().forward(input.tanh(), hx)


SUBCLASSES = {
    "same": (Same, {}),
    "around": (Padded, {"scale": 0.5, "bidirectional": True}),
    "two-levels": (Again, {"scale": 0.5}),
    "decorated": (Decorated, {}),
    "mixed": (Mixed, {"num_layers": 2}),
    "cell": (Named, {}),
}
every_subclass = pytest.mark.parametrize("cls,options", SUBCLASSES.values(), ids=SUBCLASSES)


@every_subclass
def test_instances_of_subclasses_are_swapped_and_restored(cls, options):
    module, x = cls(4, 5, **options).double(), inputs(3, 4)
    plain = next(base for base in cls.__mro__ if base.__module__ == "torch.nn.modules.rnn")
    expected, attributes, text = results(module, x), set(vars(module)), repr(module)
    twin = copy.deepcopy(module)

    fastrnn.accelerate(nn.ModuleList([module, twin]))
    assert type(module) is type(twin)
    assert all(isinstance(module, base) for base in (cls, plain, getattr(fastrnn, plain.__name__)))
    assert run_by_fastrnn(module, x)
    assert repr(module) == text
    assert_same(results(module, x), expected)

    fastrnn.restore(module)
    assert type(module) is cls
    assert set(vars(module)) == attributes
    assert_same(results(module, x), expected)


def save_and_load(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@every_subclass
@pytest.mark.parametrize("duplicate", [copy.deepcopy, save_and_load], ids=["copy", "torch.save"])
def test_accelerated_subclasses_can_be_copied(cls, options, duplicate):
    module, x = cls(4, 5, **options).double(), inputs(3, 4)
    expected = results(module, x)
    other = duplicate(fastrnn.accelerate(module))
    assert type(other) is type(module)
    assert_same(results(other, x), expected)
    assert type(fastrnn.restore(other)) is cls


class Fleeting(nn.GRU):
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_makes_the_class_again(protocol):
    module = fastrnn.accelerate(Fleeting(4, 5))
    data, weight = pickle.dumps(module, protocol), module.weight_hh_l0
    del module
    gc.collect()
    assert not Fleeting.__subclasses__()
    again = pickle.loads(data)
    assert isinstance(again, Fleeting) and isinstance(again, fastrnn.GRU)
    assert torch.equal(again.weight_hh_l0, weight)


def test_another_process_makes_the_class_again():
    model = fastrnn.accelerate(nn.ModuleList([Padded(4, 5, scale=2.0), nn.GRU(4, 5)]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(bases_of, (model,)) == bases_of(model)


def bases_of(model):
    return [[base.__qualname__ for base in type(m).__mro__] for m in model.modules()]


def test_a_parametrized_subclass():
    module, x = Padded(4, 5, scale=2.0).double(), inputs(3, 4)
    parametrizations.weight_norm(module, "weight_hh_l0")
    expected = results(module, x)
    fastrnn.accelerate(module)
    assert run_by_fastrnn(module, x)
    assert_same(results(module, x), expected)
    fastrnn.restore(module)
    assert type(module).__bases__ == (Padded,)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is Padded


def test_other_bases_of_a_subclass_are_called():
    module = fastrnn.accelerate(Moved(4, 5))
    module.double()
    assert module.moves == 1


def test_fx_takes_a_layer_as_one_module():
    x = inputs(6, 3, 4)
    model = fastrnn.accelerate(nn.Sequential(nn.LSTM(4, 5, dtype=torch.float64)))
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(traced(x), model(x))


def test_a_class_of_users_is_built_again_by_its_instance():
    """As programs do that know a module by its attributes."""
    module = fastrnn.accelerate(Padded(4, 5, scale=2.0))
    other = type(module)(4, 5, scale=2.0)
    other.load_state_dict(module.state_dict())
    x = inputs(3, 4, dtype=torch.float32)
    torch.testing.assert_close(other(x), module(x))


class Own(nn.LSTM):
    def forward(self, input, hx=None):
        return torch.zeros(()), None


class ByName(nn.LSTM):
    def forward(self, input, hx=None):
        return nn.LSTM.forward(self, input, hx)


class Over(Padded):
    def forward(self, input, hx=None):
        return torch.zeros(()), None


class Unchecked(nn.LSTM):
    def check_forward_args(self, input, hidden, batch_sizes):
        pass


def with_attribute(module, name, value):
    setattr(module, name, value)
    return module


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_what_cannot_be_swapped_is_named_in_one_warning():
    kept = {
        "own": Own(4, 4),
        "by-name": ByName(4, 4),
        "over": Over(4, 4, scale=1.0),
        "unchecked": Unchecked(4, 4),
        "unchecked-here": with_attribute(nn.LSTM(4, 4), "check_input", lambda *_: None),
        "stateful": with_attribute(nn.GRU(4, 4), "_state", None),
        "mode": with_attribute(nn.GRU(4, 4), "mode", "summary"),
        "cell-mode": with_attribute(nn.GRUCell(4, 4), "mode", "summary"),
        "patched": with_attribute(nn.GRU(4, 4), "forward", lambda x: (x, None)),
        "scripted": torch.jit.script(nn.LSTM(4, 4)),
        "reference": torch.ao.nn.quantized.reference.GRUCell(4, 4),
    }
    model = nn.ModuleDict({**kept, "lstm": nn.LSTM(4, 4)})
    classes = {name: type(module) for name, module in kept.items()}
    with pytest.warns(UserWarning, match="not replaced by fastrnn") as caught:
        fastrnn.accelerate(model)
    assert len(caught) == 1 and caught[0].filename == __file__
    lines = str(caught[0].message).splitlines()[1:]
    reasons = dict(line.strip().split(": ") for line in lines)
    assert reasons == {
        "own": "it is of Own, whose forward does not call super().forward()",
        "by-name": "it is of ByName, whose forward does not call super().forward()",
        "over": "it is of Over, whose forward does not call super().forward()",
        "unchecked": "its check_forward_args is its own, which torch.nn's forward uses",
        "unchecked-here": "its check_input is its own, which torch.nn's forward uses",
        "stateful": "its attribute _state has another meaning in fastrnn",
        "mode": "its attribute mode has another meaning in fastrnn",
        "cell-mode": "its attribute mode has another meaning in fastrnn",
        "patched": "its forward is set on the instance",
        "scripted": "it is scripted",
        "reference": "it is quantized",
    }
    assert {name: type(module) for name, module in kept.items()} == classes
    assert type(model["lstm"]) is not nn.LSTM


def test_a_class_that_allows_no_other_is_named():
    class Closed(nn.LSTM):
        def __init_subclass__(cls):
            raise TypeError("no subclasses")

    with pytest.warns(UserWarning, match="no class can be derived from .*Closed and fastrnn's: no subclasses"):
        fastrnn.accelerate(Closed(4, 5))


def test_subclasses_are_named_where_a_whole_graph_was_asked_for():
    model = nn.ModuleList([Padded(4, 5, scale=1.0), Same(4, 5), nn.LSTM(4, 5)])
    fastrnn.accelerate(model[0])
    classes = [type(module) for module in model[:2]]
    with pytest.warns(UserWarning, match="Padded, a subclass of torch.nn.LSTM.*\n.*Same, a subclass of torch.nn.GRU"):
        fastrnn.accelerate(model, fullgraph=True)
    assert [type(module) for module in model] == [*classes, fastrnn.LSTM]


def test_the_model_itself_is_named_in_words():
    with pytest.warns(UserWarning, match="the model itself"):
        fastrnn.accelerate(Own(4, 4))
