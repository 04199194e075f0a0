"""fastrnn's layers and cells give what torch.nn's give: construction, outputs, states and gradients.

Cells that torch.nn lacks give what the reference gives.
"""

import pytest
import torch
from comparison import (
    CELL_MODULES,
    LAYERS,
    TORCH_LAYERS,
    assert_same,
    cells,
    each,
    inputs,
    layers,
    pair,
    results,
    rows,
    states,
    tensors,
    torch_cells,
    with_options,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn.testing import assert_accurate

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


SHAPES = [(1, 1, 1), (2, 5, 17), (17, 1, 64), (17, 5, 17)]
shapes = pytest.mark.parametrize("T,B,H", SHAPES, ids=lambda n: str(n))

OPTIONS = {
    "plain": {},
    "no-bias": {"bias": False},
    "batch-first": {"batch_first": True},
    "stacked": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
}
PROJECTED = {
    "projected": {"proj_size": 3},
    "projected-all": {"proj_size": 3, "num_layers": 2, "bidirectional": True, "bias": False},
}


# Construction


@with_options(OPTIONS | PROJECTED, TORCH_LAYERS)
def test_same_seed_gives_the_same_module(kind, options):
    ours, theirs = reversed(pair(LAYERS, kind, 4, 5, **options))
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for (name, p), (their_name, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == their_name
        assert torch.equal(p, q)
    for p, q in zip(tensors(ours.all_weights), tensors(theirs.all_weights), strict=True):
        assert torch.equal(p, q)
    for name in theirs.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)


@torch_cells
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_same_seed_gives_the_same_cell(kind, bias):
    ours, theirs = reversed(pair(CELL_MODULES, kind, 4, 5, bias=bias))
    assert repr(ours) == repr(theirs)
    assert_same(ours.state_dict(), theirs.state_dict())
    for name in theirs.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)


def test_constructors_take_the_same_positional_arguments():
    for module in (nn, fastrnn):
        rnn = module.RNN(3, 4, 2, "relu", False, True, 0.5, True)
        assert (rnn.mode, rnn.bias, rnn.batch_first, rnn.dropout, rnn.bidirectional) == (
            ("RNN_RELU", False, True, 0.5, True)
        )
        lstm = module.LSTM(3, 4, 2, False, True, 0.5, True, 2, "cpu", torch.float64)
        assert (lstm.bias, lstm.proj_size, lstm.weight_hr_l0.dtype) == (False, 2, torch.float64)
        cell = module.RNNCell(3, 4, False, "relu", "cpu", torch.float64)
        assert (cell.bias, cell.nonlinearity, cell.weight_ih.dtype) == (False, "relu", torch.float64)


@layers
def test_meta_device_and_skip_init(kind):
    _, ours = pair(LAYERS, kind, 4, 5, 2, device="meta")
    y, hx = ours(torch.empty(3, 2, 4, device="meta"))
    assert y.shape == (3, 2, 5)
    assert all(s.shape == (2, 2, 5) and s.is_meta for s in tensors(hx))
    class_name, arguments = LAYERS[kind]
    skipped = nn.utils.skip_init(getattr(fastrnn, class_name), 4, 5, 2, **arguments)
    assert skipped.weight_hh_l1.device.type == "cpu"


# Values and gradients


@with_options(OPTIONS | PROJECTED)
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
def test_options_match_the_peer_in_float64(kind, options, explicit):
    theirs, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64, **options)
    x = inputs(6, 3, 4)
    batch = 6 if ours.batch_first else 3
    hx = states(kind, rows(options), batch, 5, options.get("proj_size")) if explicit else None
    assert_same(results(ours, x, hx), results(theirs, x, hx))


@layers
@shapes
def test_shapes_match_the_peer_in_float64(kind, T, B, H):
    theirs, ours = pair(LAYERS, kind, 7, H, dtype=torch.float64)
    x, hx = inputs(T, B, 7), states(kind, 1, B, H)
    assert_same(results(ours, x, hx), results(theirs, x, hx))


@layers
@shapes
def test_float32_keeps_the_accuracy_rule(kind, T, B, H):
    check_accuracy(LAYERS, kind, torch.float32, (T, B, 7), states(kind, 1, B, H), H)


@layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_keeps_the_accuracy_rule(kind, dtype):
    check_accuracy(LAYERS, kind, dtype, (9, 3, 7), states(kind, 1, 3, 17), 17)


