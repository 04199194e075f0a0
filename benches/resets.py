"""Rows that begin anew or end early: ``python -m benches.resets [PART ...] [--threads N] [--quick] [--save NAME]``.

``layers``: a layer of fastrnn with ``reset``, ``lengths``, ``return_states`` and ``recompute`` beside the plain layer
on the same inputs. ``loops``: a Python loop over ``torch.nn``'s cell with a mask, as this is written without fastrnn,
beside one call with ``reset``. ``torchrl``: that package's modules beside one call. Their trajectories begin anew where
``is_init`` says, with the hidden state that the data has there, which is ``reset_state``. The back end ``pad`` splits
and pads trajectories, ``scan`` needs the package hoptorch; it is timed compiled, too, with ``--compile``.

Each is compared with the loop, or with torchrl, in results and gradients before it is timed, all in turn. In training
gradients arrive at every result: a forward and a backward pass.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from benches.cases import MODES
from benches.machine import describe, provenance
from benches.results import save
from benches.variants import Call, Size, Timed, checked, flat, kept_table, run_of, table
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.diagnose import bytes_kept

__all__ = ["PARTS", "main"]

CELLS = ("LSTM", "GRU")
CHANCES = (0.0, 0.01, 0.1)  # of a step to begin anew
_PART_STEPS = 16  # of ``recompute``
_GOAL = 1.1  # of the plain layer's time

_SIZES = [Size(16, 128, 128), Size(64, 64, 256)]
_WITH_SMALL = [Size(8, 64, 64), *_SIZES]
# By part. Of a call as short as the small one torchrl's time would say what its Python takes, and no more.
SIZES = {"layers": _WITH_SMALL, "loops": _WITH_SMALL, "torchrl": _SIZES}


class Work:
    """A layer with inputs, and the same as a loop over ``torch.nn``'s cell."""

    def __init__(self, cell: str, size: Size) -> None:
        torch.manual_seed(0)
        hidden = size.hidden
        self.layer: Any = getattr(fastrnn, cell)(hidden, hidden)
        self.cell: Any = getattr(nn, f"{cell}Cell")(hidden, hidden)
        self.cell.load_state_dict({name.removesuffix("_l0"): p for name, p in self.layer.state_dict().items()})
        self.x = torch.randn(size.steps, size.batch, hidden, requires_grad=True)
        self.state = tuple(torch.randn(1, size.batch, hidden) for _ in range(2 if cell == "LSTM" else 1))
        self.marks = {chance: torch.rand(size.steps, size.batch) < chance for chance in CHANCES}
        self.lengths = torch.randint(1, size.steps + 1, (size.batch,))

    def of_layer(self, layer: nn.Module | None = None, **asked: Any) -> Call:
        """Output and final states, then the states of all steps if they are asked for."""
        layer = layer or self.layer
        hx = self.state if len(self.state) > 1 else self.state[0]
        return lambda: flat(layer(self.x, hx, **asked))

    def recomputing(self, recompute: bool | int) -> nn.Module:
        layer = type(self.layer)(self.layer.input_size, self.layer.hidden_size, recompute=recompute)
        layer.load_state_dict(self.layer.state_dict())
        return layer

    def of_loop(self, reset: Tensor | None = None, lengths: Tensor | None = None, return_states: bool = False) -> Call:
        def call() -> tuple[Tensor, ...]:
            state = tuple(s[0] for s in self.state)
            every = []
            for t, x in enumerate(self.x):
                if reset is not None:
                    kept = 1.0 - reset[t].float().unsqueeze(1)
                    state = tuple(kept * s for s in state)
                new = self.cell(x, state if len(state) > 1 else state[0])
                new = new if len(state) > 1 else (new,)
                if lengths is None:
                    state = new
                    every.append(state)
                else:
                    active = (t < lengths).unsqueeze(1)
                    state = tuple(torch.where(active, n, s) for n, s in zip(new, state, strict=True))
                    every.append(tuple(active * s for s in state))
            states = [torch.stack(s) for s in zip(*every, strict=True)]
            final = [s.unsqueeze(0) for s in state]
            return (states[0], *final, *(s.unsqueeze(0) for s in states if return_states))

        return call

    def given(self, module: nn.Module) -> list[Tensor]:
        """What gradients are taken of."""
        return [self.x, *module.parameters()]

    def kept(self, call: Call, module: nn.Module) -> int:
        owned = [*self.given(module), *self.state, *self.marks.values(), self.lengths]
        return bytes_kept(call, owned)


