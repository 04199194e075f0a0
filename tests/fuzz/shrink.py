"""A layer that fails, made smaller for as long as it still fails."""

import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from .layer import Layer, differentiable


def _valid(layer: Layer) -> Layer:
    """With what depends on the sizes made to fit them."""
    lengths = tuple(min(n, layer.T) for n in layer.lengths[: layer.B])
    if layer.form == "packed" and lengths and max(lengths) < layer.T:
        lengths = (layer.T, *lengths[1:])
    names = differentiable(layer)
    return replace(
        layer,
        lengths=lengths,
        P=min(layer.P, layer.H - 1),
        no_gradient=tuple(name for name in layer.no_gradient if name in names),
    )


_OPTIONS = (
    *("bidirectional", "bias", "batch_first", "x_layout", "hx_layout", "mode", "frozen", "rounds", "threads"),
    *("reset_state", "every_state", "recompute", "recurrent_dropout", "zoneout", "layer_norm"),
)


def _smaller(layer: Layer) -> Iterator[Layer]:
    """The most telling first."""
    least = {"B": min(layer.B, 1), "P": 0}
    for name in ("num_layers", "T", "B", "H", "I", "P"):
        value, low = getattr(layer, name), least.get(name, 1)
        for other in dict.fromkeys((low, value // 2, value - 1)):
            if low <= other < value:
                yield replace(layer, **{name: other})
    for field in fields(layer):
        if field.name in _OPTIONS and getattr(layer, field.name) != field.default:
            yield replace(layer, **{field.name: field.default})
    if layer.form != "batched":
        yield replace(layer, form="batched", lengths=())
    elif layer.lengths:
        yield replace(layer, lengths=())
    if layer.resets:
        yield replace(layer, resets=0.0, reset_state="")
    if layer.dtype != "float64" and not layer.frozen:
        yield replace(layer, dtype="float64")
    if layer.lengths and list(layer.lengths) != sorted(layer.lengths, reverse=True):
        yield replace(layer, lengths=tuple(sorted(layer.lengths, reverse=True)))
    for i in set(range(layer.outputs)) - set(layer.no_loss):
        if len(layer.no_loss) + 1 < layer.outputs:
            yield replace(layer, no_loss=tuple(sorted((*layer.no_loss, i))))
    for name in differentiable(layer) if not layer.inference else ():
        if name not in layer.no_gradient:
            yield replace(layer, no_gradient=tuple(sorted((*layer.no_gradient, name))))


def shrink(layer: Layer, fails: Callable[[Layer], bool], seconds: float = 60.0) -> Layer:
    """The smallest that was found to fail."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        smaller = next((other for other in map(_valid, _smaller(layer)) if fails(other)), None)
        if smaller is None:
            break
        layer = smaller
    return layer
