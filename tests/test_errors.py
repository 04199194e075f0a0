"""The same bad call to both modules raises the same error with the same message."""

import warnings

import pytest
import torch
from comparison import (
    CELL_MODULES,
    LAYERS,
    every_module,
    modules_of,
    pair,
    states,
    tensors,
    torch_cells,
    torch_layers,
)
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn.spec import CELLS
from fastrnn.testing import IN_TORCH

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@pytest.fixture(autouse=True, params=[True, False], ids=["grad", "no-grad"])
def grad_mode(request):
    """Without gradients a call takes a shorter way, which must refuse the same."""
    with torch.set_grad_enabled(request.param):
        yield


def error(call):
    with pytest.raises(Exception) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return caught.type, str(caught.value)


@pytest.mark.parametrize("class_name", sorted({LAYERS[kind].class_name for kind in IN_TORCH}))
@pytest.mark.parametrize(
    "arguments",
    [
        {"input_size": 0},
        {"hidden_size": 0},
        {"input_size": 1.5},
        {"hidden_size": "5"},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"dropout": True},
        {"bias": 1},
        {"batch_first": 0},
        {"proj_size": 5},
        {"proj_size": -1},
        {"proj_size": 0, "nonsense": 1},
        {"nonlinearity": "gelu"},
        {"nonsense": 1},
    ],
    ids=lambda arguments: ",".join(f"{name}={value}" for name, value in arguments.items()),
)
def test_constructor_errors(class_name, arguments):
    arguments = {"input_size": 4, "hidden_size": 5} | arguments
    ours, theirs = (lambda ns=ns: getattr(ns, class_name)(**arguments) for ns in (fastrnn, nn))
    assert error(ours) == error(theirs)


def test_dropout_on_one_layer_warns():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last") as caught:
        fastrnn.GRU(4, 5, dropout=0.5)
    assert len(caught) == 1


def zeros(*shapes):
    made = tuple(torch.zeros(shape) for shape in shapes)
    return made if len(made) > 1 else made[0]


LAYER_ERRORS = {
    "1-D": lambda n: (zeros((4,)), None),
    "4-D": lambda n: (zeros((6, 3, 4, 1)), None),
    "input-size": lambda n: (zeros((6, 3, 5)), None),
    "input-size-unbatched": lambda n: (zeros((6, 5)), None),
    "input-dtype": lambda n: (zeros((6, 3, 4)).double(), None),
    "no-steps": lambda n: (zeros((0, 3, 4)), None),
    "no-steps-unbatched": lambda n: (zeros((0, 4)), None),
    "hx-2-D": lambda n: (zeros((6, 3, 4)), zeros(*n * [(3, 5)])),
    "hx-3-D-unbatched": lambda n: (zeros((6, 4)), zeros(*n * [(2, 1, 5)])),
    "hx-rows": lambda n: (zeros((6, 3, 4)), zeros(*n * [(1, 3, 5)])),
    "hx-batch": lambda n: (zeros((6, 3, 4)), zeros(*n * [(2, 4, 5)])),
    "hx-size": lambda n: (zeros((6, 3, 4)), zeros(*n * [(2, 3, 6)])),
    "hx-size-unbatched": lambda n: (zeros((6, 4)), zeros(*n * [(2, 6)])),
}


@torch_layers
@pytest.mark.parametrize("bad", LAYER_ERRORS.values(), ids=LAYER_ERRORS)
def test_layer_errors(kind, bad):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2)
    arguments = bad(len(CELLS[kind].states))
    assert error(lambda: ours(*arguments)) == error(lambda: theirs(*arguments))


@pytest.mark.parametrize(
    "hx",
    [
        pytest.param(zeros((2, 3, 5), (2, 3, 6)), id="cell-size"),
        pytest.param(zeros((2, 3, 5), (2, 5)), id="cell-2-D"),
        pytest.param(zeros((2, 3, 5), (2, 3, 5), (2, 3, 5)), id="three"),
        pytest.param([zeros((2, 3, 5))], id="one"),
        pytest.param(zeros((2, 3, 5)), id="tensor"),
    ],
)
def test_lstm_state_errors(hx):
    theirs, ours = pair(LAYERS, "lstm", 4, 5, 2)
    x = zeros((6, 3, 4))
    assert error(lambda: ours(x, hx)) == error(lambda: theirs(x, hx))


@every_module
@pytest.mark.parametrize("hx", [(), (zeros((1, 3, 5)),), 3 * (zeros((1, 3, 5)),)], ids=["none", "one", "three"])
def test_tuples_of_another_number_of_states(kinds, kind, hx):
    x = zeros((6, 3, 4)) if kinds is LAYERS else zeros((3, 4))
    hx = tuple(s if kinds is LAYERS else s[0] for s in hx)
    for module in modules_of(kinds, kind, 4, 5):
        with pytest.raises((RuntimeError, AttributeError, IndexError, TypeError, ValueError)):
            module(x, hx)


