"""Cells that torch.nn lacks but computes with tied weights, such as CIFG by an LSTM: the same results and gradients."""

from types import ModuleType

import pytest
import torch
from comparison import assert_same, build, each, inputs, rows, states, tensors, with_options
from comparison import results as results_of
from test_frozen import TOLERANCE, every_format
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn
from fastrnn import _C
from fastrnn.testing import LAYERS, TIED

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

OPTIONS = {
    "plain": {},
    "stacked": {"num_layers": 2, "bias": False},
    "bidirectional": {"bidirectional": True, "batch_first": True},
    "projected": {"proj_size": 3},
    "all": {"num_layers": 2, "bidirectional": True, "proj_size": 3},
}


def both(kind: str, dtype: torch.dtype, options: dict) -> tuple[nn.Module, nn.Module]:
    """torch.nn's module with tied weights, and fastrnn's."""

    def make(library: ModuleType, cell: str) -> nn.Module:
        torch.manual_seed(0)
        return build(library, LAYERS, cell, 4, 17, dtype=dtype, **options)

    theirs, ours = make(nn, TIED[kind].cell), make(fastrnn, kind)
    theirs.load_state_dict(TIED[kind].weights(ours.state_dict()))
    return theirs, ours


def problem(kind: str, options: dict, ragged: bool, **made: torch.dtype) -> tuple[Tensor | PackedSequence, tuple]:
    batch_first = options.get("batch_first", False)
    x = inputs(*((5, 6) if batch_first else (6, 5)), 4, **made)
    if ragged:
        x = pack_padded_sequence(x, torch.tensor([3, 6, 1, 4, 4]), batch_first=batch_first, enforce_sorted=False)
    return x, states(kind, rows(options), 5, 17, options.get("proj_size"), **made)


ragged_or_not = pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])


@with_options(OPTIONS, TIED)
@ragged_or_not
def test_results_and_gradients_are_those_of_tied_weights(kind, options, ragged):
    theirs, ours = both(kind, torch.float64, options)
    x, hx = problem(kind, options, ragged)
    expected = results_of(theirs, x, hx)
    of_weights = {f"d {name}": expected.pop(f"d {name}") for name, _ in theirs.named_parameters()}
    assert_same(results_of(ours, x, hx), expected | TIED[kind].gradients(of_weights))


@with_options({name: given for name, given in OPTIONS.items() if "proj_size" not in given}, TIED)
@ragged_or_not
@every_format
def test_frozen_layers_compute_with_tied_weights(kind, options, ragged, weights):
    theirs, ours = both(kind, torch.float32, options)
    rounded = {name: getattr(fastrnn.freeze(ours, weights), name) for name, _ in theirs.named_parameters()}
    theirs.load_state_dict(TIED[kind].weights(rounded))
    x, hx = problem(kind, options, ragged, dtype=torch.float32)
    tolerance = TOLERANCE[weights] if _C.has_bfloat16() else 1e-5
    exact = theirs.double()(x.to(torch.float64), each(Tensor.double, hx))
    for got, expected in zip(tensors(ours(x, hx)), tensors(exact), strict=True):
        torch.testing.assert_close(got.double(), expected.detach(), rtol=0, atol=tolerance)
