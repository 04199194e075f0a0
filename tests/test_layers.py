"""fastrnn's modules do what torch.nn's do: values, gradients, bookkeeping and errors."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from comparison import (
    CELLS,
    LAYERS,
    MODULES,
    assert_accurate,
    assert_same,
    inputs,
    leaves,
    pair,
    results,
    states,
    tensors,
)
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import fastrnn

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

layers = pytest.mark.parametrize("kind", LAYERS)
cells = pytest.mark.parametrize("kind", CELLS)
every_module = pytest.mark.parametrize("kinds,kind", MODULES)

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
layers_with_options = pytest.mark.parametrize(
    "kind,options",
    [pytest.param(kind, options, id=f"{kind}-{name}") for kind in LAYERS for name, options in OPTIONS.items()]
    + [pytest.param("lstm", options, id=f"lstm-{name}") for name, options in PROJECTED.items()],
)


def rows(options):
    return options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)


# Construction


@layers_with_options
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


@cells
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_same_seed_gives_the_same_cell(kind, bias):
    ours, theirs = reversed(pair(CELLS, kind, 4, 5, bias=bias))
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


@layers_with_options
@pytest.mark.parametrize("explicit", [False, True], ids=["zeros", "hx"])
def test_options_match_torch_in_float64(kind, options, explicit):
    theirs, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64, **options)
    x = inputs(6, 3, 4)
    batch = 6 if ours.batch_first else 3
    hx = states(kind, rows(options), batch, 5, options.get("proj_size")) if explicit else None
    assert_same(results(ours, x, hx), results(theirs, x, hx))


@layers
@shapes
def test_shapes_match_torch_in_float64(kind, T, B, H):
    theirs, ours = pair(LAYERS, kind, 7, H, dtype=torch.float64)
    x, hx = inputs(T, B, 7), states(kind, 1, B, H)
    assert_same(results(ours, x, hx), results(theirs, x, hx))


@layers
@shapes
def test_float32_is_as_accurate_as_torch(kind, T, B, H):
    check_accuracy(LAYERS, kind, torch.float32, (T, B, 7), states(kind, 1, B, H), H)


@layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_as_accurate_as_torch(kind, dtype):
    check_accuracy(LAYERS, kind, dtype, (9, 3, 7), states(kind, 1, 3, 17), 17)


@cells
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cells_are_as_accurate_as_torch(kind, dtype):
    check_accuracy(CELLS, kind, dtype, (3, 7), states(kind, None, 3, 17), 17)


def check_accuracy(kinds, kind, dtype, shape, hx, H):
    theirs, ours = pair(kinds, kind, 7, H, dtype=dtype)
    x = inputs(*shape, dtype=dtype)
    hx = tuple(s.to(dtype) for s in hx) if kind == "lstm" else hx.to(dtype)
    expected = results(theirs, x, hx)
    exact_hx = tuple(s.double() for s in hx) if kind == "lstm" else hx.double()
    oracle = results(theirs.double(), x.double(), exact_hx)
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
    hx = tuple(s.expand(1, 3, 5) for s in hx) if kind == "lstm" else hx.expand(1, 3, 5)
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


def test_packed_with_projection():
    theirs, ours = pair(LAYERS, "lstm", 4, 5, dtype=torch.float64, **PROJECTED["projected-all"])
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
def test_cells_match_torch_in_float64(kind, batch, bias, explicit):
    theirs, ours = pair(CELLS, kind, 4, 5, bias=bias, dtype=torch.float64)
    x = inputs(4) if batch is None else inputs(batch, 4)
    hx = states(kind, None, batch, 5) if explicit else None
    assert_same(results(ours, x, hx), results(theirs, x, hx))


# Differentiation


@layers
@pytest.mark.parametrize("wanted", ["x", "hx", "weight_hh_l0", "bias_ih_l0_reverse", ""])
def test_only_what_requires_grad_gets_one(kind, wanted):
    theirs, ours = pair(LAYERS, kind, 4, 5, bidirectional=True, dtype=torch.float64)
    gradients = []
    for module in (theirs, ours):
        x, hx = inputs(6, 3, 4), states(kind, 2, 3, 5)
        named = {"x": x, "hx": next(tensors(hx)), **dict(module.named_parameters())}
        for name, tensor in named.items():
            tensor.requires_grad_(name == wanted)
        y, final = module(x, hx)
        outputs = [y, *tensors(final)]
        assert all(output.requires_grad == bool(wanted) for output in outputs)
        if wanted:
            sum(output.square().sum() for output in outputs).backward()
        gradients.append({name: tensor.grad for name, tensor in named.items() if tensor.grad is not None})
    assert gradients[1].keys() == ({wanted} if wanted else set())
    assert_same(gradients[1], gradients[0])


@layers
def test_outputs_that_do_not_matter(kind):
    theirs, ours = pair(LAYERS, kind, 4, 5, dtype=torch.float64)
    for pick in (lambda y, hx: y[2], lambda y, hx: list(tensors(hx))[-1]):
        gradients = [torch.autograd.grad(pick(*m(inputs(6, 3, 4))).sum(), list(m.parameters())) for m in (ours, theirs)]
        for got, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@layers
def test_backward_in_eval_mode(kind):
    _, ours = pair(LAYERS, kind, 4, 5, 2, dtype=torch.float64)
    x = inputs(6, 3, 4)
    assert_same(results(ours.eval(), x), results(ours.train(), x))


@layers
def test_inference_mode(kind):
    _, ours = pair(LAYERS, kind, 4, 5, 2)
    x = inputs(6, 3, 4, dtype=torch.float32)
    with torch.inference_mode():
        y, _ = ours(x)
    torch.testing.assert_close(y, ours(x)[0].detach())


def functional_arguments(kind, options, packed):
    _, module = pair(LAYERS, kind, 2, 3, dtype=torch.float64, **options)
    x = inputs(4, 2) if packed else inputs(2, 2, 2)
    hx = list(tensors(states(kind, rows(options), 2, 3, options.get("proj_size"))))
    batch_sizes = torch.tensor([2, 1, 1]) if packed else None

    def call(x, *rest):
        state, weights = rest[: len(hx)], rest[len(hx) :]
        y, final = fastrnn.functional.rnn(
            kind,
            x,
            state,
            weights,
            num_layers=module.num_layers,
            bidirectional=module.bidirectional,
            has_bias=module.bias,
            batch_first=module.batch_first,
            batch_sizes=batch_sizes,
        )
        return y, *final

    return call, tuple(leaves([x, *hx, *tensors(module.all_weights)]))


@pytest.mark.parametrize(
    "kind,options,packed",
    [pytest.param(kind, {}, False, id=kind) for kind in LAYERS]
    + [
        pytest.param("lstm", {"bidirectional": True, "proj_size": 2}, False, id="lstm-bidirectional-projected"),
        pytest.param("gru", {"bidirectional": True, "bias": False}, True, id="gru-bidirectional-packed"),
    ],
)
def test_first_and_second_derivatives(kind, options, packed):
    call, arguments = functional_arguments(kind, options, packed)
    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, arguments)


def tied_directions(module, x):
    weights = [w for name, w in module.named_parameters() if not name.endswith("_reverse")]
    state = (x.new_zeros(2, x.size(1), 4),) * (2 if module.mode == "LSTM" else 1)
    return fastrnn.functional.rnn(module.mode.lower(), x, state, weights * 2, bidirectional=True)[0]


def state_from_input(module, x):
    h = torch.tanh(x.mean(0)).repeat(2, 1, 2)[..., :4]
    return module(x, (h, h) if module.mode == "LSTM" else h)[0]


@pytest.mark.parametrize("call", [tied_directions, state_from_input])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_differentiable_gradients_count_each_path_once(name, call):
    module = getattr(fastrnn, name)(3, 4, bidirectional=True).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    inputs = [x, module.weight_hh_l0, module.bias_ih_l0]
    expected = torch.autograd.grad(call(module, x).square().sum(), inputs)
    got = torch.autograd.grad(call(module, x).square().sum(), inputs, create_graph=True)
    torch.testing.assert_close(got, expected)


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        return None


@pytest.mark.parametrize("create_graph", [False, True])
def test_no_incoming_gradient_gives_none(create_graph):
    x = torch.randn(5, 2, 3, requires_grad=True)
    y = NoGradient.apply(fastrnn.LSTM(3, 4)(x)[0])
    (got,) = torch.autograd.grad(y.sum(), [x], create_graph=create_graph, allow_unused=True)
    assert got is None or not got.any()


def test_traces_without_gradients():
    module = fastrnn.GRU(3, 4)
    with torch.no_grad():
        traced = torch.jit.trace(module, torch.randn(5, 2, 3))
        x = torch.randn(5, 2, 3)
        torch.testing.assert_close(traced(x), module(x))


def test_functional_refuses_batch_sizes_that_are_no_tensor():
    with pytest.raises(ValueError, match=r"batch_sizes: expected an int64 tensor \[T\] on the CPU, got \[2, 1\]"):
        fastrnn.functional.rnn("gru", torch.zeros(3, 3), (), list(fastrnn.GRU(3, 4).parameters()), batch_sizes=[2, 1])


@pytest.mark.parametrize("record", [True, False], ids=["grad", "no-grad"])
def test_forward_mode_derivative_is_that_of_torch(record):
    theirs, ours = torch.nn.GRU(3, 4).double(), fastrnn.GRU(3, 4).double()
    ours.load_state_dict(theirs.state_dict())
    x, tangent = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    with torch.set_grad_enabled(record):
        expected = torch.func.jvp(lambda x: theirs(x)[0], (x,), (tangent,))
        got = torch.func.jvp(lambda x: ours(x)[0], (x,), (tangent,))
    torch.testing.assert_close(got, expected)


# Bookkeeping of modules: each modification is made to both modules, which must go on agreeing


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
def test_modified_modules_stay_in_step_with_torch(kind, modify):
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
def test_modified_cells_stay_in_step_with_torch(kind, name):
    modify = {
        "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh"),
        "prune": lambda m: prune.l1_unstructured(m, "bias_hh", 0.3),
    }[name]
    theirs, ours = pair(CELLS, kind, 4, 5, dtype=torch.float64)
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


@layers
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
    _, ours = pair(CELLS, kind, 4, 5)
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
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    for T in (2, 3):
        x = inputs(T, 3, 4, dtype=torch.float32) if kinds is LAYERS else inputs(T, 4, dtype=torch.float32)
        for got, expected in zip(tensors(compiled(x)), tensors(ours(x)), strict=True):
            torch.testing.assert_close(got, expected)


# Errors: the same bad call to both modules


def error(call):
    with pytest.raises(Exception) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return caught.type, str(caught.value)


@pytest.mark.parametrize("class_name", ["RNN", "LSTM", "GRU"])
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
    "1-D": lambda two: (zeros((4,)), None),
    "4-D": lambda two: (zeros((6, 3, 4, 1)), None),
    "input-size": lambda two: (zeros((6, 3, 5)), None),
    "input-size-unbatched": lambda two: (zeros((6, 5)), None),
    "input-dtype": lambda two: (zeros((6, 3, 4)).double(), None),
    "no-steps": lambda two: (zeros((0, 3, 4)), None),
    "no-steps-unbatched": lambda two: (zeros((0, 4)), None),
    "hx-2-D": lambda two: (zeros((6, 3, 4)), zeros(*two * [(3, 5)])),
    "hx-3-D-unbatched": lambda two: (zeros((6, 4)), zeros(*two * [(2, 1, 5)])),
    "hx-rows": lambda two: (zeros((6, 3, 4)), zeros(*two * [(1, 3, 5)])),
    "hx-batch": lambda two: (zeros((6, 3, 4)), zeros(*two * [(2, 4, 5)])),
    "hx-size": lambda two: (zeros((6, 3, 4)), zeros(*two * [(2, 3, 6)])),
    "hx-size-unbatched": lambda two: (zeros((6, 4)), zeros(*two * [(2, 6)])),
}


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
@pytest.mark.parametrize("bad", LAYER_ERRORS.values(), ids=LAYER_ERRORS)
def test_layer_errors(kind, bad):
    theirs, ours = pair(LAYERS, kind, 4, 5, 2)
    arguments = bad(2 if kind == "lstm" else 1)
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
    theirs, ours = pair(kinds, kind, 4, 5)
    x = zeros((6, 3, 4)) if kinds is LAYERS else zeros((3, 4))
    hx = states(kind, 1 if kinds is LAYERS else None, 3, 5)
    with pytest.raises(RuntimeError):
        theirs(x, hx)
    with pytest.raises(RuntimeError, match="dtype torch.float32, got torch.float64"):
        ours(x, hx)


CELL_ERRORS = {
    "3-D": lambda two: (zeros((6, 3, 4)), None),
    "input-size": lambda two: (zeros((3, 5)), None),
    "input-size-unbatched": lambda two: (zeros((5,)), None),
    "hx-3-D": lambda two: (zeros((3, 4)), zeros(*two * [(1, 3, 5)])),
    "hx-batch": lambda two: (zeros((3, 4)), zeros(*two * [(2, 5)])),
    "hx-size": lambda two: (zeros((3, 4)), zeros(*two * [(3, 6)])),
    "hx-1-D": lambda two: (zeros((3, 4)), zeros(*two * [(5,)])),
    "hx-2-D-unbatched": lambda two: (zeros((4,)), zeros(*two * [(1, 5)])),
}


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
@pytest.mark.parametrize("bad", CELL_ERRORS.values(), ids=CELL_ERRORS)
def test_cell_errors(kind, bad):
    theirs, ours = pair(CELLS, kind, 4, 5)
    arguments = bad(2 if kind == "lstm" else 1)
    assert error(lambda: ours(*arguments)) == error(lambda: theirs(*arguments))


def test_unknown_nonlinearity_of_a_cell():
    calls = [lambda ns=ns: ns.RNNCell(4, 5, nonlinearity="gelu")(zeros((3, 4))) for ns in (fastrnn, nn)]
    assert error(calls[0]) == error(calls[1])


@pytest.mark.parametrize(
    "change,message",
    [
        ({"cell": "elman"}, "expected one of rnn_tanh, rnn_relu, lstm, gru, got 'elman'"),
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
