"""``fastrnn.freeze`` at batch size 1: errors against float64, then times in turn. ``python -m benches.frozen``.

Peers are float32 fastrnn and the int8 layers of ``torch.ao.quantization``, which compute products in int8 with 8-bit
activations. Errors are those of the output over all steps, with PyTorch's initial weights and a normal input.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastrnn
from benches.cases import Case
from benches.gpu.clock import HostClock, race
from benches.machine import describe
from benches.results import save
from fastrnn.bench.text import format_table
from fastrnn.bench.timing import Quartiles
from fastrnn.bench.verify import check_fastrnn
from fastrnn.bench.workload import Workload, build, converted, make_workload

FLOAT32, PEER = "float32", "torch int8"
CASES = [Case("frozen", cell, 1, 100, size, size) for cell in ("lstm", "gru", "cifg") for size in (128, 256, 512)]
# About twice the largest errors of these cases: more is a mistake.
_ALLOWED = {FLOAT32: 2e-6, "bfloat16": 1e-2, "int8": 1.5e-2, PEER: 6e-2}


@dataclass(frozen=True)
class Result:
    """One layer. ``ratio`` is the time of float32 fastrnn over its own: above 1, it is faster."""

    case: Case
    layer: str
    max_error: float
    rms_error: float
    seconds: Quartiles | None = None
    ratio: Quartiles | None = None


def layers_of(work: Workload) -> dict[str, nn.Module]:
    """Float32 first."""
    plain = build(fastrnn, work.case, work.weights, torch.float32).eval()
    layers = {FLOAT32: plain}
    for weights in ("bfloat16", "int8"):
        layers[weights] = fastrnn.freeze(copy.deepcopy(plain), weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated in favour of a package of its own
        holder = nn.Sequential(build(nn, work.case, work.weights, torch.float32))
        layers[PEER] = torch.ao.quantization.quantize_dynamic(holder, {nn.LSTM, nn.GRU}, torch.qint8)[0]
    return layers


def errors_of(layers: dict[str, nn.Module], work: Workload) -> dict[str, Tensor]:
    """Of every value of the output, checked."""
    check_fastrnn(work, training=False)
    wide = converted(work, torch.float64)
    exact = build(nn, work.case, wide.weights, torch.float64)(wide.values)[0]
    errors = {name: layer(work.values)[0].double() - exact for name, layer in layers.items()}
    for name, error in errors.items():
        largest = error.abs().max().item()
        assert largest <= _ALLOWED[name], f"{work.case.id}, {name}: error {largest:.2e}, allowed {_ALLOWED[name]:.0e}"
    return errors


def measure(case: Case, seconds: float) -> list[Result]:
    work = make_workload(case)
    layers = layers_of(work)
    results = {
        name: Result(case, name, error.abs().max().item(), error.square().mean().sqrt().item())
        for name, error in errors_of(layers, work).items()
    }
    if seconds == 0:
        return list(results.values())
    runs: dict[str, Callable[[], object]] = {
        name: lambda layer=layer: layer(work.values) for name, layer in layers.items()
    }
    times = race(HostClock(), runs, seconds)
    return [
        Result(**(vars(result) | {"seconds": Quartiles.of(times.seconds[name]), "ratio": times.ratio(FLOAT32, name)}))
        for name, result in results.items()
    ]


def line(result: Result) -> list[str]:
    errors = [f"{result.max_error:.1e}", f"{result.rms_error:.1e}"]
    times = ["", "", ""]
    if result.seconds and result.ratio:
        ratio = result.ratio
        times = [f"{result.seconds.median * 1e6:.0f}", f"{ratio.median:.2f}", f"{ratio.q1:.2f}-{ratio.q3:.2f}"]
    return [result.case.cell, str(result.case.hidden_size), result.layer, *errors, *times]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.frozen", description="Errors and times of frozen layers.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0, help="for the times of one case; 0 for errors alone")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = describe(options.threads)
    with torch.inference_mode():
        results = [result for case in CASES for result in measure(case, options.seconds)]
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "threads", "load")))
    header = ["cell", "H = I", "layer", "max error", "rms error", "us", "vs float32", "quartiles"]
    print(format_table(header, [line(result) for result in results], 3, markdown=False))
    if options.save:
        print(f"written: {save(options.save, machine, results)}")


if __name__ == "__main__":
    main()