def layers(cell: str, size: Size, mode: str, budget: Budget) -> Iterator[Timed]:
    work, training = Work(cell, size), mode == "training"
    asked: dict[str, dict[str, Any]] = {"plain": {}}
    asked |= {f"reset {chance:g}": {"reset": marks} for chance, marks in work.marks.items()}
    asked |= {"lengths": {"lengths": work.lengths}, "return_states": {"return_states": True}}
    calls = {name: (work.layer, work.of_layer(**options), work.of_loop(**options)) for name, options in asked.items()}
    if training:
        for name, recompute in (("recompute", True), (f"recompute {_PART_STEPS}", _PART_STEPS)):
            layer = work.recomputing(recompute)
            calls[name] = (layer, work.of_layer(layer), work.of_loop())
    yield from timed("layers", cell, size, None, mode, calls, work, "plain", budget)


def loops(cell: str, size: Size, mode: str, budget: Budget) -> Iterator[Timed]:
    work, chance = Work(cell, size), CHANCES[-1]  # a loop takes as long for any
    loop = work.of_loop(work.marks[chance])
    calls = {"loop": (work.cell, loop, loop), "reset": (work.layer, work.of_layer(reset=work.marks[chance]), loop)}
    yield from timed("loops", cell, size, chance, mode, calls, work, "reset", budget)


def timed(
    part: str,
    cell: str,
    size: Size,
    chance: float | None,
    mode: str,
    calls: dict[str, tuple[nn.Module, Call, Call]],
    work: Work,
    base: str,
    budget: Budget,
) -> Iterator[Timed]:
    """Of calls by their names, each with its module and what a loop over ``work.cell`` makes of the same."""
    training = mode == "training"
    runs, differences = {}, {}
    for name, (module, call, loop) in calls.items():
        runs[name] = run_of(call, work.given(module), training)
        expected = run_of(loop, work.given(work.cell), training)()
        differences[name] = checked(expected, runs[name](), f"{cell} {size}, {mode}, {name}")
    times = race(runs, budget)
    for name, (module, call, _) in calls.items():
        seconds, kept = Quartiles.of(times.seconds[name]), work.kept(call, module) if training else None
        ratio = times.ratio(name, base)
        yield Timed(part, cell, size, chance, mode, name, base, differences[name], seconds, ratio, kept)


class Trajectories:
    """A module of torchrl, with data as a collector leaves it, and the same as one call of fastrnn's layer."""

    def __init__(self, cell: str, size: Size, chance: float) -> None:
        from tensordict import TensorDict

        torch.manual_seed(0)
        self.name, self.states = cell, ["h", "c"] if cell == "LSTM" else ["h"]
        batch, steps, hidden = size.batch, size.steps, size.hidden
        self.layer: Any = getattr(fastrnn, cell)(hidden, hidden, batch_first=True)
        self.begins = torch.rand(batch, steps, 1) < chance
        self.x = torch.randn(batch, steps, hidden, requires_grad=True)
        hx = {name: torch.randn(batch, steps, 1, hidden) for name in self.states}
        self.data = TensorDict({"x": self.x, "is_init": self.begins, **hx}, [batch, steps])

    def module(self, backend: str) -> Any:
        import torchrl.modules

        keys = {"in_keys": ["x", *self.states], "out_keys": ["y", *(("next", name) for name in self.states)]}
        options = {"default_recurrent_mode": True, "recurrent_backend": backend}
        sizes = {"input_size": self.layer.input_size, "hidden_size": self.layer.hidden_size}
        made = getattr(torchrl.modules, f"{self.name}Module")(**sizes, **keys, **options)
        getattr(made, self.name.lower()).load_state_dict(self.layer.state_dict())
        return made

    def of_module(self, module: Any) -> Call:
        def call() -> tuple[Tensor, ...]:
            out = module(self.data.copy())
            return (out["y"], *(out["next", name][:, -1].transpose(0, 1) for name in self.states))

        return call

    def of_layer(self) -> Call:
        marks = self.begins.squeeze(-1)

        def call() -> tuple[Tensor, ...]:
            first = self._hx([self.data[name][:, 0].transpose(0, 1) for name in self.states])
            anew = self._hx([self.data[name].permute(2, 1, 0, 3) for name in self.states])
            return flat(self.layer(self.x, first, reset=marks, reset_state=anew))

        return call

    def _hx(self, states: list[Tensor]) -> Any:
        return tuple(states) if len(states) > 1 else states[0]


