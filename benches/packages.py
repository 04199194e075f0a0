"""Models of other packages before and after ``fastrnn.accelerate``: ``python -m benches.packages [NAME ...]``.

Results and gradients are compared first, then both are timed in turn, in training a forward and a backward pass. The
time is that of the whole model, so a ratio says what its users gain. A package that is not installed is named.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastrnn
from benches.machine import describe
from benches.package_models import MODELS
from fastrnn.bench.providers import OURS, TORCH
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Budget, Quartiles, race
from fastrnn.modules.counterparts import is_fast

_HEADER = ["package", "version", "model", "layers", "mode", "difference", "torch ms", "fastrnn ms", "ratio"]
_ALLOWED = 1e-5


@dataclass(frozen=True)
class Compared:
    """One model in one mode. ``difference`` is as ``largest_difference`` has it."""

    package: str
    model: str
    layers: int
    mode: str
    difference: float
    seconds: dict[str, Quartiles]
    ratio: Quartiles

    def row(self) -> list[str]:
        version = importlib.metadata.version(self.package)
        times = [f"{self.seconds[name].median * 1e3:.4g}" for name in (TORCH, OURS)]
        ratio = f"{self.ratio.median:.2f}"
        return [self.package, version, self.model, str(self.layers), self.mode, f"{self.difference:.0e}", *times, ratio]


def compare(package: str, model: str, budget: Budget) -> Iterator[Compared]:
    built = {}
    for name in (TORCH, OURS):
        torch.manual_seed(0)
        built[name] = MODELS[package, model]()
    fastrnn.accelerate(built[OURS][0])
    layers = sum(map(is_fast, built[OURS][0].modules()))
    for mode in ("inference", "training"):
        runs = {name: run_of(*pair, training=mode == "training") for name, pair in built.items()}
        (y, *gradients), (our_y, *our_gradients) = runs[TORCH](), runs[OURS]()
        difference = max(largest_difference([y], [our_y]), largest_difference(gradients, our_gradients))
        assert layers and difference <= _ALLOWED, f"{package} {model}, {mode}: {layers} layers, {difference:.1e}"
        times = race(runs, budget)
        seconds = {name: Quartiles.of(values) for name, values in times.seconds.items()}
        yield Compared(package, model, layers, mode, difference, seconds, times.ratio(TORCH, OURS))


def run_of(model: nn.Module, call: Callable[[nn.Module], Tensor], training: bool) -> Callable[[], list[Tensor]]:
    """The result and, in training, the gradients of its mean square."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run() -> list[Tensor]:
        model.train(training)
        torch.manual_seed(1)  # the same dropout
        with torch.set_grad_enabled(training):
            y = call(model)
        if not training:
            return [y]
        gradients = torch.autograd.grad(y.square().mean(), parameters, allow_unused=True)
        return [y.detach(), *(g for g in gradients if g is not None)]

    return run


def largest_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Over the largest value of the tensor, or over a thousandth of that of all: some gradients are zero but for
    rounding, such as that of a bias before a softmax."""
    largest = [float(t.abs().max()) for t in expected]
    scales = [max(value, 1e-3 * max(largest)) for value in largest]
    pairs = zip(expected, found, scales, strict=True)
    return max((float((a - b).abs().max()) / scale for a, b, scale in pairs), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.packages", description="Models of other packages.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="packages; by default all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few short rounds: a rough look")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    budget = Budget(0.1, 3, 3, 0.01) if options.quick else Budget(1, 5, 20, 0.05)
    logging.disable()
    warnings.simplefilter("ignore")  # the packages'

    results, missing = [], {}
    for package, model in MODELS:
        if not options.names or package in options.names:
            try:
                results += compare(package, model, budget)
            except ImportError as error:
                missing[package] = error
    machine = describe(options.threads)
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "threads", "load")))
    print(format_table(_HEADER, [result.row() for result in results], 5, markdown=False))
    for package, error in missing.items():
        print(f"skipped: {package}, {error}")


if __name__ == "__main__":
    main()
