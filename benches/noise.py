"""Recurrent dropout and zoneout: ``python -m benches.noise [--threads N] [--quick] [--save NAME]``.

A training step of a layer of fastrnn with ``recurrent_dropout``, ``zoneout`` and both, beside one of the plain layer
and beside a Python loop over ``torch.nn``'s cell with both, as this is written without fastrnn.

Each is compared with such a loop, given the same mask and draws, in results and gradients before it is timed, all in
turn. Gradients arrive at every result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from benches.machine import describe
from benches.results import save
from benches.variants import Call, Size, Timed, checked, flat, kept_table, run_of, table
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.diagnose import bytes_kept
from fastrnn.functional import zoneout_seed
from fastrnn.spec import Noise

__all__ = ["main"]

CELLS = ("LSTM", "GRU")
SIZES = [Size(8, 64, 64), Size(16, 128, 128), Size(64, 64, 256)]
_DROPOUT, _ZONEOUT = 0.25, 0.1
_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "recurrent_dropout": {"recurrent_dropout": _DROPOUT},
    "zoneout": {"zoneout": _ZONEOUT},
    "both": {"recurrent_dropout": _DROPOUT, "zoneout": _ZONEOUT},
}
_SEED = 7

# Which units' h and other states stay at a step.
Draw = Callable[[int], tuple[Tensor, Tensor]]


class Work:
    """Layers of the same weights on the same inputs, and loops over ``torch.nn``'s cell."""

    def __init__(self, kind: str, size: Size) -> None:
        torch.manual_seed(0)
        self.size, self.kind = size, kind
        hidden = size.hidden
        self.cell: Any = getattr(nn, f"{kind}Cell")(hidden, hidden)
        self.x = torch.randn(size.steps, size.batch, hidden, requires_grad=True)

    def layer(self, **options: Any) -> nn.Module:
        made: nn.Module = getattr(fastrnn, self.kind)(self.size.hidden, self.size.hidden, **options)
        made.load_state_dict({f"{name}_l0": p for name, p in self.cell.state_dict().items()})
        return made

    def seeded(self, layer: nn.Module) -> Call:
        def call() -> tuple[Tensor, ...]:
            torch.manual_seed(_SEED)
            return flat(layer(self.x))

        return call

    def of_loop(self, recurrent_dropout: float = 0.0, zoneout: float = 0.0, draw: Draw | None = None) -> Call:
        """``draw`` takes the place of PyTorch's generator for zoneout."""
        batch, hidden = self.size.batch, self.size.hidden

        def drawn(_: int) -> tuple[Tensor, Tensor]:
            of_h, of_c = torch.rand(2, batch, hidden) < zoneout
            return of_h, of_c

        def call() -> tuple[Tensor, ...]:
            torch.manual_seed(_SEED)
            mask = torch.dropout(self.x.new_ones(batch, hidden), recurrent_dropout, True)
            state = tuple(self.x.new_zeros(batch, hidden) for _ in range(2 if self.kind == "LSTM" else 1))
            ys = []
            for t, x in enumerate(self.x):
                new = self._step(x, state, mask if recurrent_dropout else None)
                if zoneout:
                    stays = (draw or drawn)(t)
                    pairs = zip(stays, state, new, strict=False)
                    new = tuple(torch.where(stay, old, after) for stay, old, after in pairs)
                state = new
                ys.append(state[0])
            return (torch.stack(ys), *(s.unsqueeze(0) for s in state))

        return call

    def _step(self, x: Tensor, state: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Tensor, ...]:
        h = state[0] if mask is None else state[0] * mask
        if self.kind == "LSTM":
            return tuple(self.cell(x, (h, state[1])))
        if mask is None:
            return (self.cell(x, h),)
        # torch.nn.GRUCell would mix the masked h into the next.
        gx = nn.functional.linear(x, self.cell.weight_ih, self.cell.bias_ih)
        gh = nn.functional.linear(h, self.cell.weight_hh, self.cell.bias_hh)
        (xr, xz, xn), (hr, hz, hn) = gx.chunk(3, 1), gh.chunk(3, 1)
        z, n = torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        return (n + z * (state[0] - n),)

    def same_draws(self) -> Draw:
        """Those of a layer after ``seeded`` has set the seed, and dropout has taken its part."""
        batch, hidden = self.size.batch, self.size.hidden
        noise = Noise(None, _ZONEOUT, _ZONEOUT, zoneout_seed(self.x))

        def draw(t: int) -> tuple[Tensor, Tensor]:
            of_h, of_c = noise.stays(0, torch.arange(t * batch, (t + 1) * batch), hidden)
            return torch.as_tensor(of_h), torch.as_tensor(of_c)

        return draw

    def given(self, module: nn.Module) -> list[Tensor]:
        return [self.x, *module.parameters()]

    def expected(self, options: dict[str, Any]) -> list[list[Tensor]]:
        torch.manual_seed(_SEED)
        if "recurrent_dropout" in options:
            torch.dropout(torch.ones(1, self.size.batch, self.size.hidden), _DROPOUT, True)
        draw = self.same_draws() if "zoneout" in options else None
        return run_of(self.of_loop(**options, draw=draw), self.given(self.cell), True)()


def measure(kind: str, size: Size, budget: Budget) -> Iterator[Timed]:
    work = Work(kind, size)
    modules = {name: work.layer(**options) for name, options in _OPTIONS.items()}
    calls = {name: work.seeded(module) for name, module in modules.items()}
    runs = {name: run_of(call, work.given(modules[name]), True) for name, call in calls.items()}
    differences = {
        name: checked(work.expected(_OPTIONS[name]), run(), f"{kind} {size}, {name}") for name, run in runs.items()
    }
    modules["loop"], calls["loop"] = work.cell, work.of_loop(**_OPTIONS["both"])
    runs["loop"], differences["loop"] = run_of(calls["loop"], work.given(work.cell), True), 0.0
    times = race(runs, budget)
    for name, module in modules.items():
        kept = bytes_kept(calls[name], work.given(module))
        seconds, ratio = Quartiles.of(times.seconds[name]), times.ratio(name, "plain")
        yield Timed("noise", kind, size, None, "training", name, "plain", differences[name], seconds, ratio, kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.noise", description="Recurrent dropout and zoneout.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few short rounds: a rough look")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    budget = Budget(0.05, 3, 3, 1e-3) if options.quick else Budget(0.6, 5, 40, 1e-3)
    machine = describe(options.threads)
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "threads", "load")))
    results = [result for kind in CELLS for size in SIZES for result in measure(kind, size, budget)]
    print(f"\ntimes over that of plain\n\n{table(results)}\n\n{kept_table(results)}")
    if options.save:
        print(f"written: {save(options.save, machine, results)}")


if __name__ == "__main__":
    main()
