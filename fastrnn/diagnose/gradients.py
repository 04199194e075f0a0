"""``gradient_flow``: whether gradients vanish or explode on their way back through the steps of recurrent layers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, RNNBase
from torch.nn.modules.rnn import RNNCellBase

from fastrnn.diagnose.stepped import Reading, State, parts_of, run_stepped
from fastrnn.modules.counterparts import FAST, FASTRNN, cell_of

__all__ = ["GradientFlow", "LayerFlow", "gradient_flow"]

VANISHING, EXPLODING = 0.1, 10.0

_FORWARDS = {cls.forward for cls in (*FAST, *FASTRNN)}


@dataclass(frozen=True)
class LayerFlow:
    """One direction of one layer, in one call of its module or several that go on from one another; or a single cell.

    Steps are counted in the order in which it reads them. Every call of a cell, such as ``LSTMCell``, is a step.

    Attributes:
        name: of the module, the layer in its stack, and the direction if there are two.
        norms: float64 [T], the norm over all rows of the gradient with respect to the state after each step.
        first, last: the norm of a row's gradient at its first step, and at the last step that the loss depends on:
            the geometric mean over the rows that it depends on, so that short rows do not hide what long ones lose.
        radii: by gate, the spectral radius of its recurrent matrix [H, H]; with a projection, of its product with that.
            The gates of a cell that is neither torch.nn's nor fastrnn's have numbers.
    """

    name: str
    norms: Tensor
    first: float
    last: float
    radii: dict[str, float]

    @property
    def ratio(self) -> float:
        """``first / last``; infinite where a gradient is no finite number, nan where the loss depends on no step."""
        if not math.isfinite(self.first + self.last):
            return math.inf
        return self.first / self.last if self.last else math.nan

    @property
    def verdict(self) -> str:
        """``vanishing``, ``exploding`` or ``healthy``; ``unused`` where the loss does not depend on the layer.

        ``single step`` where it depends on no more than the first, whose ratio to itself says nothing.
        """
        if math.isnan(self.ratio):
            return "unused"
        if self.ratio < VANISHING:
            return "vanishing"
        if self.ratio > EXPLODING:
            return "exploding"
        return "healthy" if self.norms[1:].any() else "single step"

    def __str__(self) -> str:
        radii = ", ".join(f"{gate} {radius:.2f}" for gate, radius in self.radii.items())
        return (
            f"{self.name}: {self.verdict}\n"
            f"  gradient {self.first:.2e} at the first of {len(self.norms)} steps, {self.last:.2e} at the last, "
            f"ratio {self.ratio:.2e}\n"
            f"  spectral radius of the recurrent matrix: {radii}"
        )


@dataclass(frozen=True)
class GradientFlow:
    """What ``gradient_flow`` found, in the order in which the layers ran last; ``str`` of it is a summary."""

    layers: tuple[LayerFlow, ...]

    @property
    def verdict(self) -> str:
        """The first of ``exploding``, ``vanishing``, ``healthy``, ``single step``, ``unused`` that any layer is."""
        found = {layer.verdict for layer in self.layers}
        return next(v for v in ("exploding", "vanishing", "healthy", "single step", "unused") if v in found)

    def __str__(self) -> str:
        return "\n".join([f"gradient flow: {self.verdict}", *map(str, self.layers)])

    def draw(self, path: str | Path) -> None:
        """Saves a picture of the norms at every step, one line for each layer and direction. Needs ``matplotlib``."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for layer in self.layers:
            axes.plot(layer.norms.cpu(), label=f"{layer.name}: {layer.verdict}")
        axes.set(xlabel="step, in reading order", ylabel="norm of the gradient", yscale="log")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=120)


