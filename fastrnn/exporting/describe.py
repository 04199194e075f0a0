"""What the links of a chain are in a file: operations by name, with their tensors. ``csrc/library/fastrnn.h`` has the
list; what is not on it is refused by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastrnn.exporting.chain import Chain
from fastrnn.exporting.links import Affine, Pool
from fastrnn.modules.counterparts import FASTRNN, cell_of, written_class
from fastrnn.modules.frozen import FROZEN, Frozen, stored, weight_names
from fastrnn.modules.layers import assigned_weights

__all__ = ["FORMATS", "Operation", "describe"]

FORMATS = ("float32", "bfloat16", "int8")

# What acts in training alone.
_WITHOUT_EFFECT = {"weight_dropout", "recurrent_dropout", "recompute"}


@dataclass(frozen=True)
class Operation:
    """``text`` as in the header of a file; ``tensors`` by their names behind the operation's number."""

    text: str
    tensors: dict[str, Tensor]


def describe(chain: Chain, weights: str) -> list[Operation]:
    """The matrices of layers that are not frozen are stored as ``weights``.

    Raises:
        TypeError: no operation computes what a link does.
        ValueError: a link cannot be stored as ``weights``.
    """
    return [operation for link in chain.links for operation in _operations(link, weights)]


def _operations(link: Any, weights: str) -> Iterator[Operation]:
    cls = written_class(link)
    if cell_of(link) is not None:
        yield from _layers(link, weights)
    elif cls in _NAMES:
        yield Operation(_NAMES[cls], {})
    elif cls in _OTHERS:
        yield from _OTHERS[cls](link, weights)
    else:
        raise TypeError(f"{cls.__name__}: expected one of {_known()}, which can be exported")


def _known() -> str:
    names = [cls.__name__ for cls in (*_OTHERS, *_NAMES)]
    return ", ".join([*names, "fastrnn's and torch.nn's recurrent layers"])


def _layers(layer: Any, weights: str) -> Iterator[Operation]:
    cls = written_class(layer)
    if cls not in FASTRNN and cls not in FROZEN.values():
        raise TypeError(f"{cls.__name__}: expected a layer of fastrnn or torch.nn, got one of a subclass")
    if own := set(layer.own_options()) - _WITHOUT_EFFECT:
        raise TypeError(f"{cls.__name__}: expected a layer without {', '.join(sorted(own))}, which files do not have")
    if assigned_weights(layer) is not None:
        raise TypeError(f"{cls.__name__}: expected its own weights, other tensors were assigned to _flat_weights")
    if layer.proj_size and weights != "float32":
        raise ValueError(f"{cls.__name__}: expected no projection with weights in {weights}, got {layer.proj_size}")
    directions, names = 2 if layer.bidirectional else 1, weight_names(layer)
    for k in range(layer.num_layers):
        tensors: dict[str, Tensor] = {}
        for d in range(directions):
            for name in names[k * directions + d]:
                plain = name.partition("_l")[0] + ("_reverse" if d else "")
                if isinstance(layer, Frozen):
                    tensors |= _frozen(layer, name, plain)
                else:
                    tensors |= _parameter(layer, name, plain, weights)
        yield Operation(f"{layer.layer_spec.cell} directions={directions}", tensors)


def _frozen(layer: Frozen, name: str, plain: str) -> dict[str, Tensor]:
    buffers: dict[str, Any] = layer._buffers
    if name in buffers:  # a bias
        return {plain: buffers[name]}
    found = {plain: buffers[f"{name}_{layer.stored_as}"]}
    if layer.stored_as == "int8":
        found[plain.replace("weight", "scale")] = buffers[f"{name}_scale"]
    return found


def _parameter(module: Any, name: str, plain: str, weights: str) -> dict[str, Tensor]:
    w = getattr(module, name).detach()
    if w.dim() == 1 or weights == "float32":
        return {plain: w}
    if weights == "int8" and not w.isfinite().all():
        raise ValueError(f"{type(module).__name__}: expected finite values in {name} for int8")
    value, *scale = stored(plain, w, weights).values()
    return {plain: value} | {plain.replace("weight", "scale"): s for s in scale}


def _linear(link: nn.Linear, weights: str) -> Iterator[Operation]:
    bias = {} if link.bias is None else _parameter(link, "bias", "bias", "float32")
    yield Operation("linear", _parameter(link, "weight", "weight", weights) | bias)


def _embedding(link: nn.Embedding, weights: str) -> Iterator[Operation]:
    if link.max_norm is not None:
        raise TypeError("Embedding: expected one without max_norm")
    yield Operation("embedding", _parameter(link, "weight", "weight", weights))


def _affine(link: Affine, weights: str) -> Iterator[Operation]:
    yield Operation("affine", _parameter(link, "scale", "scale", weights) | _parameter(link, "shift", "shift", weights))


def _pool(link: Pool, weights: str) -> Iterator[Operation]:
    yield Operation(f"last directions={link.directions}" if link.kind == "last" else link.kind, {})


def _softmax(link: nn.Softmax, weights: str) -> Iterator[Operation]:
    if link.dim not in (-1, 2):
        raise TypeError(f"Softmax: expected one over the features, dim=-1, got dim={link.dim}")
    yield Operation("softmax", {})


def _nothing(link: nn.Module, weights: str) -> Iterator[Operation]:
    yield from ()


_NAMES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
_OTHERS: dict[type[nn.Module], Any] = {
    nn.Embedding: _embedding,
    nn.Linear: _linear,
    nn.Softmax: _softmax,
    nn.Dropout: _nothing,
    nn.Identity: _nothing,
    Affine: _affine,
    Pool: _pool,
}