@every_module
@pytest.mark.parametrize("elsewhere", ["weights", "hx", "input"])
def test_tensors_without_memory_beside_others(kinds, kind, elsewhere):
    device = {name: "meta" if name == elsewhere else "cpu" for name in ("weights", "hx", "input")}
    _, ours = pair(kinds, kind, 4, 5)
    ours.to(device["weights"])
    hx = states(kind, 1 if kinds is LAYERS else None, 3, 5, dtype=torch.float32)
    hx = tuple(s.to(device["hx"]) for s in hx) if isinstance(hx, tuple) else hx.to(device["hx"])
    with pytest.raises(RuntimeError):
        ours((zeros((6, 3, 4)) if kinds is LAYERS else zeros((3, 4))).to(device["input"]), hx)


@every_module
def test_states_whose_storage_was_freed(kinds, kind):
    _, ours = pair(kinds, kind, 4, 5)
    hx = states(kind, 1 if kinds is LAYERS else None, 3, 5, dtype=torch.float32)
    next(reversed(list(tensors([hx])))).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        ours(zeros((6, 3, 4)) if kinds is LAYERS else zeros((3, 4)), hx)


@pytest.mark.parametrize("kind", ["rnn_tanh", "gru"])
@pytest.mark.parametrize("bad", ["input-3-D", "input-size", "hx-size", "hx-batch"])
def test_packed_errors(kind, bad):
    theirs, ours = pair(LAYERS, kind, 4, 5)
    features = {"input-3-D": (2, 4), "input-size": (5,)}.get(bad, (4,))
    x = pack_sequence([zeros((3, *features)), zeros((1, *features))])
    hx = zeros((1, 3 if bad == "hx-batch" else 2, 6 if bad == "hx-size" else 5))
    assert error(lambda: ours(x, hx)) == error(lambda: theirs(x, hx))


@every_module
def test_state_of_another_dtype(kinds, kind):
    *theirs, ours = modules_of(kinds, kind, 4, 5)
    x = zeros((6, 3, 4)) if kinds is LAYERS else zeros((3, 4))
    hx = states(kind, 1 if kinds is LAYERS else None, 3, 5)
    for module in theirs:
        with pytest.raises(RuntimeError):
            module(x, hx)
    with pytest.raises(RuntimeError, match="dtype torch.float32, got torch.float64"):
        ours(x, hx)


CELL_ERRORS = {
    "3-D": lambda n: (zeros((6, 3, 4)), None),
    "input-size": lambda n: (zeros((3, 5)), None),
    "input-size-unbatched": lambda n: (zeros((5,)), None),
    "hx-3-D": lambda n: (zeros((3, 4)), zeros(*n * [(1, 3, 5)])),
    "hx-batch": lambda n: (zeros((3, 4)), zeros(*n * [(2, 5)])),
    "hx-size": lambda n: (zeros((3, 4)), zeros(*n * [(3, 6)])),
    "hx-1-D": lambda n: (zeros((3, 4)), zeros(*n * [(5,)])),
    "hx-2-D-unbatched": lambda n: (zeros((4,)), zeros(*n * [(1, 5)])),
    "hx-one-too-many": lambda n: (zeros((3, 4)), zeros(*(n + 1) * [(3, 5)])),
}


@torch_cells
@pytest.mark.parametrize("bad", CELL_ERRORS.values(), ids=CELL_ERRORS)
def test_cell_errors(kind, bad):
    theirs, ours = pair(CELL_MODULES, kind, 4, 5)
    arguments = bad(len(CELLS[kind].states))
    assert error(lambda: ours(*arguments)) == error(lambda: theirs(*arguments))


def test_unknown_nonlinearity_of_a_cell():
    calls = [lambda ns=ns: ns.RNNCell(4, 5, nonlinearity="gelu")(zeros((3, 4))) for ns in (fastrnn, nn)]
    assert error(calls[0]) == error(calls[1])


@pytest.mark.parametrize(
    "change,message",
    [
        ({"cell": "elman"}, f"expected one of {', '.join(CELLS)}, got 'elman'"),
        ({"x": zeros((6, 4))}, "x: expected 3 dimensions, got 2"),
        ({"x": zeros((0, 3, 4))}, "x: expected at least one time step, got none"),
        ({"x": zeros((6, 3, 7))}, "weights[0]: expected shape (15, 7), got (15, 4)"),
        ({"num_layers": 3}, "weights: expected 12 tensors"),
        ({"cell": "lstm"}, "weights[0]: expected shape (20, 4), got (15, 4)"),
        ({"state": zeros((2, 3, 5), (2, 3, 5))}, "state: expected 1 tensors (h), got 2"),
        ({"state": (zeros((1, 3, 5)),)}, "state[0]: expected shape (2, 3, 5), got (1, 3, 5)"),
        ({"state": (zeros((2, 3, 5)).double(),)}, "state[0]: expected dtype torch.float32 as of x, got torch.float64"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_functional_says_expected_and_got(change, message):
    weights = list(tensors(nn.GRU(4, 5, 2).all_weights))
    arguments = {"cell": "gru", "x": zeros((6, 3, 4)), "state": (), "weights": weights, "num_layers": 2} | change
    with pytest.raises(ValueError) as caught:
        fastrnn.functional.rnn(**arguments)
    assert message in str(caught.value)
