"""Stacks of recurrent layers as functions of explicit weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout

from fastrnn.ops import function
from fastrnn.ops.function import layer
from fastrnn.spec import CELLS, LayerSpec

__all__ = ["rnn"]

State = tuple[Tensor, ...]


def rnn(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    has_bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """A stack of recurrent layers: what ``fastrnn.LSTM`` and its sisters compute, with the weights as arguments.

    With L layers, D directions, G gates, state size H and output size P (H unless the weights hold a projection):

    Args:
        cell: a key of ``fastrnn.spec.CELLS``, such as ``"lstm"``, ``"gru"``, ``"rnn_tanh"`` or ``"rnn_relu"``.
        x: [T, B, I]; [B, T, I] if ``batch_first``; [sum of batch_sizes, I] if ``batch_sizes`` is given.
        state: initial ``h`` [L*D, B, P] and for an LSTM ``c`` [L*D, B, H], layer-major. Empty for zeros.
        weights: in the order of ``torch.nn.RNNBase.all_weights``, flat: for each layer and direction
            ``w_ih`` [G*H, I, or D*P above the first layer], ``w_hh`` [G*H, P], with ``has_bias`` ``b_ih`` and ``b_hh``
            [G*H], with a projection ``w_hr`` [P, H].
        dropout: probability of zeroing an output of any layer but the last, while ``training``.
        batch_sizes: int64 [T] on the CPU, not increasing, as in ``PackedSequence``.

    Returns:
        ``y`` shaped as ``x`` with D*P in the last dimension, and the final states shaped as ``state``.

    Under autocast for the device of ``x``, ``x``, states and weights are cast to the autocast dtype, float64 excepted,
    and the results have that dtype. This is one rule for all cells; ``torch.nn`` has one for each cell and device.

    Raises:
        ValueError: where the number, shapes or dtypes of the arguments do not fit one another.
    """
    spec = _spec(cell, 2 if bidirectional else 1, has_bias, batch_first, num_layers, weights)
    if not torch.jit.is_tracing():  # sizes are free in a traced program, and the operators check them when it runs
        _check_arguments(spec, num_layers, x, state, weights, batch_sizes)
    return stack(spec, x, tuple(state), weights, batch_sizes, num_layers=num_layers, dropout=dropout * training)


def stack(
    spec: LayerSpec,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    *,
    num_layers: int,
    dropout: float,
) -> tuple[Tensor, State]:
    """``rnn`` for callers that have checked their arguments. ``dropout`` is applied whenever it is not zero."""
    if autocast_enabled(x):
        x, state, weights = _autocast(x, state, weights)
    if not state and batch_sizes is not None and (torch.compiler.is_compiling() or x.is_meta):
        state = zero_state(spec, x, weights[1], num_layers, int(batch_sizes[0]))  # where the operator cannot look
    if num_layers == 1:
        return layer(spec, x, state, weights, batch_sizes)
    per_layer = len(weights) // num_layers
    finals = []
    for i in range(num_layers):
        if i > 0 and dropout > 0:
            x = _dropout(x, dropout, transposed=spec.batch_first and batch_sizes is None)
        of_layer = tuple([s[i * spec.directions : (i + 1) * spec.directions] for s in state])
        x, final = layer(spec, x, of_layer, weights[i * per_layer : (i + 1) * per_layer], batch_sizes)
        finals.append(final)
    return x, tuple([torch.cat(s) for s in zip(*finals, strict=True)])


def step(spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    """One step of one layer, the arguments checked by the caller: ``x`` [B, I], ``state`` [B, H] each or empty."""
    if autocast_enabled(x):
        x, state, weights = _autocast(x, state, weights)
    return function.step(spec, x, state, weights)


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``; false where the device, such as meta, has none."""
    if not torch._C._is_any_autocast_enabled():  # an eighth of the time of the two questions below
        return False
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _autocast(x: Tensor, state: State, weights: Sequence[Tensor]) -> tuple[Tensor, State, list[Tensor]]:
    dtype = torch.get_autocast_dtype(x.device.type)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

    return cast(x), tuple([cast(s) for s in state]), [cast(w) for w in weights]


