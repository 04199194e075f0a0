"""The oracle itself: its derivatives are those of its values, and its values are those of torch.nn."""

import pytest
import torch
from comparison import (
    CELL_MODULES,
    LAYERS,
    assert_same,
    each,
    inputs,
    layers,
    leaves,
    pair,
    results,
    rows,
    states,
    tensors,
    torch_cells,
    torch_layers,
    with_options,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, LayerSpec, reference
from fastrnn.testing import IN_TORCH, on_reference

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

VARIANTS = {
    "plain": {},
    "no-bias": {"bias": False},
    "batch-first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "projected": {"proj_size": 2},
    "projected-bidirectional-no-bias": {"proj_size": 2, "bidirectional": True, "bias": False},
}
STACKED = {
    "stacked": {"num_layers": 3},
    "stacked-batch-first": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "stacked-projected": {"num_layers": 2, "proj_size": 2, "bidirectional": True},
}
dense_and_ragged = pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])


def small_problem(kind: str, options: dict, ragged: bool) -> tuple[nn.RNNBase, Tensor | PackedSequence, tuple]:
    """A layer with 3 inputs and 4 units, torch.nn's if it has one, 4 steps of 3 rows, and initial states."""
    module, _ = pair(LAYERS, kind, 3, 4, dtype=torch.float64, **options)
    batch_first = module.batch_first
    x = inputs(3, 4, 3) if batch_first else inputs(4, 3, 3)
    if ragged:
        x = pack_padded_sequence(x, torch.tensor([2, 4, 1]), batch_first=batch_first, enforce_sorted=False)
    return module, x, states(kind, rows(options), 3, 4, options.get("proj_size"))


@with_options(VARIANTS | STACKED, IN_TORCH)
@dense_and_ragged
def test_agrees_with_torch(kind, options, ragged):
    module, x, hx = small_problem(kind, options, ragged)
    assert_same(results(on_reference(module), x, hx), results(module, x, hx))


@torch_layers
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
def test_agrees_with_torch_without_a_batch(kind, batch_first):
    module, _, hx = small_problem(kind, {"batch_first": batch_first, "num_layers": 2}, ragged=False)
    x, hx = inputs(4, 3), each(lambda s: s[:, 0], hx)
    assert_same(results(on_reference(module), x, hx), results(module, x, hx))


@torch_cells
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
def test_one_step_agrees_with_torch(kind, explicit):
    module, _ = pair(CELL_MODULES, kind, 3, 4, dtype=torch.float64)
    hx = states(kind, None, 2, 4) if explicit else None
    assert_same(results(on_reference(module), inputs(2, 3), hx), results(module, inputs(2, 3), hx))
    hx = each(lambda s: s[0], hx)
    assert_same(results(on_reference(module), inputs(3), hx), results(module, inputs(3), hx))


@torch_layers
def test_absent_state_is_zeros(kind):
    module, x, _ = small_problem(kind, {"bidirectional": True}, ragged=False)
    assert_same(results(on_reference(module), x), results(module, x))


@with_options(VARIANTS)
@dense_and_ragged
def test_first_and_second_derivatives(kind, options, ragged):
    module, x, hx = small_problem(kind, options, ragged)
    oracle = on_reference(module)
    data = x.data if ragged else x
    names = [name for name, _ in oracle.named_parameters()]
    arguments = leaves([data, *tensors(hx), *oracle.parameters()])
    count = len(CELLS[kind].states)

    def call(data: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state, weights = hx_of(rest[:count]), rest[count:]
        again = x._replace(data=data) if ragged else data
        return tuple(
            tensors(torch.func.functional_call(oracle, dict(zip(names, weights, strict=True)), (again, state)))
        )

    assert torch.autograd.gradcheck(call, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@layers
def test_step_is_one_step_of_the_layer(kind):
    module, x, hx = small_problem(kind, {}, ragged=False)
    state = tuple(s[0] for s in tensors(hx))
    weights = list(tensors(module.all_weights))
    for t in range(len(x)):
        state = reference.step(LayerSpec(kind), x[t], state, weights)
    final = reference.layer(LayerSpec(kind), x, tuple(tensors(hx)), weights)[1]
    assert_same({str(i): s for i, s in enumerate(state)}, {str(i): s[0] for i, s in enumerate(final)})