def gradient_flow(model: Module, batch: Any, loss: Callable[[Any], Tensor] | None = None) -> GradientFlow:
    """The norm of the loss's total derivative with respect to the state after every step, for every recurrent layer.

    The state is the hidden state h, which is the layer's output, and for an LSTM its cell state c beside it, on which
    gradients that do not vanish come back (Hochreiter and Schmidhuber, 1997). An RNN or GRU has h alone.

    Runs ``model(*batch)`` once, every ``torch.nn`` or fastrnn RNN, LSTM and GRU inside one step at a time, since a
    fused layer shows autograd only what its outputs receive directly, not what comes back from the next step (the
    recurrence of Pascanu et al. 2013). Dropout between stacked layers is left out. The model keeps its mode, its
    parameters and their gradients; buffers, such as BatchNorm's running mean, change as in any forward pass.

    A decoder may call its layer for one step at a time. A call whose initial state is what an earlier call of the same
    layer returned, the very tensors, goes on with the earlier one's steps; of several such calls, the first. Any other
    call is reported for itself, also one from a state that was indexed, cloned or reordered in between. For each cell
    the sequence of all its calls is reported.

    Args:
        model: any module with recurrent layers or cells inside, or one itself.
        batch: the tuple of the model's arguments, or its one argument. Layers may be given dense or packed input.
        loss: from what ``model`` returns to a scalar. A loss of many steps, such as a language model's, hides a
            gradient that vanishes on its way: take that of the last step. By default what the model returns, if that
            is a scalar, or else the sum of the final hidden states of the last layer that ran.

    Raises:
        TypeError: a recurrent layer has a ``forward`` of its own, which cannot be taken apart, or a cell returns
            something else than a tensor or a tuple of tensors.
        ValueError: no recurrent layer ran, the loss is no finite scalar that requires grad, or a cell was called with
            now more, now fewer rows.
    """
    calls: list[_Call] = []
    hooks = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, RNNBase):
                name = name or type(module).__name__
                _check(name, module)
                hook = partial(_run_and_note, calls, name)
                hooks.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            elif isinstance(module, RNNCellBase):
                hook = partial(_note_step, calls, name or type(module).__name__)
                hooks.append(module.register_forward_hook(hook, prepend=True))
        with torch.enable_grad():
            output = model(*(batch if type(batch) is tuple else (batch,)))
            if not calls:
                raise ValueError("model: expected a recurrent layer that runs, found none")
            value = _value(loss, output, calls)
    finally:
        for handle in hooks:
            handle.remove()
    parts = [part for call in calls for reading in call.readings for state in reading.states for part in state]
    gradients = iter(torch.autograd.grad(value, parts, allow_unused=True))
    return GradientFlow(tuple(_flow(call, reading, gradients) for call in calls for reading in call.readings))


@dataclass(frozen=True, eq=False)
class _Call:
    name: str
    module: Any
    readings: list[Reading]
    final: State

    def returned(self, hx: Any) -> bool:
        """Whether ``hx`` is the final state itself: a state of equal numbers may come from elsewhere."""
        return list(map(id, parts_of(hx))) == list(map(id, self.final))


def _check(name: str, module: Module) -> None:
    if type(module).forward not in _FORWARDS or "forward" in vars(module):
        raise TypeError(f"{name}: expected a layer of torch.nn or fastrnn, got one with a forward of its own")


def _note(calls: list[_Call], new: _Call, earlier: _Call | None) -> None:
    """Adds ``new``, joined to the ``earlier`` call that it goes on with, at the end: ``calls[-1]`` ran last."""
    if earlier is not None:
        calls.remove(earlier)
        readings = [a.followed_by(b) for a, b in zip(earlier.readings, new.readings, strict=True)]
        new = replace(new, name=earlier.name, readings=readings)
    calls.append(new)


