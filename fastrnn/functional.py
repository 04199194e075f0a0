"""Stacks of recurrent layers as functions of explicit weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout

from fastrnn.checks import autocast_enabled, check_arguments, check_recompute, check_zoneout, spec_of
from fastrnn.ops import function
from fastrnn.ops.function import layer
from fastrnn.ops.parts import in_parts
from fastrnn.spec import NONE, WHOLE, LayerSpec, Noise, Segments

__all__ = ["rnn"]

State = tuple[Tensor, ...]


class Options(NamedTuple):
    """What a stack is asked for besides its plain results, and how.

    Attributes:
        segments: of every layer; states of a reset are those of all layers, [L*D, ...].
        every_state: the states after every step are returned, too.
        recompute: backward forms again what it needs besides inputs and outputs; a number instead of True: of so many
            steps at a time, which is all that is held then.
        weight_dropout: probability of zeroing an element of a ``weight_hh`` for the whole call.
        recurrent_dropout: probability of zeroing an element of ``h`` before the products with it, for the whole call.
        zoneout: probabilities that a unit keeps its ``h`` and its other states at a step.
        draws: it is drawn which units keep theirs; otherwise states are mixed as expected.
    """

    segments: Segments = WHOLE
    every_state: bool = False
    recompute: bool | int = False
    weight_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: tuple[float, float] = (0.0, 0.0)
    draws: bool = False


DEFAULTS = Options()


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
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Sequence[Tensor] | None = None,
    return_states: bool = False,
    recompute: bool | int = False,
    weight_dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    zoneout: float | tuple[float, float] = 0.0,
    layer_norm: bool = False,
) -> Any:
    """A stack of recurrent layers: what ``fastrnn.LSTM`` and its sisters compute, with the weights as arguments.

    With L layers, D directions, G gates, state size H and output size P (H unless the weights hold a projection):

    Args:
        cell: a key of ``fastrnn.spec.CELLS``, such as ``"lstm"``, ``"gru"``, ``"rnn_tanh"`` or ``"rnn_relu"``.
        x: [T, B, I]; [B, T, I] if ``batch_first``; [sum of batch_sizes, I] if ``batch_sizes`` is given.
        state: initial ``h`` [L*D, B, P] and for an LSTM ``c`` [L*D, B, H], layer-major. Empty for zeros.
        weights: in the order of ``torch.nn.RNNBase.all_weights``, flat: for each layer and direction
            ``w_ih`` [G*H, I, or D*P above the first layer], ``w_hh`` [G*H, P], with ``has_bias`` ``b_ih`` and ``b_hh``
            [G*H], with a projection ``w_hr`` [P, H], with ``layer_norm`` ``w_ln_ih`` and ``w_ln_hh`` [G*H] and for a
            cell with a state of its own ``w_ln_c`` and, with ``has_bias``, ``b_ln_c`` [H].
        dropout: probability of zeroing an output of any layer but the last, while ``training``.
        batch_sizes: int64 [T] on the CPU, not increasing, as in ``PackedSequence``.
        lengths, reset, reset_state, return_states: as of ``fastrnn.LSTM``, ``reset_state`` a sequence of tensors.
        recompute, weight_dropout, recurrent_dropout, zoneout: as of ``fastrnn.LSTM``, the dropouts while ``training``.

    Returns:
        ``y`` shaped as ``x`` with D*P in the last dimension, and the final states shaped as ``state``; with
        ``return_states`` also the states after every step, [L*D, T, B, P or H] each, [L*D, N, ...] of a packed batch.

    Under autocast for the device of ``x``, ``x``, states and weights are cast to the autocast dtype, float64 excepted,
    and the results have that dtype. This is one rule for all cells; ``torch.nn`` has one for each cell and device.

    Raises:
        ValueError: where the number, shapes or dtypes of the arguments do not fit one another.
    """
    spec = spec_of(cell, 2 if bidirectional else 1, has_bias, batch_first, layer_norm, num_layers, weights)
    segments = Segments(lengths, reset, tuple(reset_state or ()))
    if not torch.jit.is_tracing():  # sizes are free in a traced program, and the operators check them when it runs
        check_arguments(spec, num_layers, x, state, weights, batch_sizes, segments)
    zoned = check_zoneout(zoneout, spec)
    check_recompute(recompute, spec, batch_sizes, segments, zoned)
    dropouts = (weight_dropout * training, recurrent_dropout * training)
    options = Options(segments, return_states, recompute, *dropouts, zoned, training)
    y, final, states = stack(
        spec, x, tuple(state), weights, batch_sizes, num_layers=num_layers, dropout=dropout * training, options=options
    )
    return (y, final, states) if return_states else (y, final)


def stack(
    spec: LayerSpec,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    *,
    num_layers: int,
    dropout: float,
    options: Options = DEFAULTS,
) -> tuple[Tensor, State, State]:
    """``rnn`` for callers that have checked their arguments. ``dropout`` is applied whenever it is not zero.

    The states after every step come last, none where they are not asked for.
    """
    if autocast_enabled(x):
        x, state, weights, options = _autocast(x, state, weights, options)
    if not state and batch_sizes is not None and (torch.compiler.is_compiling() or x.is_meta):
        state = zero_state(spec, x, weights[1], num_layers, int(batch_sizes[0]))  # where the operator cannot look
    per_layer = len(weights) // num_layers
    finals, every = [], []
    for i in range(num_layers):
        if i > 0 and dropout > 0:
            x = _dropout(x, dropout, transposed=spec.batch_first and batch_sizes is None)
        of_layer = state if num_layers == 1 else _rows_of(state, i, spec)
        own = list(weights) if num_layers == 1 else list(weights[i * per_layer : (i + 1) * per_layer])
        x, final = _layer(spec, x, of_layer, own, batch_sizes, of_layer_alone(options, i, num_layers, spec))
        if options.every_state:
            others = final[len(spec.facts.states) :]
            every.append((_by_direction(x, spec, batch_sizes), *others))
            final = final[: len(spec.facts.states)]
        finals.append(final)
    if num_layers == 1:
        return x, finals[0], (every[0] if every else ())
    states = tuple([torch.cat(s) for s in zip(*every, strict=True)])
    return x, tuple([torch.cat(s) for s in zip(*finals, strict=True)]), states


def _rows_of(state: Sequence[Tensor], i: int, spec: LayerSpec) -> State:
    return tuple([s[i * spec.directions : (i + 1) * spec.directions] for s in state])


def of_layer_alone(options: Options, i: int, num_layers: int, spec: LayerSpec) -> Options:
    """Options with the states of a reset of one layer of a stack."""
    if num_layers == 1 or not options.segments.reset_state:
        return options
    own = _rows_of(options.segments.reset_state, i, spec)
    return options._replace(segments=options.segments._replace(reset_state=own))


def _by_direction(y: Tensor, spec: LayerSpec, batch_sizes: Tensor | None) -> Tensor:
    """h after every step [D, T, B, P] or [D, N, P], from the outputs of a layer."""
    by_step = y.transpose(0, 1) if spec.batch_first and batch_sizes is None else y
    return by_step.unflatten(-1, (spec.directions, -1)).movedim(-2, 0)


def _layer(
    spec: LayerSpec, x: Tensor, state: State, weights: list[Tensor], batch_sizes: Tensor | None, options: Options
) -> tuple[Tensor, State]:
    """One layer; its final states are followed by those of ``reference.layer`` with ``every_state``."""
    if options is DEFAULTS:
        return layer(spec, x, state, weights, batch_sizes)
    if options.weight_dropout > 0:
        per_direction = len(spec.weight_names)
        for d in range(spec.directions):
            w_hh = d * per_direction + 1
            weights[w_hh] = apply_dropout(weights[w_hh], options.weight_dropout)
    noise = _drawn(spec, x, weights[1], batch_sizes, options)
    segments, every_state, recompute = options[:3]
    if recompute is True or not recompute:
        return layer(spec, x, state, weights, batch_sizes, segments, every_state, bool(recompute), noise)
    return in_parts(spec, x, state, weights, segments, every_state, noise, recompute)


def _drawn(spec: LayerSpec, x: Tensor, w_hh: Tensor, batch_sizes: Tensor | None, options: Options) -> Noise:
    """One layer's, from PyTorch's generator of the device."""
    mask = seed = None
    if options.recurrent_dropout > 0:
        batch = x.size(0 if spec.batch_first else 1) if batch_sizes is None else int(batch_sizes[0])
        ones = x.new_ones(spec.directions, batch, w_hh.size(-1))
        mask = apply_dropout(ones, options.recurrent_dropout)
    if options.draws and any(options.zoneout):
        seed = zoneout_seed(x)
    return Noise(mask, *options.zoneout, seed)


def zoneout_seed(x: Tensor) -> Tensor:
    """For draws of zoneout, from PyTorch's generator of the device."""
    key = torch.randint(2**63 - 1, (1,), device=x.device)
    return torch.cat([key, key.new_zeros(1)])


