"""The transforms of torch.func, batched gradients and counted operations, on modules: each against a loop."""

import pytest
import torch
from comparison import CELL_MODULES, LAYERS, assert_same, build, cells, inputs, layers, tensors, with_options
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

import fastrnn

V, E, T, B, I, H = 3, 2, 4, 2, 3, 5  # noqa: E741

OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "projected": {"proj_size": 2, "bias": False},
}
every_option = with_options(OPTIONS)


def layer(kind: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return build(fastrnn, LAYERS, kind, I, H, dtype=torch.float64, **options)


def output(module: nn.Module, x: Tensor, hx: Tensor | None = None) -> Tensor:
    return next(tensors(module(x, hx)))


def loss_of(module: nn.Module):
    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return output_with(module, parameters, x).square().sum()

    return loss


def output_with(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return next(tensors(functional_call(module, parameters, (x,))))


def stacked(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


@every_option
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap_over_inputs(kind, options, dim):
    module = layer(kind, **options)
    x = inputs(V, T, B, I)
    expected = torch.stack([output(module, x_) for x_ in x], dim)
    got = vmap(lambda x_: output(module, x_), in_dims=dim, out_dims=dim)(x.movedim(0, dim))
    assert_same({"y": got}, {"y": expected})


@layers
def test_vmap_over_states_of_packed_sequences(kind):
    module = layer(kind, bidirectional=True)
    packed = pack_padded_sequence(inputs(T, B, I), torch.tensor([T, 2]))
    states = [inputs(V, 2, B, H) for _ in module.cell_spec.states]

    def run(*state: Tensor) -> tuple[Tensor, ...]:
        y, final = module(packed, state if len(state) > 1 else state[0])
        return y.data, *tensors(final)

    expected = [torch.stack(t) for t in zip(*[run(*state) for state in zip(*states, strict=True)], strict=True)]
    assert_same(dict(enumerate(vmap(run)(*states))), dict(enumerate(expected)))
    data = inputs(V, *packed.data.shape)
    got = vmap(lambda rows: module(PackedSequence(rows, packed.batch_sizes))[0].data)(data)
    expected = torch.stack([module(PackedSequence(rows, packed.batch_sizes))[0].data for rows in data])
    assert_same({"y": got}, {"y": expected})


@cells
def test_vmap_over_cells(kind):
    torch.manual_seed(0)
    cell = build(fastrnn, CELL_MODULES, kind, I, H, dtype=torch.float64)
    x = inputs(V, B, I)
    expected = torch.stack([output(cell, x_) for x_ in x])
    assert_same({"y": vmap(lambda x_: output(cell, x_))(x)}, {"y": expected})


@every_option
def test_gradients_by_sample(kind, options):
    module = layer(kind, **options)
    loss, parameters, x = loss_of(module), dict(module.named_parameters()), inputs(V, T, B, I)
    got = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    assert_same(got, stacked([grad(loss)(parameters, x_) for x_ in x]))


@every_option
def test_ensemble(kind, options):
    members = [layer(kind, seed, **options) for seed in range(E)]
    loss, x = loss_of(members[0]), inputs(T, B, I)
    parameters, _ = stack_module_state(members)
    y = vmap(lambda p: output_with(members[0], p, x))(parameters)
    assert_same({"y": y}, {"y": torch.stack([output(member, x) for member in members])})
    got = torch.autograd.grad(y.square().sum(), list(parameters.values()))
    each = [grad(loss)(dict(member.named_parameters()), x) for member in members]
    assert_same(dict(zip(parameters, got, strict=True)), stacked(each))


@layers
@pytest.mark.parametrize("members_outside", [True, False], ids=["members-outside", "samples-outside"])
def test_gradients_by_sample_of_an_ensemble(kind, members_outside):
    members = [layer(kind, seed, bidirectional=True) for seed in range(E)]
    loss, x = loss_of(members[0]), inputs(V, T, B, I)
    parameters, _ = stack_module_state(members)
    over_members, over_samples = (0, None), (None, 0)
    inner, outer = (over_samples, over_members) if members_outside else (over_members, over_samples)
    got = vmap(vmap(grad(loss), in_dims=inner), in_dims=outer)(parameters, x)
    if not members_outside:
        got = {name: t.transpose(0, 1) for name, t in got.items()}
    each = [stacked([grad(loss)(dict(m.named_parameters()), x_) for x_ in x]) for m in members]
    assert_same(got, stacked(each))


@every_option
def test_transforms_of_nothing(kind, options):
    """As ``torch.nn.functional.linear``: results of size 0, and gradients that are zero."""
    module = layer(kind, **options)
    parameters, none = dict(module.named_parameters()), inputs(0, T, B, I).requires_grad_()
    by_sample = vmap(grad(loss_of(module)), in_dims=(None, 0))(parameters, none)
    assert {name: t.shape for name, t in by_sample.items()} == {name: (0, *p.shape) for name, p in parameters.items()}
    y = vmap(lambda x: output(module, x), out_dims=1)(none)
    one = output(module, inputs(T, B, I))
    assert y.shape == (one.shape[0], 0, *one.shape[1:])
    dx, *gradients = torch.autograd.grad(y.sum(), [none, *parameters.values()])
    assert dx.shape == none.shape and not any(t.any() for t in gradients)


@layers
def test_jacobians_and_hessians(kind):
    module = layer(kind, num_layers=2)
    x = inputs(2, 1, I)

    def run(x: Tensor) -> Tensor:
        return output(module, x)

    def loss(x: Tensor) -> Tensor:
        return run(x).sin().sum()

    jacobian = jacfwd(run)(x)  # forward mode, on the reference
    assert_same({"jacrev": jacrev(run)(x)}, {"jacrev": jacobian})
    vectorized = torch.autograd.functional.jacobian(run, x, vectorize=True)
    assert_same({"is_grads_batched": vectorized}, {"is_grads_batched": jacobian})
    second = torch.autograd.functional.hessian(loss, x)
    found = {
        "hessian": hessian(loss)(x),
        "jacrev of jacrev": jacrev(jacrev(loss))(x),
        "vectorized": torch.autograd.functional.hessian(loss, x, vectorize=True),
    }
    assert_same(found, dict.fromkeys(found, second))


@layers
def test_a_first_gradient_that_could_be_differentiated_runs_the_kernels(kind, monkeypatch):
    """The reference is for the second derivative alone."""
    module, x = layer(kind), inputs(T, B, I).requires_grad_()
    expected = torch.autograd.grad(output(module, x).sum(), x)
    monkeypatch.setattr("fastrnn.spec.reference.step", None)
    got = torch.autograd.grad(output(module, x).sum(), x, create_graph=True)
    assert_same({"dx": got[0]}, {"dx": expected[0]})


def test_vmap_refuses_mapped_batch_sizes():
    module = layer("gru")
    x, batch_sizes, *_ = pack_padded_sequence(inputs(T, B, I), torch.tensor([T, 2]))

    def run(batch_sizes: Tensor) -> Tensor:
        weights = list(module.parameters())
        return torch.ops.fastrnn.layer_forward(x, None, None, weights, batch_sizes, "gru", 1, True, False)[0]

    with pytest.raises(NotImplementedError, match="expected batch_sizes that are the same for all"):
        vmap(run)(batch_sizes.expand(V, -1))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "deep"])
@pytest.mark.parametrize("x_needs_gradient", [True, False])
def test_counted_operations_are_those_of_torch(options, x_needs_gradient):
    counts = []
    for library in (nn, fastrnn):
        module, x = library.GRU(I, H, **options), inputs(T, B, I, dtype=torch.float32)
        with FlopCounterMode(display=False) as counter:
            module(x.requires_grad_(x_needs_gradient))[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[1] == counts[0] > 0