@cells
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cells_keep_the_accuracy_rule(kind, dtype):
    check_accuracy(CELL_MODULES, kind, dtype, (3, 7), states(kind, None, 3, 17), 17)


def check_accuracy(kinds, kind, dtype, shape, hx, H):
    theirs, ours = pair(kinds, kind, 7, H, dtype=dtype)
    x, hx = inputs(*shape, dtype=dtype), each(lambda s: s.to(dtype), hx)
    expected = results(theirs, x, hx)
    oracle = results(theirs.double(), x.double(), each(Tensor.double, hx))
    assert_accurate(results(ours, x, hx), expected, oracle)


@layers
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
def test_unbatched(kind, batch_first, explicit):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2, batch_first=batch_first, dtype=torch.float64)
    hx = states(kind, 2, None, 5) if explicit else None
    assert_same(results(ours, inputs(6, 4), hx), results(theirs, inputs(6, 4), hx))


@layers
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
def test_empty_batch(kind, explicit):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2, bidirectional=True, dtype=torch.float64)
    hx = states(kind, 4, 0, 5) if explicit else None
    assert_same(results(ours, inputs(6, 0, 4), hx), results(theirs, inputs(6, 0, 4), hx))


@layers
def test_non_contiguous_input_and_state(kind):
    theirs, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64)
    x = inputs(3, 8, 12).transpose(0, 1)[:, :, ::3]
    hx = states(kind, 1, 1, 5)
    hx = each(lambda s: s.expand(1, 3, 5), hx)
    assert_same(results(ours, x, hx), results(theirs, x, hx))


def ragged(enforce_sorted):
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    return pack_padded_sequence(inputs(5, 4, 4), torch.tensor(lengths), enforce_sorted=enforce_sorted)


@layers
@pytest.mark.parametrize("enforce_sorted", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("name", ["plain", "all"])
def test_packed(kind, enforce_sorted, explicit, name):
    theirs, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64, **OPTIONS[name])
    x, hx = ragged(enforce_sorted), states(kind, rows(OPTIONS[name]), 4, 5) if explicit else None
    assert_same(results(ours, x, hx), results(theirs, x, hx))
    y, expected = ours(x, hx)[0], theirs(x, hx)[0]
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        got, wanted = getattr(y, field), getattr(expected, field)
        assert wanted is got is None or torch.equal(got, wanted)


@with_options({"all": PROJECTED["projected-all"]})
def test_packed_with_projection(kind, options):
    theirs, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64, **options)
    x = ragged(enforce_sorted=False)
    assert_same(results(ours, x), results(theirs, x))


@layers
@pytest.mark.parametrize("layout", ["time-first", "batch-first", "packed"])
def test_dropout_draws_the_same_masks(kind, layout):
    theirs, ours = pair(LAYERS, kind, 4, 5, 3, batch_first=layout == "batch-first", dropout=0.4, dtype=torch.float64)
    x = ragged(enforce_sorted=True) if layout == "packed" else inputs(6, 3, 4)
    assert_same(results(ours, x), results(theirs, x))
    assert not torch.equal(results(ours, x, seed=5)["output[0]"], results(ours, x, seed=6)["output[0]"])
    assert_same(results(ours.eval(), x, seed=5), results(theirs.eval(), x, seed=6))


@layers
def test_state_carries_over_between_pieces(kind):
    _, ours = pair(LAYERS, kind, 4, 5, 2, dtype=torch.float64)
    x = inputs(6, 3, 4)
    whole, final = ours(x)
    hx, pieces = None, []
    for step in x.split(1):
        y, hx = ours(step, hx)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-10, atol=1e-10)
    for s, expected in zip(tensors(hx), tensors(final), strict=True):
        torch.testing.assert_close(s, expected, rtol=1e-10, atol=1e-10)


@cells
@pytest.mark.parametrize("batch", [3, None, 0], ids=["batched", "unbatched", "empty"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
def test_cells_match_the_peer_in_float64(kind, batch, bias, explicit):
    theirs, ours = pair(CELL_MODULES, kind, 4, 5, bias=bias, dtype=torch.float64)
    x = inputs(4) if batch is None else inputs(batch, 4)
    hx = states(kind, None, batch, 5) if explicit else None
    assert_same(results(ours, x, hx), results(theirs, x, hx))
