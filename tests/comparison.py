"""What the tests compare: a fastrnn module and its torch.nn counterpart, same parameters and same inputs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import fastrnn

# id: class name and the arguments that choose the cell
LAYERS = {
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}
CELLS = {name: (class_name + "Cell", arguments) for name, (class_name, arguments) in LAYERS.items()}
MODULES = [
    pytest.param(kinds, kind, id=kind + suffix) for kinds, suffix in ((LAYERS, ""), (CELLS, "-cell")) for kind in kinds
]

layers = pytest.mark.parametrize("kind", LAYERS)
cells = pytest.mark.parametrize("kind", CELLS)
every_module = pytest.mark.parametrize("kinds,kind", MODULES)

FLOOR_ULPS = 8


def rows(options):
    """Layers times directions: the first size of a state."""
    return options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)


def pair(kinds: dict[str, tuple[str, dict]], kind: str, *args: Any, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """The torch.nn module and the fastrnn module of this kind, each built from the same seed."""
    class_name, arguments = kinds[kind]
    modules = []
    for namespace in (nn, fastrnn):
        torch.manual_seed(0)
        modules.append(getattr(namespace, class_name)(*args, **arguments, **kwargs))
    return tuple(modules)


def states(kind: str, rows: int | None, batch: int | None, hidden: int, out: int | None = None, **options: Any) -> Any:
    """An explicit initial state as the module of this kind takes it; ``None`` drops the dimension."""
    generator = torch.Generator().manual_seed(2)

    def make(size: int) -> Tensor:
        shape = [n for n in (rows, batch, size) if n is not None]
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(**options)

    return (make(out or hidden), make(hidden)) if kind == "lstm" else make(out or hidden)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, PackedSequence):
        yield nested.data
    elif nested is not None:
        for item in nested:
            yield from tensors(item)


def leaves(nested: Any) -> Any:
    """A copy whose tensors are leaves that require grad, with sizes and strides kept."""
    if isinstance(nested, PackedSequence):
        return nested._replace(data=leaves(nested.data))
    if isinstance(nested, Tensor):
        return nested.detach().requires_grad_()
    return None if nested is None else tuple(leaves(item) for item in nested)


def results(module: nn.Module, x: Any, hx: Any = None, seed: int = 3) -> dict[str, Tensor]:
    """Every output of ``module(x, hx)`` and every gradient of a weighted sum of them, by name."""
    x, hx = leaves(x), leaves(hx)
    torch.manual_seed(seed)
    outputs = list(tensors(module(x, hx)))
    generator = torch.Generator().manual_seed(4)
    gradients = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    wanted = {"x": next(tensors(x)), **{f"hx[{i}]": s for i, s in enumerate(tensors(hx))}}
    wanted |= dict(module.named_parameters())
    found = torch.autograd.grad(outputs, list(wanted.values()), gradients)
    named = {f"output[{i}]": y.detach() for i, y in enumerate(outputs)}
    return named | {f"d {name}": gradient for name, gradient in zip(wanted, found, strict=True)}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """In float64, to 1e-10."""
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def assert_exact(got: dict[str, Tensor], oracle: dict[str, Tensor]) -> None:
    """In float64, to 1e-12 of the largest value."""
    assert got.keys() == oracle.keys()
    for name, exact in oracle.items():
        error, limit = (got[name] - exact).abs().max(), 1e-12 * exact.abs().max()
        assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g}"


def assert_accurate(got: dict[str, Tensor], torch_nn: dict[str, Tensor], oracle: dict[str, Tensor]) -> None:
    """Error against the float64 oracle at most twice that of torch.nn at the same dtype, plus a few ulps."""
    assert got.keys() == torch_nn.keys() == oracle.keys()
    for name, exact in oracle.items():
        if exact.numel() == 0:
            continue
        assert got[name].dtype == torch_nn[name].dtype
        floor = FLOOR_ULPS * torch.finfo(got[name].dtype).eps * exact.abs().max()
        limit = 2 * (torch_nn[name].double() - exact).abs().max() + floor
        error = (got[name].double() - exact).abs().max()
        assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g}"
