"""What the tests compare: a fastrnn module and its peer, same parameters and same inputs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.nn.utils.rnn import PackedSequence

import fastrnn
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, LayerSpec
from fastrnn.testing import CELL_MODULES, IN_TORCH, LAYERS, Kind, on_reference

# The modules that torch.nn has too
TORCH_LAYERS = {kind: LAYERS[kind] for kind in IN_TORCH}
TORCH_CELLS = {kind: CELL_MODULES[kind] for kind in IN_TORCH}


def _modules(of_cells: Any) -> pytest.MarkDecorator:
    tables = ((LAYERS, ""), (CELL_MODULES, "-cell"))
    parameters = [pytest.param(kinds, kind, id=kind + suffix) for kinds, suffix in tables for kind in of_cells]
    return pytest.mark.parametrize("kinds,kind", parameters)


layers = pytest.mark.parametrize("kind", LAYERS)
torch_layers = pytest.mark.parametrize("kind", TORCH_LAYERS)
cells = pytest.mark.parametrize("kind", CELL_MODULES)
torch_cells = pytest.mark.parametrize("kind", TORCH_CELLS)
every_module = _modules(CELLS)
every_torch_module = _modules(IN_TORCH)


def with_options(options: dict[str, dict], kinds: Any = LAYERS) -> pytest.MarkDecorator:
    """Parameters ``kind,options``: those that each cell takes."""
    parameters = [
        pytest.param(kind, given, id=f"{kind}-{name}")
        for kind in kinds
        for name, given in options.items()
        if CELLS[kind].projectable or "proj_size" not in given
    ]
    return pytest.mark.parametrize("kind,options", parameters)


def rows(options):
    """Layers times directions: the first size of a state."""
    return options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)


def build(library: Any, kinds: dict[str, Kind], kind: str, *args: Any, **kwargs: Any) -> nn.Module:
    class_name, arguments = kinds[kind]
    return getattr(library, class_name)(*args, **arguments, **kwargs)


def pair(kinds: dict[str, Kind], kind: str, *args: Any, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """The peer and the fastrnn module of this kind, with the same parameters.

    The peer is torch.nn's module, built from the same seed; for a cell that torch.nn lacks, the module on the oracle.
    """
    torch.manual_seed(0)
    ours = build(fastrnn, kinds, kind, *args, **kwargs)
    if kind not in IN_TORCH:
        return on_reference(ours), ours
    torch.manual_seed(0)
    return build(nn, kinds, kind, *args, **kwargs), ours


def modules_of(kinds: dict[str, Kind], kind: str, *args: Any, **kwargs: Any) -> tuple[nn.Module, ...]:
    """What users may write: torch.nn's module, where it has one, and fastrnn's; the same parameters."""
    theirs, ours = pair(kinds, kind, *args, **kwargs)
    return (theirs, ours) if kind in IN_TORCH else (ours,)


def states(kind: str, rows: int | None, batch: int | None, hidden: int, out: int | None = None, **options: Any) -> Any:
    """An explicit initial state as the module of this kind takes it; ``None`` drops the dimension."""
    generator = torch.Generator().manual_seed(2)

    def make(size: int) -> Tensor:
        shape = [n for n in (rows, batch, size) if n is not None]
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(**options)

    return hx_of(tuple(make(width) for width in LayerSpec(kind).state_widths(hidden, out or hidden).values()))


def each(function: Any, hx: Any) -> Any:
    """``function`` of every state, in the form of ``hx``."""
    return None if hx is None else hx_of(tuple(function(s) for s in tensors(hx)))


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


def run_by_fastrnn(module: nn.Module, x: Any) -> bool:
    """Whether a call of the module runs a layer of fastrnn."""
    with torch.no_grad(), profile(use_cpu=True) as events:
        module(x)
    return any(event.name == "fastrnn::layer_forward" for event in events.function_events)


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
