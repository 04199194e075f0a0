"""One layer and its tensors, and three ways to compute its results and gradients: the oracle, torch.nn, the kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benches.gpu.precision import PRECISIONS
from fastrnn.backends.triton import operators
from fastrnn.spec import CELLS, LayerSpec, reference

__all__ = ["Layer", "Values", "by_kernels", "by_oracle", "by_torch_nn", "make_values"]


@dataclass(frozen=True)
class Layer:
    """One layer and its batch. ``P`` is the size of a projection, 0 for none; ``state`` gives it an initial state."""

    cell: str
    regime: str
    precision: str
    T: int
    B: int
    H: int
    I: int  # noqa: E741
    P: int = 0
    directions: int = 1
    batch_first: bool = False
    ragged: bool = False
    state: bool = True
    bias: bool = True

    def __str__(self) -> str:
        flags = ("batch_first", "ragged")
        parts = [self.cell, self.precision, self.regime, f"T{self.T}", f"B{self.B}", f"H{self.H}", f"I{self.I}"]
        parts += [f"P{self.P}"] * bool(self.P) + ["bidirectional"] * (self.directions == 2)
        parts += [flag for flag in flags if getattr(self, flag)]
        return " ".join(parts + ["no state"] * (not self.state) + ["no bias"] * (not self.bias))

    @property
    def outputs(self) -> int:
        return self.P or self.H

    @property
    def batch_sizes(self) -> Tensor | None:
        """From ``T`` steps of one entry down to one step of another, in equal stairs."""
        if not self.ragged:
            return None
        lengths = [max(1, self.T - b * self.T // self.B) for b in range(self.B)]
        return torch.tensor([sum(length > t for length in lengths) for t in range(self.T)])

    @property
    def spec(self) -> LayerSpec:
        return LayerSpec(self.cell, self.directions, self.bias, self.batch_first, self.P > 0)


@dataclass(frozen=True)
class Values:
    """Inputs of a layer and gradients of its outputs."""

    layer: Layer
    x: Tensor
    state: list[Tensor]
    weights: list[Tensor]
    dy: Tensor
    dstate: list[Tensor]

    def double(self) -> "Values":
        def cast(tensors: list[Tensor]) -> list[Tensor]:
            return [t.double() for t in tensors]

        return replace(
            self,
            x=self.x.double(),
            state=cast(self.state),
            weights=cast(self.weights),
            dy=self.dy.double(),
            dstate=cast(self.dstate),
        )


def make_values(layer: Layer, device: str) -> Values:
    T, B, H, P, D = layer.T, layer.B, layer.H, layer.outputs, layer.directions
    G = len(CELLS[layer.cell].gates)
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(PRECISIONS[layer.precision].dtype)

    sizes = layer.batch_sizes
    leading = (int(sizes.sum()),) if sizes is not None else (B, T) if layer.batch_first else (T, B)
    shapes = [(G * H, layer.I), (G * H, P)] + [(G * H,)] * (2 * layer.bias) + [(P, H)] * bool(layer.P)
    uniform = [2 * torch.rand(s, generator=generator, device=device) - 1 for s in shapes * D]
    widths = layer.spec.state_widths(H, P).values()
    return Values(
        layer,
        x=normal(*leading, layer.I),
        # A packed batch has explicit states, as the operators demand.
        state=[normal(D, B, width) for width in widths] if layer.state or layer.ragged else [],
        weights=[(w / H**0.5).to(PRECISIONS[layer.precision].dtype) for w in uniform],
        dy=normal(*leading, D * P),
        dstate=[normal(D, B, width) for width in widths],
    )


def by_kernels(values: Values, poisoned: bool) -> dict[str, Tensor]:
    """By the operators; ``poisoned``, in memory full of NaN, so that a result nobody has written is seen."""
    options = (values.layer.batch_sizes, *values.layer.spec.arguments)
    inputs = (values.x, values.state, values.weights)
    needed = [True] * (1 + len(values.state) + len(values.weights))
    with _poison(poisoned):
        y, final, saved = operators.layer_forward(*inputs, *options, True)
        gradients = operators.layer_backward(values.dy, values.dstate, *inputs, y, saved, *options, needed)
    return _named(values, y, final, gradients)


def by_oracle(values: Values) -> dict[str, Tensor]:
    """By the reference, in float64."""
    layer = values.layer

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        return reference.layer(layer.spec, x, state, weights, layer.batch_sizes)

    return _differentiated(values.double(), compute)


def by_torch_nn(values: Values) -> dict[str, Tensor]:
    """By the function under torch.nn's layer of this cell."""
    layer = values.layer

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        state = state or [torch.zeros_like(s) for s in values.dstate]
        hx = state if layer.cell == "lstm" else state[0]
        sizes = layer.batch_sizes
        batch, layout = ((), (layer.batch_first,)) if sizes is None else ((sizes,), ())
        options = (layer.bias, 1, 0.0, True, layer.directions == 2, *layout)
        y, *final = getattr(torch._VF, layer.cell)(x, *batch, hx, weights, *options)
        return y, final

    return _differentiated(values, compute)


def _differentiated(values: Values, compute: Callable[..., tuple[Tensor, Sequence[Tensor]]]) -> dict[str, Tensor]:
    leaves = [t.clone().requires_grad_() for t in (values.x, *values.state, *values.weights)]
    states = len(values.state)
    y, final = compute(leaves[0], leaves[1 : 1 + states], leaves[1 + states :])
    gradients = torch.autograd.grad([y, *final], leaves, [values.dy, *values.dstate])
    return _named(values, y, final, gradients)


def _named(values: Values, y: Tensor, final: Sequence[Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    layer = values.layer
    of_direction = ["w_ih", "w_hh"] + ["b_ih", "b_hh"] * layer.bias + ["w_hr"] * bool(layer.P)
    weights = [f"{name}[{d}]" for d in range(layer.directions) for name in of_direction]
    states = CELLS[layer.cell].states
    inputs = ["x", *(f"{s}_0" for s in states[: len(values.state)]), *weights]
    outputs = {"y": y, **{f"{s}_T": f for s, f in zip(states, final, strict=True)}}
    outputs |= {f"d{name}": gradient for name, gradient in zip(inputs, gradients, strict=True)}
    return {name: value.detach() for name, value in outputs.items()}


@contextmanager
def _poison(wanted: bool) -> Iterator[None]:
    """Tensors that nobody has written hold NaN."""
    if not wanted:
        yield
        return
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
