"""accelerate and restore on instances of users' classes, which get a class of their own; what cannot be swapped."""

import abc
import copy
import functools
import gc
import io
import multiprocessing
import pickle

import pytest
import torch
from comparison import assert_same, inputs, results, run_by_fastrnn
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastrnn

pytestmark = pytest.mark.usefixtures("single_thread", "no_warnings_unless_expected")


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
