"""Modules stay modules: modified, copied, hooked, cast, compiled. Each change is made to the peer too."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from comparison import (
    CELL_MODULES,
    LAYERS,
    assert_same,
    cells,
    every_module,
    inputs,
    layers,
    leaves,
    pair,
    results,
    states,
    tensors,
    torch_layers,
)
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def tie(module):
    module.weight_hh_l1 = module.weight_hh_l0
    module.bias_hh_l0 = module.bias_ih_l0


def replace_parameter(module):
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach() / 2)


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module, "weight_hh_l0")


def prune_and_remove(module):
    prune.l1_unstructured(module, "weight_ih_l1", 0.3)
    prune.remove(module, "weight_ih_l1")


MODIFICATIONS = {
    "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "weight_norm-hook": old_weight_norm,
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_hh_l1"),
    "prune": lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.3),
    "prune-and-remove": prune_and_remove,
    "tied": tie,
    "replaced": replace_parameter,
    "load_state_dict": lambda m: m.load_state_dict({k: v / 2 for k, v in m.state_dict().items()}),
    "load_state_dict-assign": lambda m: m.load_state_dict({k: v / 2 for k, v in m.state_dict().items()}, assign=True),
    "float-and-back": lambda m: m.float().double(),
    "share_memory": lambda m: m.share_memory(),
    "reset_parameters": lambda m: (torch.manual_seed(9), m.reset_parameters()),
}


@layers
@pytest.mark.parametrize("modify", MODIFICATIONS.values(), ids=MODIFICATIONS)
def test_modified_modules_stay_in_step_with_the_peer(kind, modify):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2, dtype=torch.float64)
    x = inputs(6, 3, 4)
    for module in (theirs, ours):
        module(x)
        torch.manual_seed(8)
        modify(module)
    for _ in range(2):
        assert_same(results(ours, x), results(theirs, x))
        for module in (theirs, ours):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            module(x)[0].square().sum().backward()
            optimizer.step()
    assert_same(ours.state_dict(), theirs.state_dict())


@cells
@pytest.mark.parametrize("name", ["weight_norm", "prune"])
def test_modified_cells_stay_in_step_with_the_peer(kind, name):
    modify = {
        "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh"),
        "prune": lambda m: prune.l1_unstructured(m, "bias_hh", 0.3),
    }[name]
    theirs, ours = pair(CELL_MODULES, kind, 4, 5, dtype=torch.float64)
    for module in (theirs, ours):
        modify(module)
    assert_same(results(ours, inputs(3, 4)), results(theirs, inputs(3, 4)))


def save_and_load(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "torch.save": save_and_load}


@every_module
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_independent(kinds, kind, duplicate):
    _, ours = pair(kinds, kind, 4, 5, dtype=torch.float64)
    x = inputs(3, 4)
    before = results(ours, x)
    other = duplicate(ours)
    assert type(other) is type(ours)
    assert_same(results(other, x), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert_same(results(ours, x), before)
    assert not results(other, x)["output[0]"].any()


def test_deepcopy_of_a_parametrized_module_after_use():
    _, ours = pair(LAYERS, "gru", 4, 5, dtype=torch.float64)
    parametrizations.weight_norm(ours, "weight_hh_l0")
    expected = results(ours, inputs(6, 3, 4))
    assert_same(results(copy.deepcopy(ours), inputs(6, 3, 4)), expected)


@torch_layers
def test_state_dict_goes_both_ways(kind):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2, bidirectional=True, dtype=torch.float64)
    for source, target in ((theirs, ours), (ours, theirs)):
        nn.init.normal_(source.weight_hh_l0)
        target.load_state_dict(source.state_dict(), strict=True)
        assert_same(results(ours, inputs(6, 3, 4)), results(theirs, inputs(6, 3, 4)))


@layers
def test_hooks(kind):
    calls = []
    for module in pair(LAYERS, kind, 4, 5, dtype=torch.float64):
        seen = []
        module.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(("pre", len(args))))
        module.register_forward_hook(lambda m, args, out, seen=seen: (out[0] * 2, out[1]))
        module.register_full_backward_hook(lambda m, dx, dy, seen=seen: seen.append(("backward", len(dx), len(dy))))
        x = leaves(inputs(6, 3, 4))
        y, _ = module(x)
        y.sum().backward()
        calls.append((seen, y, x.grad))
    (expected, y, dx), (got, our_y, our_dx) = calls
    assert got == expected
    assert_same({"y": our_y, "dx": our_dx}, {"y": y, "dx": dx})


@layers
def test_functional_call_uses_the_weights_it_is_given(kind):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2, dtype=torch.float64)
    x = inputs(6, 3, 4)
    before = ours(x)[0]
    weights = {name: p.detach() / 3 for name, p in ours.named_parameters()}
    assert torch.equal(torch.func.functional_call(ours, weights, x)[0], swap_in(ours, weights)(x)[0])
    assert torch.equal(ours(x)[0], before)


def swap_in(module, weights):
    other = copy.deepcopy(module)
    other.load_state_dict(weights)
    return other


def assigned(module, x):
    """Results with weights that a graph computes, assigned as a list."""
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    before = module(x)[0]
    module._flat_weights = [w * scale for w in module._flat_weights]
    y, _ = module(x)
    with torch.no_grad():
        unneeded, _ = module(x)
    gradients = torch.autograd.grad(y.square().sum(), [scale, *module.parameters()])
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach().clone())
    by_name = module(x)[0]
    return dict(enumerate([before, y, unneeded, *gradients, by_name]))


@torch_layers
def test_a_list_assigned_to_flat_weights_is_used_until_a_weight_is_replaced(kind):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2, dtype=torch.float64)
    x = inputs(6, 3, 4)
    expected, got = assigned(theirs, x), assigned(ours, x)
    assert_same(got, expected)


def item(module):
    module._flat_weights[1] = module._flat_weights[1] / 2
    module._flat_weights[0] = module._flat_weights[0] / 3


def in_place_of_a_deleted_parameter(module):
    w = module.weight_hh_l0
    del module.weight_hh_l0
    module.weight_hh_l0 = w.detach() / 2


def past_setattr(module):
    module._parameters["weight_hh_l0"] = module.weight_hh_l0 / 2


def by_buffer(module):
    w = module.weight_hh_l0
    del module.weight_hh_l0
    module.register_buffer("weight_hh_l0", w.detach() / 2)


def moved_after_assignment(module):
    module._flat_weights = [w / 2 for w in module._flat_weights]
    module.double()


def copied_after_assignment(module):
    module._flat_weights = [w.detach() / 2 for w in module._flat_weights]
    return copy.deepcopy(module)


def called_after_assignment(module):
    module._flat_weights = [w / 2 for w in module._flat_weights]
    weights = {name: p.detach() / 3 for name, p in module.named_parameters()}
    torch.func.functional_call(module, weights, inputs(6, 3, 4))


ASSIGNMENTS = [
    item,
    in_place_of_a_deleted_parameter,
    past_setattr,
    by_buffer,
    moved_after_assignment,
    copied_after_assignment,
    called_after_assignment,
]


@torch_layers
@pytest.mark.parametrize("assign", ASSIGNMENTS, ids=lambda function: function.__name__)
def test_other_tensors_in_place_of_weights(kind, assign):
    theirs, ours = (assign(module) or module for module in pair(LAYERS, kind, 4, 5, dtype=torch.float64))
    x = inputs(6, 3, 4)
    assert_same({"y": ours(x)[0]}, {"y": theirs(x)[0]})
    with torch.no_grad():
        assert_same({"y": ours(x)[0]}, {"y": theirs(x)[0]})


def test_flatten_parameters_keeps_parameters_where_they_are():
    _, ours = pair(LAYERS, "lstm", 4, 5, 2)
    before = [p.data_ptr() for p in ours.parameters()]
    ours.flatten_parameters()
    assert [p.data_ptr() for p in ours.parameters()] == before


# Autocast and the compiler


@layers
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_autocast_computes_in_its_dtype(kind, packed):
    _, ours = pair(LAYERS, kind, 4, 5, 2)
    x = inputs(6, 3, 4, dtype=torch.float32)
    x = pack_padded_sequence(x, torch.tensor([6, 4, 1])) if packed else x
    with torch.autocast("cpu", torch.bfloat16):
        got = results(ours, x, states(kind, 2, 3, 5, dtype=torch.float32))
    assert all(got[name].dtype == (torch.bfloat16 if "output" in name else torch.float32) for name in got)
    low = results(ours.bfloat16(), x.to(torch.bfloat16), states(kind, 2, 3, 5, dtype=torch.bfloat16))
    for name in got:
        assert torch.equal(got[name], low[name].to(got[name].dtype)), name


@cells
def test_autocast_of_cells(kind):
    _, ours = pair(CELL_MODULES, kind, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(s.dtype == torch.bfloat16 for s in tensors(ours(inputs(3, 4, dtype=torch.float32))))


@layers
def test_autocast_leaves_float64_alone(kind):
    _, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64)
    expected = results(ours, inputs(6, 3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        got = results(ours, inputs(6, 3, 4))
    assert_same(got, expected)


@every_module
def test_compiles_as_one_graph(kinds, kind):
    _, ours = pair(kinds, kind, 4, 5)
    torch.compiler.reset()  # all layers share one forward, and it counts how often that was compiled
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    for T in (2, 3):
        x = inputs(T, 3, 4, dtype=torch.float32) if kinds is LAYERS else inputs(T, 4, dtype=torch.float32)
        for got, expected in zip(tensors(compiled(x)), tensors(ours(x)), strict=True):
            torch.testing.assert_close(got, expected)
