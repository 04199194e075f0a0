"""``torch.vmap`` over a layer: mapped rows become rows of a larger batch, mapped weights members of an ensemble.

Of V mapped values the one at v stands at row ``b * V + v``, for every row b of the batch: so it does in a packed batch
too, and is sample ``v`` of ``layer_backward``.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

from fastrnn.ops.operators import frozen_forward, layer_backward, layer_forward, library
from fastrnn.spec import BackwardCall, ForwardCall, place_of_w_hh

__all__: list[str] = []


class _Rows:
    """Folds the mapped dimension, of size V, into the batch and out of it again."""

    def __init__(self, size: int, call: ForwardCall, dims: ForwardCall) -> None:
        self.size = size
        self.call, self.dims = call, dims
        x_dim: Any = dims.x
        bare = call if x_dim is None else call._replace(x=call.x.select(x_dim, 0))
        time_first = not (bare.swapped or bare.one_step or call.batch_sizes is not None)
        self.members = bare.members
        self.sequence_axis = self.members + time_first
        self.state_axis = self.members + (not bare.one_step)
        self.saved_axis = self.members + 1
        self.by_step_axis = self.members + (1 if call.batch_sizes is not None else 2)

    def fold(self, t: Any, dim: Any, axis: int) -> Any:
        """A tensor or None, into the axis of the rows, as of a tensor that is not mapped."""
        if t is None:
            return None
        front = t.expand(self.size, *t.shape) if dim is None else t.movedim(dim, 0)
        return front.movedim(0, axis + 1).flatten(axis, axis + 1)

    def unfold(self, t: Tensor, axis: int) -> Tensor:
        """The mapped dimension is then behind the axis."""
        return t.unflatten(axis, (t.shape[axis] // self.size, self.size))

    def sequence(self, t: Any, dim: Any) -> Any:
        return self.fold(t, dim, self.sequence_axis)

    def state(self, s: Any, dim: Any) -> Any:
        return self.fold(s, dim, self.state_axis)

    def reset_state(self, s: Any, dim: Any) -> Any:
        """One for all steps, or one for each."""
        by_step = s is not None and s.dim() - (dim is not None) - self.members == 4
        return self.fold(s, dim, self.state_axis + by_step)

    def folded(self) -> ForwardCall:
        """The call on all rows."""
        call, dims = self.call, self.dims
        sizes = None if call.batch_sizes is None else call.batch_sizes * self.size
        h_0, c_0 = self.state(call.h_0, dims.h_0), self.state(call.c_0, dims.c_0)
        return call._replace(
            x=self.sequence(call.x, dims.x),
            h_0=h_0,
            c_0=c_0,
            batch_sizes=sizes,
            lengths=self.fold(call.lengths, dims.lengths, 0),
            reset=self.fold(call.reset, dims.reset, self.sequence_axis - self.members),
            h_reset=self.reset_state(call.h_reset, dims.h_reset),
            c_reset=self.reset_state(call.c_reset, dims.c_reset),
            h_mask=self.state(call.h_mask, dims.h_mask),
        )

    def axes_of_states(self, count: int) -> list[int]:
        """Of the final states and of those after every step."""
        return [self.state_axis if i < len(self.call.spec.facts.states) else self.by_step_axis for i in range(count)]

    def unfolded(self, y: Tensor, final: list[Tensor]) -> tuple[tuple[Tensor, list[Tensor]], tuple[int, list[int]]]:
        """Its results, and where their mapped dimension is."""
        axes = self.axes_of_states(len(final))
        states = [self.unfold(s, axis) for s, axis in zip(final, axes, strict=True)]
        return (self.unfold(y, self.sequence_axis), states), (self.sequence_axis + 1, [axis + 1 for axis in axes])

    def by_sample(self, t: Tensor, samples: int) -> Tensor:
        """The gradient of a weight, the mapped dimension behind that of the samples, where there are any."""
        if samples == 1:
            return t.unsqueeze(self.members) if self.size == 1 else t
        return self.unfold(t, self.members)


class _Members:
    """The mapped dimension, of size V, as that of the members, or in front of theirs where there are members."""

    def __init__(self, size: int, call: Any, dims: Any) -> None:
        self.size = size
        w_hh = place_of_w_hh(call.layer_norm)
        self.nested = call.weights[w_hh].dim() - (dims.weights[w_hh] is not None) == 3

    def join(self, value: Any, dim: Any) -> Any:
        """A tensor, a list, or None."""
        if value is None:
            return None
        if isinstance(value, list):
            return [self.join(v, d) for v, d in zip(value, dim, strict=True)]
        front = value.expand(self.size, *value.shape) if dim is None else value.movedim(dim, 0)
        return front.flatten(0, 1) if self.nested else front

    def joined(self, call: Any, dims: Any) -> Any:
        """A call with all tensors of the members."""
        shared = ("batch_sizes", "needed", "lengths", "reset")
        of_members = {
            name: self.join(value, getattr(dims, name))
            for name, value in call._asdict().items()
            if isinstance(value, (Tensor, list)) and name not in shared
        }
        return call._replace(**of_members)

    def parted(self, results: Any) -> tuple[Any, Any]:
        """Results, and where their mapped dimension is."""
        if isinstance(results, Tensor):
            return (results.unflatten(0, (self.size, -1)) if self.nested else results), 0
        parts = [self.parted(result) for result in results]
        return type(results)([value for value, _ in parts]), type(results)([dim for _, dim in parts])


def _mapped(dims: Any) -> bool:
    return any(dim is not None for dim in dims)


def _maps_weights(call: Any, dims: Any) -> bool:
    # Draws are numbered by the rows of a layer: only as that of a member do they stay what they are, mapped or not.
    with_weights = _mapped(dims.weights) or call.zoneout_seed is not None
    for name in ("batch_sizes", *(("lengths", "reset") if with_weights else ())):
        if getattr(dims, name) is not None:
            beside = " beside weights" if with_weights else ""
            raise NotImplementedError(f"fastrnn: expected {name} that are the same for all that vmap maps over{beside}")
    return with_weights


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


def _zeros(value: Any, dim: Any) -> Any:
    """An argument without its mapped dimension, which is empty, as of a batch that was drawn at random."""
    if isinstance(value, list):
        return [_zeros(v, d) for v, d in zip(value, dim, strict=True)]
    return value if dim is None else value.sum(dim)


def _none_of(results: Any) -> tuple[Any, Any]:
    """Results behind an empty mapped dimension, and where that is."""
    if isinstance(results, Tensor):
        return results.unsqueeze(0)[:0], 0
    pairs = [_none_of(result) for result in results]
    return type(results)([value for value, _ in pairs]), type(results)([dim for _, dim in pairs])


def _register(rule: Any, operator: Any, arguments: Any) -> None:
    """What ``torch.library.register_vmap`` does, in a third of its time, which is that of a layer of 50 short steps."""

    def kernel(*args: Any) -> Any:
        interpreter: Any = retrieve_current_functorch_interpreter()
        level = interpreter.level()
        values, dims = _bare(list(args), lambda t: _functorch._unwrap_batched(t, level))
        with torch._C._ExcludeDispatchKeyGuard(_BATCHED):
            if not any(_mapped(dim) if isinstance(dim, list) else dim is not None for dim in dims):
                return operator(*values)
            size = interpreter.batch_size()
            if size == 0:
                results, out_dims = _none_of(operator(*[_zeros(v, dim) for v, dim in zip(values, dims, strict=True)]))
            else:
                results, out_dims = rule(size, arguments(*values), arguments(*dims))
        return _mapped_again(results, out_dims, lambda t, dim: _functorch._add_batch_dim(t, dim, level))

    library.impl(operator, kernel, "FuncTorchBatched")


_BATCHED = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)


def _forward(size: int, call: ForwardCall, dims: ForwardCall) -> Any:
    if _maps_weights(call, dims):
        members = _Members(size, call, dims)
        return members.parted(layer_forward(*members.joined(call, dims)))
    rows = _Rows(size, call, dims)
    y, final, saved = layer_forward(*rows.folded())
    results, out_dims = rows.unfolded(y, final)
    return (*results, rows.unfold(saved, rows.saved_axis)), (*out_dims, rows.saved_axis + 1)


def _frozen(size: int, call: ForwardCall, dims: ForwardCall) -> Any:
    if _maps_weights(call, dims):
        raise NotImplementedError("fastrnn: expected frozen weights that are the same for all that vmap maps over")
    rows = _Rows(size, call, dims)
    call = rows.folded()
    return rows.unfolded(*frozen_forward(*call.frozen_arguments))


def _backward(size: int, call: BackwardCall, dims: BackwardCall) -> Any:
    if _maps_weights(call, dims):
        members = _Members(size, call, dims)
        return members.parted(layer_backward(*members.joined(call, dims)))
    rows = _Rows(size, call.forward, dims.forward)
    forward = rows.folded()
    first_weight = 1 + len(forward.state)
    of_weights = any(call.needed[first_weight : first_weight + len(call.weights)])
    of_rows = call._replace(
        dy=rows.sequence(call.dy, dims.dy),
        dstate=[
            rows.fold(d, dim, axis)
            for d, dim, axis in zip(call.dstate, dims.dstate, rows.axes_of_states(len(call.dstate)), strict=True)
        ],
        x=forward.x,
        h_0=forward.h_0,
        c_0=forward.c_0,
        y=rows.sequence(call.y, dims.y),
        saved=rows.fold(call.saved, dims.saved, rows.saved_axis),
        batch_sizes=forward.batch_sizes,
        samples=call.samples * size if of_weights else 1,  # which beside segments there may not be
        lengths=forward.lengths,
        reset=forward.reset,
        h_reset=forward.h_reset,
        c_reset=forward.c_reset,
        h_mask=forward.h_mask,
    )
    resets = [rows.state_axis + (s.dim() - rows.members == 4) for s in forward.reset_state]
    # None for a weight, whose gradients come by sample.
    every: list[int | None] = [rows.sequence_axis, *[rows.state_axis] * len(forward.state)]
    every += [*[None] * len(call.weights), *resets]
    axes = [axis for axis, wanted in zip(every, call.needed, strict=True) if wanted]
    pairs = list(zip(layer_backward(*of_rows), axes, strict=True))
    results = [rows.by_sample(t, call.samples) if axis is None else rows.unfold(t, axis) for t, axis in pairs]
    return results, [rows.members + (call.samples > 1) if axis is None else axis + 1 for axis in axes]


def _backward_of_batched_gradients(*args: Any) -> Any:
    """For ``torch.autograd.grad(..., is_grads_batched=True)``, which maps by an older mechanism than ``torch.vmap``."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()

    def unwrap(t: Tensor) -> tuple[Tensor, int | None]:
        return (torch._remove_batch_dim(t, level, 0, 0), 0) if _functorch.is_legacy_batchedtensor(t) else (t, None)

    values, dims = _bare(list(args), unwrap)
    results = torch.vmap(layer_backward, tuple(dims))(*values)
    return _mapped_again(results, [0] * len(results), lambda t, dim: torch._add_batch_dim(t, dim, level))


_register(_forward, layer_forward, ForwardCall)
_register(_backward, layer_backward, BackwardCall)
_register(_frozen, frozen_forward, ForwardCall.of_frozen)
library.impl(layer_backward, _backward_of_batched_gradients, "Batched")
