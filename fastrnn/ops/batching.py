"""``torch.vmap`` over a layer: mapped rows become rows of a larger batch, mapped weights members of an ensemble.

Of V mapped values the one at v stands at row ``b * V + v``, for every row b of the batch: so it does in a packed batch
too, and is sample ``v`` of ``layer_backward``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward, library
from fastrnn.spec import given

__all__: list[str] = []

Dim = int | None


class _Rows:
    """Folds the mapped dimension into the batch and out of it again. ``size`` is V."""

    def __init__(self, size: int, x: Tensor, x_dim: Dim, weights: Sequence[Tensor], packed: bool, batch_first: bool):
        self.size = size
        self.members = weights[1].dim() - 2
        dims = x.dim() - self.members - (x_dim is not None)
        self.one_step = dims == 2 and not packed
        by_sequence = batch_first or packed or self.one_step
        self.sequence_axis = self.members + (0 if by_sequence else 1)
        self.state_axis = self.members + (0 if self.one_step else 1)
        self.saved_axis = self.members + 1

    def fold(self, t: Any, dim: Dim, axis: int) -> Any:
        """A tensor or None, into the axis of the rows, as of a tensor that is not mapped."""
        if t is None:
            return None
        front = t.expand(self.size, *t.shape) if dim is None else t.movedim(dim, 0)
        return front.movedim(0, axis + 1).flatten(axis, axis + 1)

    def unfold(self, t: Tensor, axis: int) -> Tensor:
        """The mapped dimension is then behind the axis."""
        return t.unflatten(axis, (t.shape[axis] // self.size, self.size))

    def by_sample(self, t: Tensor, samples: int) -> Tensor:
        """The gradient of a weight, the mapped dimension behind that of the samples, where there are any."""
        if samples == 1:
            return t.unsqueeze(self.members) if self.size == 1 else t
        return self.unfold(t, self.members)

    def states(self, state: Sequence[Tensor | None], dims: Any) -> Any:
        return [self.fold(s, dim, self.state_axis) for s, dim in zip(state, dims, strict=True)]

    def sizes(self, batch_sizes: Tensor | None) -> Tensor | None:
        return None if batch_sizes is None else batch_sizes * self.size


def _to_members(size: int, nested: bool, values: Any, dims: Any) -> Any:
    """Tensors, and lists of them, with the mapped dimension as the members', or in front of theirs if ``nested``."""
    if values is None:
        return None
    if not isinstance(values, Tensor):
        dims = dims if dims is not None else [None] * len(values)
        return [_to_members(size, nested, value, dim) for value, dim in zip(values, dims, strict=True)]
    front = values.expand(size, *values.shape) if dims is None else values.movedim(dims, 0)
    return front.flatten(0, 1) if nested else front


def _from_members(size: int, nested: bool, results: Any) -> tuple[Any, Any]:
    """Results and where their mapped dimension is."""
    if isinstance(results, Tensor):
        return (results.unflatten(0, (size, -1)) if nested else results), 0
    parts = [_from_members(size, nested, result) for result in results]
    return type(results)([value for value, _ in parts]), type(results)([dim for _, dim in parts])


def _mapped(dims: Any) -> bool:
    return any(dim is not None for dim in dims)


def _check_not_mapped(batch_sizes_dim: Dim) -> None:
    if batch_sizes_dim is not None:
        raise NotImplementedError("fastrnn: expected batch_sizes that are the same for all that vmap maps over")


def _nested(weights: Sequence[Tensor], dims: Any) -> bool:
    return weights[1].dim() - (dims[1] is not None) == 3


def _bare(value: Any, unwrap: Any) -> tuple[Any, Any]:
    """An argument without its mapped dimension, and where that was, in lists as they come."""
    if isinstance(value, list):
        pairs = [_bare(v, unwrap) for v in value]
        return [v for v, _ in pairs], [dim for _, dim in pairs]
    return unwrap(value) if isinstance(value, Tensor) else (value, None)


def _mapped_again(value: Any, dims: Any, wrap: Any) -> Any:
    if isinstance(value, Tensor):
        return wrap(value, dims)
    return type(value)([_mapped_again(v, dim, wrap) for v, dim in zip(value, dims, strict=True)])


def _register(rule: Any, operator: Any) -> None:
    """What ``torch.library.register_vmap`` does, in a third of its time, which is that of a layer of 50 short steps."""

    def kernel(*args: Any) -> Any:
        interpreter: Any = retrieve_current_functorch_interpreter()
        level = interpreter.level()
        values, dims = _bare(list(args), lambda t: _functorch._unwrap_batched(t, level))
        with torch._C._ExcludeDispatchKeyGuard(_BATCHED):
            if not any(_mapped(dim) if isinstance(dim, list) else dim is not None for dim in dims):
                return operator(*values)
            results, out_dims = rule(interpreter.batch_size(), dims, *values)
        return _mapped_again(results, out_dims, lambda t, dim: _functorch._add_batch_dim(t, dim, level))

    library.impl(operator, kernel, "FuncTorchBatched")


_BATCHED = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)