def step(spec: LayerSpec, x: Tensor, state: State, weights: Sequence[Tensor], noise: Noise = NONE) -> State:
    """One step of one layer, the arguments checked by the caller: ``x`` [B, I], ``state`` [B, H] each or empty."""
    if autocast_enabled(x):
        x, state, weights, _ = _autocast(x, state, weights)
    return function.step(spec, x, state, weights, noise)


def _autocast(
    x: Tensor, state: State, weights: Sequence[Tensor], options: Options = DEFAULTS
) -> tuple[Tensor, State, list[Tensor], Options]:
    dtype = torch.get_autocast_dtype(x.device.type)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

    if options.segments.reset_state:
        reset_state = [cast(s) for s in options.segments.reset_state]
        options = options._replace(segments=options.segments._replace(reset_state=reset_state))
    return cast(x), tuple([cast(s) for s in state]), [cast(w) for w in weights], options


def zero_state(spec: LayerSpec, x: Tensor, w_hh: Tensor, num_layers: int, batch: int) -> State:
    """Initial states of a stack, ``w_hh`` being that of any of its layers."""
    widths = spec.state_widths(*spec.hidden_and_outputs(w_hh)).values()
    return tuple([x.new_zeros(num_layers * spec.directions, batch, width) for width in widths])


def _dropout(x: Tensor, p: float, transposed: bool) -> Tensor:
    # As it lies in memory: the generator fills that in order. The same seed, the same mask as in torch.nn.
    return apply_dropout(x.transpose(0, 1), p).transpose(0, 1) if transposed else apply_dropout(x, p)