def torchrl(cell: str, size: Size, mode: str, budget: Budget, compiled: bool = False) -> Iterator[Timed]:
    training, ours = mode == "training", "one call"
    every = {chance: Trajectories(cell, size, chance) for chance in CHANCES}
    any_of_them = every[CHANCES[0]]  # their weights are the same
    modules = {name: any_of_them.module(name.partition(",")[0]) for name in _backends(compiled)}
    called = {name: torch.compile(m) if name.endswith("compiled") else m for name, m in modules.items()}
    for chance, work in every.items():
        calls = {name: work.of_module(module) for name, module in called.items()} | {ours: work.of_layer()}
        given = {name: [work.x, *m.parameters()] for name, m in {**modules, ours: work.layer}.items()}
        runs = {name: run_of(call, given[name], training) for name, call in calls.items()}
        expected = runs["pad"]()
        differences = {name: checked(expected, run(), f"torchrl {cell} {size}, {name}") for name, run in runs.items()}
        times = race(runs, budget)
        for name in runs:
            seconds, ratio = Quartiles.of(times.seconds[name]), times.ratio(name, ours)
            yield Timed("torchrl", cell, size, chance, mode, name, ours, differences[name], seconds, ratio)


def _backends(compiled: bool) -> list[str]:
    try:
        import hoptorch  # noqa: F401
    except ImportError:
        return ["pad"]
    return ["pad", "scan", *["scan, compiled"] * compiled]


PARTS: dict[str, Callable[..., Iterator[Timed]]] = {"layers": layers, "loops": loops, "torchrl": torchrl}


def verdict(results: list[Timed]) -> str:
    asked = [result for result in results if result.name.startswith(("reset", "lengths"))]
    slower = [result for result in asked if result.ratio.median > _GOAL]
    named = [f"- {r.cell} {r.size}, {r.mode}, {r.name}: {r.ratio.median:.2f}" for r in slower]
    return "\n".join([f"more than {_GOAL} of the plain layer: {len(slower)} of {len(asked)}", *named])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.resets", description="Rows that begin anew or end early.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few short rounds: a rough look")
    parser.add_argument("--compile", action="store_true", help="torchrl's scan compiled, too; takes minutes")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    budget = Budget(0.05, 3, 3, 1e-3) if options.quick else Budget(0.6, 5, 40, 1e-3)
    warnings.simplefilter("ignore")  # the packages'

    machine = describe(options.threads)
    machine["versions"] |= provenance(("torchrl", "tensordict", "hoptorch"))["versions"]
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "threads", "load")))
    results: list[Timed] = []
    for part in options.parts or PARTS:
        more = {"compiled": options.compile} if part == "torchrl" else {}
        cases = [(cell, size, mode) for cell in CELLS for size in SIZES[part] for mode in MODES]
        try:
            found = [result for case in cases for result in PARTS[part](*case, budget, **more)]
        except ImportError as error:
            print(f"\nskipped: {part}, {error}")
            continue
        print(f"\n{part}: times over that of {found[0].base}\n\n{table(found)}")
        if part == "layers":
            print(f"\n{kept_table(found)}\n\n{verdict(found)}")
        results += found
    if options.save:
        print(f"written: {save(options.save, machine, results)}")


if __name__ == "__main__":
    main()
