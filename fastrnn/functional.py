"""Stacks of recurrent layers as functions of explicit weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout

from fastrnn.function import layer
from fastrnn.spec import CELLS

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
        cell: ``"lstm"``, ``"gru"``, ``"rnn_tanh"`` or ``"rnn_relu"``.
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
    directions = 2 if bidirectional else 1
    _check_arguments(cell, x, state, weights, num_layers, directions, has_bias, batch_first, batch_sizes)
    return stack(
        cell,
        x,
        tuple(state),
        weights,
        num_layers=num_layers,
        directions=directions,
        has_bias=has_bias,
        dropout=dropout if training else 0.0,
        batch_first=batch_first,
        batch_sizes=batch_sizes,
    )


def stack(
    cell: str,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    *,
    num_layers: int,
    directions: int,
    has_bias: bool,
    dropout: float,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, State]:
    """``rnn`` for callers that have checked their arguments. ``dropout`` is applied whenever it is not zero."""
    if autocast_enabled(x):
        x, state, weights = _autocast(x, state, weights)
    if not state and batch_sizes is not None:
        state = zero_state(cell, x, weights[1], num_layers * directions, int(batch_sizes[0]))
    if num_layers == 1:
        return layer(
            cell,
            x,
            state,
            weights,
            directions=directions,
            has_bias=has_bias,
            batch_first=batch_first,
            batch_sizes=batch_sizes,
        )
    per_layer = len(weights) // num_layers
    finals = []
    for i in range(num_layers):
        if i > 0 and dropout > 0:
            x = _dropout(x, dropout, transposed=batch_first and batch_sizes is None)
        x, final = layer(
            cell,
            x,
            tuple([s[i * directions : (i + 1) * directions] for s in state]),
            weights[i * per_layer : (i + 1) * per_layer],
            directions=directions,
            has_bias=has_bias,
            batch_first=batch_first,
            batch_sizes=batch_sizes,
        )
        finals.append(final)
    return x, tuple([torch.cat(s) for s in zip(*finals, strict=True)])


def step(cell: str, x: Tensor, state: State, weights: Sequence[Tensor], *, has_bias: bool) -> State:
    """One step of one layer, the arguments checked by the caller: ``x`` [B, I], ``state`` [B, H] each or empty."""
    if autocast_enabled(x):
        x, state, weights = _autocast(x, state, weights)
    _, final = layer(cell, x.unsqueeze(0), tuple([s.unsqueeze(0) for s in state]), weights, has_bias=has_bias)
    return tuple([s.squeeze(0) for s in final])


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


def zero_state(cell: str, x: Tensor, w_hh: Tensor, rows: int, batch: int) -> State:
    return tuple([x.new_zeros(rows, batch, width) for width in CELLS[cell].state_widths(*w_hh.shape)])


def _dropout(x: Tensor, p: float, transposed: bool) -> Tensor:
    # The generator fills memory in order and torch.nn's outputs are time-major: the same seed, the same mask.
    if transposed:
        return apply_dropout(x.transpose(0, 1).contiguous(), p).transpose(0, 1)
    return apply_dropout(x, p)


def _check_arguments(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    num_layers: int,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> None:
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    spec = CELLS[cell]
    if batch_sizes is not None and (not isinstance(batch_sizes, Tensor) or batch_sizes.dtype != torch.int64):
        raise ValueError(f"batch_sizes: expected an int64 tensor [T] on the CPU, got {batch_sizes!r}")
    expected_dim = 3 if batch_sizes is None else 2
    if x.dim() != expected_dim:
        raise ValueError(f"x: expected {expected_dim} dimensions, got {x.dim()}")
    if batch_sizes is None and x.size(1 if batch_first else 0) == 0:
        raise ValueError("x: expected at least one time step, got none")

    plain = 4 if has_bias else 2
    rows = num_layers * directions
    if len(weights) not in (rows * plain, rows * (plain + 1)):
        raise ValueError(
            f"weights: expected {rows * plain} tensors ({plain} for each of {num_layers} layers and {directions} "
            f"directions) or {rows * (plain + 1)} with projections, got {len(weights)}"
        )
    if len(state) not in (0, len(spec.states)):
        raise ValueError(f"state: expected {len(spec.states)} tensors ({', '.join(spec.states)}), got {len(state)}")

    projected = len(weights) == rows * (plain + 1)
    hidden_size = weights[plain].size(1) if projected else weights[1].size(1)
    output_size = weights[plain].size(0) if projected else hidden_size
    gates_size = len(spec.gates) * hidden_size
    shapes: list[tuple[int, ...]] = []
    for i in range(num_layers):
        input_size = x.size(-1) if i == 0 else directions * output_size
        of_direction: list[tuple[int, ...]] = [(gates_size, input_size), (gates_size, output_size)]
        of_direction += [(gates_size,)] * (plain - 2) + [(output_size, hidden_size)] * projected
        shapes += of_direction * directions
    _check_tensors("weights", weights, shapes, x)

    batch = int(batch_sizes[0]) if batch_sizes is not None else x.size(0 if batch_first else 1)
    widths = spec.state_widths(gates_size, output_size)
    _check_tensors("state", state, [(rows, batch, width) for width in widths[: len(state)]], x)


def _check_tensors(name: str, tensors: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], x: Tensor) -> None:
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        if tensor.shape != shape:
            raise ValueError(f"{name}[{i}]: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != x.dtype and not autocast_enabled(x):
            raise ValueError(f"{name}[{i}]: expected dtype {x.dtype} as of x, got {tensor.dtype}")