def zero_state(spec: LayerSpec, x: Tensor, w_hh: Tensor, num_layers: int, batch: int) -> State:
    """Initial states of a stack, ``w_hh`` being that of any of its layers."""
    widths = spec.state_widths(*spec.hidden_and_outputs(w_hh)).values()
    return tuple([x.new_zeros(num_layers * spec.directions, batch, width) for width in widths])


def _dropout(x: Tensor, p: float, transposed: bool) -> Tensor:
    # As it lies in memory: the generator fills that in order. The same seed, the same mask as in torch.nn.
    return apply_dropout(x.transpose(0, 1), p).transpose(0, 1) if transposed else apply_dropout(x, p)


def _spec(
    cell: str, directions: int, has_bias: bool, batch_first: bool, num_layers: int, weights: Sequence[Tensor]
) -> LayerSpec:
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    rows = num_layers * directions
    spec = LayerSpec(cell, directions, has_bias, batch_first)
    plain = len(spec.weight_names)
    if len(weights) == rows * plain:
        return spec
    if len(weights) == rows * (plain + 1) and spec.facts.projectable:
        return spec._replace(projected=True)
    projected = f" or {rows * (plain + 1)} with projections" if spec.facts.projectable else ""
    raise ValueError(
        f"weights: expected {rows * plain} tensors ({plain} for each of {num_layers} layers and {directions} "
        f"directions){projected}, got {len(weights)}"
    )


def _check_arguments(
    spec: LayerSpec,
    num_layers: int,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
) -> None:
    if batch_sizes is not None and (not isinstance(batch_sizes, Tensor) or batch_sizes.dtype != torch.int64):
        raise ValueError(f"batch_sizes: expected an int64 tensor [T] on the CPU, got {batch_sizes!r}")
    expected_dim = 3 if batch_sizes is None else 2
    if x.dim() != expected_dim:
        raise ValueError(f"x: expected {expected_dim} dimensions, got {x.dim()}")
    if batch_sizes is None and x.size(1 if spec.batch_first else 0) == 0:
        raise ValueError("x: expected at least one time step, got none")
    names = spec.facts.states
    if len(state) not in (0, len(names)):
        raise ValueError(f"state: expected {len(names)} tensors ({', '.join(names)}), got {len(state)}")

    # weight_hr, or else weight_hh, whose columns are believed and whose rows are then checked.
    last = weights[len(spec.weight_names) - 1 if spec.projected else 1]
    if last.dim() != 2:
        raise ValueError(f"weights: expected matrices for weight_hh and weight_hr, got shape {tuple(last.shape)}")
    outputs, hidden = last.shape if spec.projected else (last.size(1), last.size(1))
    shapes: list[tuple[int, ...]] = []
    for i in range(num_layers):
        inputs = x.size(-1) if i == 0 else spec.directions * outputs
        shapes += [*spec.weight_shapes(inputs, hidden, outputs).values()] * spec.directions
    _check_tensors("weights", weights, shapes, x)

    batch = int(batch_sizes[0]) if batch_sizes is not None else x.size(0 if spec.batch_first else 1)
    widths = spec.state_widths(hidden, outputs).values()
    expected = [(num_layers * spec.directions, batch, width) for width in widths]
    _check_tensors("state", state, expected[: len(state)], x)


def _check_tensors(name: str, tensors: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], x: Tensor) -> None:
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        if tensor.shape != shape:
            raise ValueError(f"{name}[{i}]: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != x.dtype and not autocast_enabled(x):
            raise ValueError(f"{name}[{i}]: expected dtype {x.dtype} as of x, got {tensor.dtype}")
