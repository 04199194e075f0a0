"""What differentiates and transforms modules."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

from benches.compatibility.rows import HIDDEN, INPUTS, Model, Side, batch, gradients, pair, row, same


@row("torch.func.jacrev")
def _(side: Side) -> None:
    model, expected = pair(side)
    x = batch()
    same(jacrev(model)(x), torch.autograd.functional.jacobian(expected, x))


@row("jacobian(vectorize=True), is_grads_batched")
def _(side: Side) -> None:
    model, expected = pair(side)
    x = batch()
    found = torch.autograd.functional.jacobian(model, x, vectorize=True)
    same(found, torch.autograd.functional.jacobian(expected, x))


@row("second derivatives")
def _(side: Side) -> None:
    model, x = Model(side.layer).double(), batch(1, 2).double().requires_grad_()
    assert torch.autograd.gradgradcheck(model, (x,))


@row("forward-mode derivatives")
def _(side: Side) -> None:
    model, x = Model(side.layer).double(), batch(1, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(model, (x,), check_forward_ad=True)


@row("torch.vmap over inputs")
def _(side: Side) -> None:
    model, expected = pair(side)
    x = torch.stack([batch() for _ in range(3)])
    same(vmap(model)(x), torch.stack([expected(x_) for x_ in x]))


@row("torch.vmap over an ensemble")
def _(side: Side) -> None:
    models, expected = zip(*[pair(side) for _ in range(3)], strict=True)
    x, (stacked, _) = batch(), stack_module_state(list(models))
    found = vmap(lambda parameters: functional_call(models[0], parameters, (x,)))(stacked)
    same(found, torch.stack([model(x) for model in expected]))


@row("torch.vmap(torch.func.grad)")
def _(side: Side) -> None:
    model, expected = pair(side)
    parameters, x = dict(model.named_parameters()), batch()

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x,)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x[:, None])
    each = [gradients(expected, expected(x_).square().sum()) for x_ in x[:, None]]
    same(list(found.values()), [torch.stack(t) for t in zip(*each, strict=True)])


@row("Opacus: validation, gradients by sample", "opacus")
def _(side: Side) -> None:
    from opacus import GradSampleModule
    from opacus.validators import ModuleValidator

    ModuleValidator.validate(Model(side.layer), strict=True)

    class Outputs(side.layer):  # Opacus takes what returns one tensor
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)[0]

    model, x = Outputs(INPUTS, HIDDEN, batch_first=True), batch()
    expected = side.of_torch.layer(INPUTS, HIDDEN, batch_first=True)
    expected.load_state_dict(model.state_dict())
    GradSampleModule(model, loss_reduction="sum", force_functorch=True)(x).square().sum().backward()
    each = [gradients(expected, expected(x_)[0].square().sum()) for x_ in x[:, None]]
    same([p.grad_sample for p in model.parameters()], [torch.stack(t) for t in zip(*each, strict=True)])


@row("higher: an inner loop", "higher")
def _(side: Side) -> None:
    import higher

    x, found = batch(), []
    for model in pair(side):
        options = {"copy_initial_weights": False, "track_higher_grads": True}
        with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), 0.1), **options) as (inner, step):
            step.step(inner(x).square().mean())
            found.append(gradients(model, inner(x).square().mean()))
    same(*found)
