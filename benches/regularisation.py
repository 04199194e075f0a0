"""Recurrent dropout, zoneout, layer norm: ``python -m benches.regularisation [--threads N] [--quick] [--save NAME]``.

A training step of a layer of fastrnn with ``recurrent_dropout``, ``zoneout``, both, and ``layer_norm``, beside one of
the plain layer and beside Python loops over a cell, with both and with norms, as these are written without fastrnn.

Each is compared with such a loop, given the same mask and draws, in results and gradients before it is timed, all in
turn. Gradients arrive at every result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

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
    "layer_norm": {"layer_norm": True},
}
_SEED = 7
_ABOUT = "Recurrent dropout, zoneout and layer normalisation beside the plain layer and loops over a cell."

# Which units' h and other states stay at a step.
Draw = Callable[[int], tuple[Tensor, Tensor]]


def _gru(gx: Tensor, gh: Tensor, h: Tensor) -> Tensor:
    (xr, xz, xn), (hr, hz, hn) = gx.chunk(3, 1), gh.chunk(3, 1)
    z, n = torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return n + z * (h - n)


class Work:
    """Layers of the same weights on the same inputs, and loops over ``torch.nn``'s cell."""

    def __init__(self, kind: str, size: Size) -> None:
        torch.manual_seed(0)
        self.size, self.kind = size, kind
        hidden = size.hidden
        self.cell: Any = getattr(nn, f"{kind}Cell")(hidden, hidden)
        self.x = torch.randn(size.steps, size.batch, hidden, requires_grad=True)
        gates = len(self.cell.weight_hh)
        sizes = {"weight_ln_ih": gates, "weight_ln_hh": gates}
        sizes |= {"weight_ln_c": hidden, "bias_ln_c": hidden} if kind == "LSTM" else {}
        self.gains = {name: torch.rand(width, requires_grad=True) for name, width in sizes.items()}

    def layer(self, **options: Any) -> nn.Module:
        made: nn.Module = getattr(fastrnn, self.kind)(self.size.hidden, self.size.hidden, **options)
        weights = {**self.cell.state_dict(), **(self.gains if "layer_norm" in options else {})}
        made.load_state_dict({f"{name}_l0": p for name, p in weights.items()})
        return made

    def seeded(self, layer: nn.Module) -> Call:
        def call() -> tuple[Tensor, ...]:
            torch.manual_seed(_SEED)
            return flat(layer(self.x))

        return call

    def of_loop(
        self,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        layer_norm: bool = False,
        draw: Draw | None = None,
    ) -> Call:
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
                of_step = self._normalised_step if layer_norm else self._step
                new = of_step(x, state, mask if recurrent_dropout else None)
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
        gx = linear(x, self.cell.weight_ih, self.cell.bias_ih)
        gh = linear(h, self.cell.weight_hh, self.cell.bias_hh)
        return (_gru(gx, gh, state[0]),)

    def _normalised_step(self, x: Tensor, state: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Tensor, ...]:
        h = state[0] if mask is None else state[0] * mask
        gx, gh = self._norms("ih", x), self._norms("hh", h)
        if self.kind == "GRU":
            return (_gru(gx, gh, state[0]),)
        i, f, g, o = (gx + gh).chunk(4, 1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        normal = layer_norm(c, c.shape[-1:], self.gains["weight_ln_c"], self.gains["bias_ln_c"])
        return torch.sigmoid(o) * torch.tanh(normal), c

    def _norms(self, side: str, x: Tensor) -> Tensor:
        """Of all gates together, or for a GRU of r and z and of n."""
        products = linear(x, getattr(self.cell, f"weight_{side}"))
        gain, bias = self.gains[f"weight_ln_{side}"], getattr(self.cell, f"bias_{side}")
        hidden = self.size.hidden
        sizes = [2 * hidden, hidden] if self.kind == "GRU" else [4 * hidden]
        parts = zip(products.split(sizes, 1), gain.split(sizes), bias.split(sizes), strict=True)
        return torch.cat([layer_norm(part, part.shape[-1:], g, b) for part, g, b in parts], 1)

    def same_draws(self) -> Draw:
        """Those of a layer after ``seeded`` has set the seed, and dropout has taken its part."""
        batch, hidden = self.size.batch, self.size.hidden
        noise = Noise(None, _ZONEOUT, _ZONEOUT, zoneout_seed(self.x))

        def draw(t: int) -> tuple[Tensor, Tensor]:
            of_h, of_c = noise.stays(0, torch.arange(t * batch, (t + 1) * batch), hidden)
            return torch.as_tensor(of_h), torch.as_tensor(of_c)

        return draw

    def given(self, module: nn.Module, options: dict[str, Any]) -> list[Tensor]:
        gains = self.gains.values() if module is self.cell and "layer_norm" in options else ()
        return [self.x, *module.parameters(), *gains]

    def expected(self, options: dict[str, Any]) -> list[list[Tensor]]:
        torch.manual_seed(_SEED)
        if "recurrent_dropout" in options:
            torch.dropout(torch.ones(1, self.size.batch, self.size.hidden), _DROPOUT, True)
        draw = self.same_draws() if "zoneout" in options else None
        return run_of(self.of_loop(**options, draw=draw), self.given(self.cell, options), True)()


_LOOPS = {"loop": "both", "loop with norms": "layer_norm"}


def measure(kind: str, size: Size, budget: Budget) -> Iterator[Timed]:
    work = Work(kind, size)
    modules = {name: work.layer(**options) for name, options in _OPTIONS.items()}
    calls = {name: work.seeded(module) for name, module in modules.items()}
    given = {name: work.given(module, _OPTIONS[name]) for name, module in modules.items()}
    differences = {
        name: checked(work.expected(_OPTIONS[name]), run_of(call, given[name], True)(), f"{kind} {size}, {name}")
        for name, call in calls.items()
    }
    for name, of in _LOOPS.items():
        calls[name], given[name] = work.of_loop(**_OPTIONS[of]), work.given(work.cell, _OPTIONS[of])
        differences[name] = 0.0
    times = race({name: run_of(call, given[name], True) for name, call in calls.items()}, budget)
    for name, call in calls.items():
        kept = bytes_kept(call, given[name])
        seconds, ratio = Quartiles.of(times.seconds[name]), times.ratio(name, "plain")
        yield Timed(
            "regularisation", kind, size, None, "training", name, "plain", differences[name], seconds, ratio, kept
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.regularisation", description=_ABOUT)
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
