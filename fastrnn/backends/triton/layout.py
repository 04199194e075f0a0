"""Where the rows of a batch lie: the run-time sizes that every kernel takes."""

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from fastrnn.backends.triton.alignment import aligned
from fastrnn.backends.triton.checks import Inputs
from fastrnn.kernels.tiles import Geometry
from fastrnn.spec import LayerSpec

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Rows of [N, width] buffers, step by step.

    The row of time t and batch entry b is ``t * batch + b``, or ``offsets[t] + b`` in a ragged batch. That is packed,
    or padded: then only the device knows its lengths, and there are rows of steps that an entry does not have, too.

    Attributes:
        sizes: of a packed batch, active rows at each step.
        starts: of a packed batch, the first row of each step.
        offsets: of a ragged batch, the first row of each step and the number of rows on the device, int64 [T+1].
        lengths: of a ragged batch, steps of each batch entry on the device, int32 [B].
        places: int64 [N], which row of the caller's y each one is, where it is another one.
    """

    steps: int
    batch: int
    rows: int
    directions: int
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    offsets: Tensor | None = None
    lengths: Tensor | None = None
    places: Tensor | None = None

    @staticmethod
    def of(spec: LayerSpec, inputs: Inputs) -> "Layout":
        x, batch_sizes, lengths = inputs.x, inputs.batch_sizes, inputs.segments.lengths
        if batch_sizes is None:
            steps, batch = x.shape[:2]
            dense = Layout(steps, batch, steps * batch, spec.directions)
            if lengths is None:
                return dense
            # What lies beyond the buffers must not be reached, and to refuse it would be to wait for the device.
            within = lengths.clamp(0, steps).to(torch.int32)
            return replace(dense, offsets=torch.arange(steps + 1, device=x.device) * batch, lengths=aligned(within))
        sizes = tuple(batch_sizes.tolist())
        batch, steps = max(sizes, default=0), len(sizes)
        *starts, rows = accumulate(sizes, initial=0)
        offsets = torch.tensor([*starts, rows])
        # An entry has as many steps as there are sizes above its index; sizes do not increase.
        without = torch.searchsorted(batch_sizes.flip(0), torch.arange(batch), right=True)
        lengths = (steps - without).to(torch.int32)
        return Layout(
            steps,
            batch,
            rows,
            spec.directions,
            sizes,
            tuple(starts),
            _to(offsets, x.device),
            _to(lengths, x.device),
            inputs.places,
        )

    @property
    def ragged(self) -> bool:
        return self.offsets is not None

    @property
    def padded(self) -> bool:
        return self.ragged and not self.sizes

    @property
    def numbers(self) -> Tensor | None:
        """Of a ragged batch int64 [N], which row of the caller's y each one is."""
        if self.offsets is None or self.places is not None:
            return self.places
        return torch.arange(self.rows, device=self.offsets.device)

    @property
    def geometry(self) -> Geometry:
        """What kernels are told of it."""
        return Geometry(**{name: getattr(self, name) for name in Geometry._fields})

    def time(self, direction: int, step: int) -> int:
        return step if direction == 0 else self.steps - 1 - step

    def actives(self, step: int) -> list[int]:
        """For each direction, the rows of the batch that have its ``step``-th step."""
        return [self.active(self.time(d, step)) for d in range(self.directions)]

    def active(self, t: int) -> int:
        """Of a padded batch, rows that may have it."""
        return self.sizes[t] if self.sizes else self.batch

    def having(self, direction: int, step: int) -> Tensor | None:
        """[B, 1], of a padded batch the rows that have a direction's ``step``-th step; None for all that are active."""
        if not self.padded or self.lengths is None:
            return None
        return (self.lengths > self.time(direction, step)).unsqueeze(1)

    def without_padding(self, rows: Tensor) -> Tensor:
        """[N, width], with zeros in rows of steps that an entry does not have, whatever was there."""
        if not self.padded or self.lengths is None:
            return rows
        has = torch.arange(self.steps, device=rows.device).unsqueeze(1) < self.lengths
        return torch.where(has.view(-1, 1), rows, 0.0)

    def before(self, y: Tensor, initial: Tensor, direction: int) -> Tensor:
        """For each row of ``y`` [N, P], one direction's outputs, the one a step before, or ``initial`` [B, P]: [N,
        P]."""
        if self.offsets is None:
            others = self.rows - self.batch
            return torch.cat((initial, y[:others]) if direction == 0 else (y[self.batch :], initial))
        assert self.lengths is not None
        t, b = self._steps_and_entries(self.offsets)
        before = t - 1 if direction == 0 else t + 1
        begun = (before >= 0) & (before < self.lengths[b])
        row = torch.where(begun, self.offsets[before.clamp_min(0)] + b, self.rows + b)
        return torch.cat((y, initial)).index_select(0, row)

    def of_rows(self, of_entries: Tensor) -> Tensor:
        """[N, width], from what belongs to the entries of the batch [B, width]."""
        if self.offsets is None:
            return of_entries.repeat(self.steps, 1)
        return of_entries.index_select(0, self._steps_and_entries(self.offsets)[1])

    def _steps_and_entries(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """[N] each, of the rows of a ragged batch."""
        times = torch.arange(self.steps, device=offsets.device)
        t = times.repeat_interleave(offsets.diff(), output_size=self.rows)
        return t, torch.arange(self.rows, device=offsets.device) - offsets[t]


def _to(table: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return table.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("fastrnn: expected no CUDA graph capture of a packed batch: its lengths come from the CPU")
    return table.pin_memory().to(device, non_blocking=True)  # an ordinary copy would wait for the device