def _forward(
    size: int,
    in_dims: Any,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    save: bool = False,
) -> Any:
    options = (cell, directions, has_bias, batch_first, save)
    x_dim, h_dim, c_dim, weight_dims, batch_sizes_dim = in_dims[:5]
    _check_not_mapped(batch_sizes_dim)
    if _mapped(weight_dims):
        nested = _nested(weights, weight_dims)
        x, h_0, c_0, weights = _to_members(size, nested, (x, h_0, c_0, weights), in_dims[:4])
        return _from_members(size, nested, layer_forward(x, h_0, c_0, weights, batch_sizes, *options))
    rows = _Rows(size, x, x_dim, weights, batch_sizes is not None, batch_first)
    x = rows.fold(x, x_dim, rows.sequence_axis)
    h_0, c_0 = rows.states((h_0, c_0), (h_dim, c_dim))
    y, final, saved = layer_forward(x, h_0, c_0, weights, rows.sizes(batch_sizes), *options)
    results = (
        rows.unfold(y, rows.sequence_axis),
        [rows.unfold(s, rows.state_axis) for s in final],
        rows.unfold(saved, rows.saved_axis),
    )
    return results, (rows.sequence_axis + 1, [rows.state_axis + 1] * len(final), rows.saved_axis + 1)


def _frozen(
    size: int,
    in_dims: Any,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
) -> Any:
    x_dim, h_dim, c_dim, weight_dims, batch_sizes_dim = in_dims[:5]
    _check_not_mapped(batch_sizes_dim)
    if _mapped(weight_dims):
        raise NotImplementedError("fastrnn: expected frozen weights that are the same for all that vmap maps over")
    rows = _Rows(size, x, x_dim, weights, batch_sizes is not None, batch_first)
    x = rows.fold(x, x_dim, rows.sequence_axis)
    h_0, c_0 = rows.states((h_0, c_0), (h_dim, c_dim))
    y, final = frozen_forward(x, h_0, c_0, weights, rows.sizes(batch_sizes), cell, directions, has_bias, batch_first)
    results = rows.unfold(y, rows.sequence_axis), [rows.unfold(s, rows.state_axis) for s in final]
    return results, (rows.sequence_axis + 1, [rows.state_axis + 1] * len(final))


def _backward(
    size: int,
    in_dims: Any,
    dy: Tensor | None,
    dstate: Sequence[Tensor | None],
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    y: Tensor,
    saved: Tensor,
    batch_sizes: Tensor | None,
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    needed: Sequence[bool],
    samples: int = 1,
) -> Any:
    dy_dim, dstate_dims, x_dim, h_dim, c_dim, weight_dims, y_dim, saved_dim, batch_sizes_dim = in_dims[:9]
    _check_not_mapped(batch_sizes_dim)
    options = (cell, directions, has_bias, batch_first, needed)
    if _mapped(weight_dims):
        nested = _nested(weights, weight_dims)
        tensors = _to_members(size, nested, (dy, dstate, x, h_0, c_0, weights, y, saved), in_dims[:8])
        return _from_members(size, nested, layer_backward(*tensors, batch_sizes, *options, samples))
    rows = _Rows(size, x, x_dim, weights, batch_sizes is not None, batch_first)
    gradients = layer_backward(
        rows.fold(dy, dy_dim, rows.sequence_axis),
        rows.states(dstate, dstate_dims),
        rows.fold(x, x_dim, rows.sequence_axis),
        *rows.states((h_0, c_0), (h_dim, c_dim)),
        weights,
        rows.fold(y, y_dim, rows.sequence_axis),
        rows.fold(saved, saved_dim, rows.saved_axis),
        rows.sizes(batch_sizes),
        *options,
        samples * size,
    )
    axes = [rows.sequence_axis, *[rows.state_axis] * len(given(h_0, c_0))]
    of_inputs = [axis for axis, wanted in zip(axes, needed) if wanted]  # noqa: B905, weights follow
    results = [rows.unfold(t, axis) for t, axis in zip(gradients, of_inputs)]  # noqa: B905, weights follow
    by_sample = [rows.by_sample(t, samples) for t in gradients[len(of_inputs) :]]
    dims = [axis + 1 for axis in of_inputs] + [rows.members + (samples > 1)] * len(by_sample)
    return results + by_sample, dims


def _backward_of_batched_gradients(*args: Any) -> Any:
    """For ``torch.autograd.grad(..., is_grads_batched=True)``, which maps by an older mechanism than ``torch.vmap``."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()

    def unwrap(t: Tensor) -> tuple[Tensor, Dim]:
        return (torch._remove_batch_dim(t, level, 0, 0), 0) if _functorch.is_legacy_batchedtensor(t) else (t, None)

    values, dims = _bare(list(args), unwrap)
    results = torch.vmap(layer_backward, tuple(dims))(*values)
    return _mapped_again(results, [0] * len(results), lambda t, dim: torch._add_batch_dim(t, dim, level))


_register(_forward, layer_forward)
_register(_backward, layer_backward)
_register(_frozen, frozen_forward)
library.impl(layer_backward, _backward_of_batched_gradients, "Batched")
