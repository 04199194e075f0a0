"""What requires grad gets one, to any order and in any mode that torch.nn has."""

import pytest
import torch
from comparison import (
    LAYERS,
    assert_same,
    build,
    inputs,
    layers,
    leaves,
    pair,
    results,
    rows,
    states,
    tensors,
)

import fastrnn
from fastrnn.modules.layers import hx_of

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


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
    state = (x.new_zeros(2, x.size(1), 4),) * len(module.cell_spec.states)
    return fastrnn.functional.rnn(module.mode.lower(), x, state, weights * 2, bidirectional=True)[0]


def state_from_input(module, x):
    h = torch.tanh(x.mean(0)).repeat(2, 1, 2)[..., :4]
    return module(x, hx_of((h,) * len(module.cell_spec.states)))[0]


@pytest.mark.parametrize("call", [tied_directions, state_from_input])
@layers
def test_differentiable_gradients_count_each_path_once(kind, call):
    module = build(fastrnn, LAYERS, kind, 3, 4, bidirectional=True).double()
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