def _run_and_note(
    calls: list[_Call], name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> tuple[Any, Any]:
    """A forward hook: what it returns takes the place of ``output``."""
    hx = kwargs.get("hx", *args[1:])  # layers are called with (input, hx=None)
    y, final, readings = run_stepped(module, *args, **kwargs)
    before = [call for call in calls if call.module is module]
    earlier = next((call for call in before if call.returned(hx)), None)
    name = f"{name} (call {len(before) + 1})" if before else name
    _note(calls, _Call(name, module, readings, parts_of(final)), earlier)
    return y, final


def _note_step(calls: list[_Call], name: str, cell: Any, _: Any, output: Any) -> Any:
    """As ``_run_and_note``. A clone stands for itself: torch.nn's LSTMCell computes h from the c that it returns."""
    parts = output if isinstance(output, tuple) else (output,)
    if not all(isinstance(part, Tensor) for part in parts):
        got = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"{name}: expected a cell that returns a tensor or a tuple of tensors, got {got}")
    handed = tuple(part.clone() if part.requires_grad else part.detach().requires_grad_() for part in parts)
    earlier = next((call for call in calls if call.module is cell), None)
    if earlier is not None and earlier.final[0].shape != handed[0].shape:
        got = f"{tuple(earlier.final[0].shape)} and then {tuple(handed[0].shape)}"
        raise ValueError(f"{name}: expected states of one shape at all steps, got {got}")
    every_row = handed[0].new_ones(1, dtype=torch.bool)
    _note(calls, _Call(name, cell, [Reading(0, False, [handed], [every_row])], handed), earlier)
    return handed if isinstance(output, tuple) else handed[0]


def _value(loss: Callable[[Any], Tensor] | None, output: Any, calls: list[_Call]) -> Tensor:
    if loss is not None:
        value = loss(output)
    elif isinstance(output, Tensor) and output.dim() == 0:
        value = output
    else:
        last = max(reading.layer for reading in calls[-1].readings)
        top = [reading.states[-1][0] for reading in calls[-1].readings if reading.layer == last]
        value = torch.stack([h.sum() for h in top]).sum()
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad or not value.isfinite():
        raise ValueError(f"loss: expected a finite scalar tensor that requires grad, got {value}")
    return value


def _flow(call: _Call, reading: Reading, gradients: Iterator[Tensor | None]) -> LayerFlow:
    """Takes from ``gradients`` those of this reading."""

    def next_norm(state: tuple[Tensor, ...]) -> Tensor:
        own = [(part, next(gradients)) for part in state]
        joined = torch.cat([torch.zeros_like(part) if g is None else g for part, g in own], -1)
        return torch.atleast_2d(joined).double().norm(dim=1)

    norms = torch.stack([next_norm(state) for state in reading.states])  # [T, B]
    norms = norms.masked_fill(~torch.stack(reading.real), 0.0)
    steps = torch.arange(len(norms), device=norms.device)[:, None]
    used = (norms != 0).any(0)
    last = torch.where(norms != 0, steps, 0).amax(0, keepdim=True)
    layer = f", layer {reading.layer}" if isinstance(call.module, RNNBase) else ""
    return LayerFlow(
        call.name + layer + ", backward" * reading.reverse,
        norms.norm(dim=1),
        _geometric_mean(norms[0, used]),
        _geometric_mean(norms.gather(0, last)[0, used]),
        _radii(call.module, reading),
    )


def _geometric_mean(x: Tensor) -> float:
    return float(x.log().mean().exp()) if len(x) else 0.0


def _radii(module: Any, reading: Reading) -> dict[str, float]:
    suffix = f"_l{reading.layer}" + "_reverse" * reading.reverse if isinstance(module, RNNBase) else ""
    w_hh, w_hr = getattr(module, f"weight_hh{suffix}"), getattr(module, f"weight_hr{suffix}", None)
    number = len(w_hh) // module.hidden_size
    cell = cell_of(module)
    gates = cell.gates if cell else tuple(map(str, range(number)))
    found = {}
    for gate, block in zip(gates, w_hh.detach().double().chunk(number), strict=True):
        matrix = block if w_hr is None else block @ w_hr.detach().double()
        found[gate] = float(torch.linalg.eigvals(matrix).abs().max())
    return found
