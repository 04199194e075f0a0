"""The oracle itself: its derivatives are those of its values, and its values are those of torch.nn."""

import copy

import pytest
import torch
from comparison import LAYERS, assert_same, inputs, leaves, pair, results, states, tensors
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fastrnn.spec import CELLS, LayerSpec, reference

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
every_variant = pytest.mark.parametrize(
    "kind,options",
    [
        pytest.param(kind, options, id=f"{kind}-{name}")
        for kind in LAYERS
        for name, options in VARIANTS.items()
        if kind == "lstm" or "proj_size" not in options
    ],
)
dense_and_ragged = pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])


def oracle_of(module: nn.RNNBase) -> nn.RNNBase:
    """A copy of a torch.nn layer that computes by the oracle."""
    oracle = copy.deepcopy(module)
    directions = 2 if module.bidirectional else 1
    spec = LayerSpec(module.mode.lower(), directions, module.bias, module.batch_first, module.proj_size > 0)

    def forward(x: Tensor | PackedSequence, hx: Tensor | tuple[Tensor, ...] | None = None):
        packed = isinstance(x, PackedSequence)
        weights, state = list(tensors(oracle.all_weights)), tuple(tensors(hx))
        y, final = reference.layer(spec, x.data if packed else x, state, weights, x.batch_sizes if packed else None)
        return x._replace(data=y) if packed else y, final

    oracle.forward = forward
    return oracle


def small_problem(kind: str, options: dict, ragged: bool) -> tuple[nn.RNNBase, Tensor | PackedSequence, tuple]:
    """A torch.nn layer with 3 inputs and 4 units, 4 steps of 3 rows, and initial states."""
    module, _ = pair(LAYERS, kind, 3, 4, dtype=torch.float64, **options)
    batch_first = module.batch_first
    x = inputs(3, 4, 3) if batch_first else inputs(4, 3, 3)
    if ragged:
        x = pack_padded_sequence(x, torch.tensor([4, 2, 1]), batch_first=batch_first)
    return module, x, states(kind, 2 if module.bidirectional else 1, 3, 4, options.get("proj_size"))


@every_variant
@dense_and_ragged
def test_agrees_with_torch(kind, options, ragged):
    module, x, hx = small_problem(kind, options, ragged)
    assert_same(results(oracle_of(module), x, hx), results(module, x, hx))


@pytest.mark.parametrize("kind", LAYERS)
def test_absent_state_is_zeros(kind):
    module, x, _ = small_problem(kind, {"bidirectional": True}, ragged=False)
    assert_same(results(oracle_of(module), x), results(module, x))


@every_variant
@dense_and_ragged
def test_first_and_second_derivatives(kind, options, ragged):
    oracle, x, hx = small_problem(kind, options, ragged)
    oracle = oracle_of(oracle)
    data = x.data if ragged else x
    names = [name for name, _ in oracle.named_parameters()]
    arguments = leaves([data, *tensors(hx), *oracle.parameters()])

    def call(data: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state, weights = rest[: len(CELLS[kind].states)], rest[len(CELLS[kind].states) :]
        again = x._replace(data=data) if ragged else data
        return tuple(
            tensors(torch.func.functional_call(oracle, dict(zip(names, weights, strict=True)), (again, state)))
        )

    assert torch.autograd.gradcheck(call, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@pytest.mark.parametrize("kind", LAYERS)
def test_step_is_one_step_of_the_layer(kind):
    module, x, hx = small_problem(kind, {}, ragged=False)
    state = tuple(s[0] for s in tensors(hx))
    weights = list(tensors(module.all_weights))
    for t in range(len(x)):
        state = reference.step(LayerSpec(kind), x[t], state, weights)
    final = reference.layer(LayerSpec(kind), x, tuple(tensors(hx)), weights)[1]
    assert_same({str(i): s for i, s in enumerate(state)}, {str(i): s[0] for i, s in enumerate(final)})
