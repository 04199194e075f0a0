"""Checks of what users give, once, before the layers run: ValueError says what was expected and what came."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrnn.spec import CELLS, LayerSpec, Segments

__all__ = ["autocast_enabled", "check_arguments", "check_recompute", "check_segments", "spec_of"]

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def spec_of(
    cell: str,
    directions: int,
    has_bias: bool,
    batch_first: bool,
    layer_norm: bool,
    num_layers: int,
    weights: Sequence[Tensor],
) -> LayerSpec:
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    rows = num_layers * directions
    spec = LayerSpec(cell, directions, has_bias, batch_first, layer_norm=layer_norm)
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


def check_arguments(
    spec: LayerSpec,
    num_layers: int,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    segments: Segments,
) -> None:
    """Raises ValueError where the number, shapes or dtypes of the arguments do not fit one another."""
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

    hidden, outputs = _widths(spec, weights)
    shapes: list[tuple[int, ...]] = []
    for i in range(num_layers):
        inputs = x.size(-1) if i == 0 else spec.directions * outputs
        shapes += [*spec.weight_shapes(inputs, hidden, outputs).values()] * spec.directions
    _check_tensors("weights", weights, shapes, x)

    batch = int(batch_sizes[0]) if batch_sizes is not None else x.size(0 if spec.batch_first else 1)
    widths = spec.state_widths(hidden, outputs).values()
    expected = [(num_layers * spec.directions, batch, width) for width in widths]
    _check_tensors("state", state, expected[: len(state)], x)
    check_segments(spec, num_layers, x, hidden, outputs, batch_sizes, segments)


def _widths(spec: LayerSpec, weights: Sequence[Tensor]) -> tuple[int, int]:
    """H and P, of weight_hr, or else weight_hh, whose columns are believed and whose rows are then checked."""
    last = weights[spec.weight_names.index("weight_hr" if spec.projected else "weight_hh")]
    if last.dim() != 2:
        raise ValueError(f"weights: expected matrices for weight_hh and weight_hr, got shape {tuple(last.shape)}")
    outputs, hidden = last.shape if spec.projected else (last.size(1), last.size(1))
    return hidden, outputs


def _check_tensors(name: str, tensors: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], x: Tensor) -> None:
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        if tensor.shape != shape:
            raise ValueError(f"{name}[{i}]: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != x.dtype and not autocast_enabled(x):
            raise ValueError(f"{name}[{i}]: expected dtype {x.dtype} as of x, got {tensor.dtype}")


def check_segments(
    spec: LayerSpec,
    num_layers: int,
    x: Tensor,
    hidden: int,
    outputs: int,
    batch_sizes: Tensor | None,
    segments: Segments,
) -> None:
    """Raises ValueError where they do not fit the batch."""
    if not segments:
        return
    lengths, reset, reset_state = segments
    if batch_sizes is not None:
        raise ValueError("lengths and reset: expected an input that is not packed, which says itself where rows end")
    steps, batch = x.shape[:2] if not spec.batch_first else x.shape[1::-1]
    if lengths is not None and (lengths.shape != (batch,) or lengths.dtype not in _INTEGERS):
        raise ValueError(f"lengths: expected integers [{batch}], got {lengths.dtype} {list(lengths.shape)}")
    marks = (batch, steps) if spec.batch_first else (steps, batch)
    if reset is not None and (reset.shape != marks or reset.dtype != torch.bool):
        raise ValueError(f"reset: expected bool {list(marks)}, got {reset.dtype} {list(reset.shape)}")
    if not reset_state:
        return
    names = spec.facts.states
    if reset is None or len(reset_state) != len(names):
        raise ValueError(
            f"reset_state: expected {len(names)} tensors ({', '.join(names)}) beside a reset, "
            f"got {len(reset_state)}{' without one' if reset is None else ''}"
        )
    rows = num_layers * spec.directions
    for i, (s, width) in enumerate(zip(reset_state, spec.state_widths(hidden, outputs).values(), strict=True)):
        once, by_step = (rows, batch, width), (rows, steps, batch, width)
        if s.shape not in (once, by_step) or s.dim() != reset_state[0].dim():
            raise ValueError(f"reset_state[{i}]: expected shape {once} or {by_step}, got {tuple(s.shape)}")
        if s.dtype != x.dtype and not autocast_enabled(x):
            raise ValueError(f"reset_state[{i}]: expected {x.dtype} like the input, got {s.dtype}")


def check_probability(name: str, p: float) -> float:
    """Raises ValueError where it is none."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability from 0 to 1, got {p!r}")
    return float(p)


def check_zoneout(zoneout: float | Sequence[float], spec: LayerSpec) -> tuple[float, float]:
    """Probabilities for h and for the cell's other states, from those or one for all states.

    Raises:
        ValueError: where they are none, or for a state that the cell lacks, or for an h that is projected.
    """
    has_others = len(spec.facts.states) > 1
    of_all = (zoneout, zoneout if has_others else 0.0) if isinstance(zoneout, (int, float)) else zoneout
    pair = tuple(of_all)
    if len(pair) != 2:
        raise ValueError(f"zoneout: expected a probability, or one for h and one for c, got {zoneout!r}")
    of_h, of_c = (check_probability("zoneout", p) for p in pair)
    if of_c > 0 and not has_others:
        raise ValueError(f"zoneout: expected a probability for h alone with cell {spec.cell}, got {zoneout!r}")
    if of_h > 0 and spec.projected:
        raise ValueError(f"zoneout: expected (0, p) with a projection, which h goes through, got {zoneout!r}")
    return of_h, of_c


def check_recompute(
    recompute: bool | int,
    spec: LayerSpec,
    batch_sizes: Tensor | None,
    segments: Segments,
    zoneout: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Raises ValueError for a number of steps that is none, or where steps cannot be taken apart, or computed again."""
    if spec.layer_norm and recompute:
        raise ValueError(f"recompute: expected False with layer_norm, got {recompute!r}")
    bidirectional = spec.directions == 2
    if isinstance(recompute, bool):
        return
    if not isinstance(recompute, int) or recompute < 1:
        raise ValueError(f"recompute: expected True, False or a number of steps, got {recompute!r}")
    if batch_sizes is not None:
        raise ValueError("recompute: expected True or False for a packed input, got a number of steps")
    if bidirectional and segments:
        raise ValueError("recompute: expected True or False for two directions with lengths or reset, got a number")
    if bidirectional and any(zoneout):
        raise ValueError("recompute: expected True or False for two directions with zoneout, got a number")


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``; false where the device, such as meta, has none."""
    if not torch._C._is_any_autocast_enabled():  # an eighth of the time of the two questions below
        return False
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
