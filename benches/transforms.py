"""What transforms and short calls cost: ``python -m benches.transforms``. Every result is verified before it is timed.

- *vmap over inputs* against the same rows as one batch.
- *ensemble*, by ``stack_module_state`` and ``vmap``, against a loop over its members; its training step too.
- *gradients by sample*, by ``vmap(grad(...))``, against the backward pass of the whole batch, and against a loop.
- *one training step*, forward and backward at batch 1, T 1, H 128, against ``torch.nn``.

A ratio is the other's time divided by ours. The layers of ``torch.nn`` refuse ``vmap``, except for gradients by sample
of an LSTM in float32, which are a loop inside.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

import fastrnn
from benches.machine import describe
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.testing import CELL_MODULES, IN_TORCH, LAYERS

Runs = dict[str, Callable[[], object]]
# (T, B, H): the rows of a batch are the samples, or are those of each member of an ensemble of 8.
SIZES = {"small": (50, 4, 64), "medium": (50, 16, 128), "large": (50, 32, 256)}
MEMBERS = 8


def _output(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(module, parameters, (x,))[0]


def mapped_inputs(kind: type[nn.Module], steps: int, batch: int, size: int) -> Runs:
    module, x = kind(size, size), torch.randn(MEMBERS, steps, batch, size)
    rows = x.transpose(0, 1).flatten(1, 2).contiguous()

    @torch.no_grad()
    def mapped() -> Tensor:
        return vmap(lambda x: module(x)[0])(x)

    @torch.no_grad()
    def one_batch() -> Tensor:
        return module(rows)[0]

    torch.testing.assert_close(mapped().transpose(0, 1).flatten(1, 2), one_batch())
    return {"one batch": one_batch, "ours": mapped}


def ensemble(kind: type[nn.Module], steps: int, batch: int, size: int) -> Runs:
    members, x = [kind(size, size) for _ in range(MEMBERS)], torch.randn(steps, batch, size)
    parameters, _ = stack_module_state(members)

    @torch.no_grad()
    def loop() -> Tensor:
        return torch.stack([member(x)[0] for member in members])

    @torch.no_grad()
    def mapped() -> Tensor:
        return vmap(_output, in_dims=(None, 0, None))(members[0], parameters, x)

    torch.testing.assert_close(mapped(), loop())
    return {"loop": loop, "ours": mapped}


def ensemble_training(kind: type[nn.Module], steps: int, batch: int, size: int) -> Runs:
    members, x = [kind(size, size) for _ in range(MEMBERS)], torch.randn(steps, batch, size)
    parameters, _ = stack_module_state(members)
    stacked, separate = list(parameters.values()), [list(member.parameters()) for member in members]

    def loop() -> list[Tensor]:
        each = [torch.autograd.grad(m(x)[0].sum(), ws) for m, ws in zip(members, separate, strict=True)]
        return [torch.stack(gradients) for gradients in zip(*each, strict=True)]

    def mapped() -> list[Tensor]:
        y = vmap(_output, in_dims=(None, 0, None))(members[0], parameters, x)
        return list(torch.autograd.grad(y.sum(), stacked))

    torch.testing.assert_close(mapped(), loop(), rtol=1e-3, atol=1e-4)
    return {"loop": loop, "ours": mapped}


def by_sample(kind: type[nn.Module], steps: int, batch: int, size: int) -> Runs:
    module, x = kind(size, size), torch.randn(batch, steps, 1, size)
    parameters = dict(module.named_parameters())
    whole = x.squeeze(2).transpose(0, 1).contiguous()

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return _output(module, parameters, x).sum()

    def backward() -> list[Tensor]:
        return list(torch.autograd.grad(module(whole)[0].sum(), list(parameters.values())))

    def loop() -> list[Tensor]:
        each = [torch.autograd.grad(loss(parameters, x_), list(parameters.values())) for x_ in x]
        return [torch.stack(gradients) for gradients in zip(*each, strict=True)]

    def mapped() -> list[Tensor]:
        return list(vmap(grad(loss), in_dims=(None, 0))(parameters, x).values())

    torch.testing.assert_close(mapped(), loop(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close([t.sum(0) for t in mapped()], backward(), rtol=1e-3, atol=1e-3)
    return {"loop": loop, "backward": backward, "ours": mapped}


MEASURED = {
    "vmap over inputs": mapped_inputs,
    "ensemble": ensemble,
    "ensemble, training": ensemble_training,
    "gradients by sample": by_sample,
}


def training_step(cell: str, kinds: dict, shape: tuple[int, ...]) -> Runs:
    """Forward, backward and the gradients' end, of torch.nn's module and of ours."""
    x, size = torch.randn(*shape), shape[-1]
    class_name, arguments = kinds[cell]
    runs, gradients = {}, []
    for name, library in (("torch", nn), ("ours", fastrnn)):
        torch.manual_seed(0)
        module = getattr(library, class_name)(size, size, **arguments)
        parameters = list(module.parameters())

        def step(module: nn.Module = module, parameters: list[nn.Parameter] = parameters) -> None:
            result = module(x)
            (result[0] if isinstance(result, tuple) else result).sum().backward()
            for parameter in parameters:
                parameter.grad = None

        result = module(x)
        y = result[0] if isinstance(result, tuple) else result
        gradients.append(torch.autograd.grad(y.sum(), parameters))
        runs[name] = step
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    return runs


def ratios(runs: Runs, budget: Budget) -> Iterator[tuple[str, Quartiles, float]]:
    times = race(runs, budget)
    ours = Quartiles.of(times.seconds["ours"]).median
    for name in runs:
        if name != "ours":
            yield name, times.ratio(name, "ours"), ours


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.transforms", description="Transforms and short calls.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="for the slowest of each comparison")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = describe(options.threads)
    budget = Budget(options.seconds, min_rounds=15, max_rounds=200)
    rows = []
    for name, make in MEASURED.items():
        for size_name, sizes in SIZES.items():
            for kind in (fastrnn.LSTM, fastrnn.GRU):
                for peer, ratio, ours in ratios(make(kind, *sizes), budget):
                    rows.append([name, kind.__name__, size_name, peer, f"{ours * 1e6:.0f}", f"{ratio.median:.2f}"])
    for kinds, shape in ((LAYERS, (1, 1, 128)), (CELL_MODULES, (1, 128))):
        for cell in IN_TORCH:
            for peer, ratio, ours in ratios(training_step(cell, kinds, shape), budget):
                module = f"{kinds[cell].class_name} {cell}"
                rows.append(["one training step", module, "1 row", peer, f"{ours * 1e6:.0f}", f"{ratio.median:.2f}"])
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "threads", "load")))
    print(format_table(["what", "module", "size", "against", "us", "ratio"], rows, 4, markdown=False))


if __name__ == "__main__":
    main()
