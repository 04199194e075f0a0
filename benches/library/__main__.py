"""One step of one row through a layer, from C. ``python -m benches.library``.

libfastrnn in float32, bfloat16 and int8 beside ONNX Runtime, by its C interface, and code on Eigen, in the way of
RTNeural, on the same weights and inputs. All run on one thread, in turn, each in a process of its own; times are of
single calls, so that the longest are seen. Errors are those of the output over 100 steps against float64.

It needs Eigen's headers (Debian: libeigen3-dev) and those of ONNX Runtime's C interface, as its releases have them; the
library itself is that of the Python package. A peer whose headers are not there is left out, and said to be.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastrnn
from benches.machine import describe
from benches.results import save
from benches.table import format_table

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SIZES, CELLS, FORMATS = (64, 128, 256), ("lstm", "gru"), ("float32", "bfloat16", "int8")
EIGEN, ONNXRT = "eigen", "onnxrt"
STEPS = 100
# About twice the largest errors of these cases: more is a mistake.
ALLOWED = {"float32": 5e-6, "bfloat16": 1.5e-2, "int8": 1.5e-2, EIGEN: 5e-6, ONNXRT: 5e-6}


@dataclass(frozen=True)
class Result:
    """Times in seconds of single calls; ``start`` from the beginning of the program to the first output."""

    cell: str
    hidden: int
    provider: str
    max_error: float
    start: float
    least: float
    q1: float
    median: float
    q3: float
    permille: float
    most: float
    calls: int


@dataclass(frozen=True)
class Case:
    """A layer's files in a folder, its inputs and what float64 gives for them."""

    cell: str
    hidden: int
    files: dict[str, Path]
    x: torch.Tensor
    exact: torch.Tensor


def programs(folder: Path, eigen: Path, onnxruntime: Path | None) -> dict[str, list[Any]]:
    """By provider, what runs a case."""
    library = ROOT / "build/library"
    _run("make", f"-j{os.cpu_count()}", "-f", ROOT / "csrc/library.mk", f"OUT={library}", cwd=ROOT)
    link = [f"-L{library}", "-lfastrnn", f"-Wl,-rpath,{library}"]
    _run("cc", "-std=c99", "-O2", f"-I{ROOT / 'csrc/library'}", HERE / "fastrnn.c", "-o", folder / "fastrnn", *link)
    found: dict[str, list[Any]] = {name: [folder / "fastrnn"] for name in FORMATS}
    if (eigen / "Eigen/Dense").exists():
        flags = ["-std=c++17", "-O3", "-march=native", "-DNDEBUG", "-DEIGEN_STACK_ALLOCATION_LIMIT=0", f"-I{eigen}"]
        _run("c++", *flags, HERE / "eigen.cpp", "-o", folder / EIGEN)
        found[EIGEN] = [folder / EIGEN]
    if onnxruntime is not None:
        import onnxruntime as package

        (shared,) = (Path(package.__file__).parent / "capi").glob("libonnxruntime.so.*")
        (folder / "libonnxruntime.so.1").symlink_to(shared)  # the name by which programs look for it
        link = [folder / "libonnxruntime.so.1", f"-Wl,-rpath,{folder}"]
        _run("cc", "-std=c99", "-O2", f"-I{onnxruntime}", HERE / "onnx.c", "-o", folder / ONNXRT, *link)
        found[ONNXRT] = [folder / ONNXRT]
    return found


def make_case(cell: str, hidden: int, folder: Path) -> Case:
    torch.manual_seed(0)
    layer = getattr(fastrnn, cell.upper())(hidden, hidden, batch_first=True)
    x = torch.randn(STEPS, hidden)
    with torch.no_grad():
        exact = getattr(nn, cell.upper())(hidden, hidden, dtype=torch.float64)
        exact.load_state_dict(layer.state_dict())
        y = exact(x.double())[0]
    files = {name: folder / f"{cell}-{hidden}-{name}" for name in FORMATS}
    for name, path in files.items():
        fastrnn.export(layer, path, name)
    files[EIGEN], files[ONNXRT] = folder / f"{cell}-{hidden}", folder / f"{cell}-{hidden}.onnx"
    files[EIGEN].write_bytes(b"".join(p.detach().numpy().tobytes() for p in layer.parameters()))
    fastrnn.export(layer, files[ONNXRT], format="onnx")
    return Case(cell, hidden, files, x, y)


_MEDIANS = ("start", "q1", "median", "q3", "permille")


def measure(case: Case, providers: dict[str, list[Any]], calls: int, rounds: int) -> list[Result]:
    """The providers take turns; of the rounds the medians, of the longest times the longest."""
    seen: dict[str, list[Result]] = {name: [] for name in providers}
    for _ in range(rounds):
        for name, command in providers.items():
            seen[name].append(_time(case, name, command, calls))
    results = []
    for times in seen.values():
        columns = {name: statistics.median(getattr(t, name) for t in times) for name in _MEDIANS}
        columns |= {"least": min(t.least for t in times), "most": max(t.most for t in times)}
        results.append(Result(**(vars(times[0]) | columns | {"calls": calls * rounds})))
    return results


def _time(case: Case, name: str, command: list[Any], calls: int) -> Result:
    output = case.files[name].with_suffix(".output")
    done = subprocess.run(
        [*map(str, command), case.files[name], output, str(calls)], input=case.x.numpy().tobytes(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    y = torch.frombuffer(bytearray(output.read_bytes()), dtype=torch.float32).view(case.exact.shape)
    error = (y - case.exact).abs().max().item()
    assert error <= ALLOWED[name], f"{case.cell} {case.hidden}, {name}: error {error:.1e}, allowed {ALLOWED[name]:.0e}"
    return Result(case.cell, case.hidden, name, error, *(float(v) * 1e-9 for v in done.stdout.split()), calls)


def _run(*command: Any, cwd: Path | None = None) -> None:
    subprocess.run([*map(str, command)], check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def line(result: Result, float32: Result) -> list[str]:
    times = [result.median, result.q3, result.permille, result.most]
    ratio = result.median / float32.median
    shown = [f"{t * 1e6:.2f}" for t in times] + [f"{ratio:.2f}", f"{result.start * 1e3:.2f}", f"{result.max_error:.1e}"]
    return [result.cell, str(result.hidden), result.provider, *shown]


HEADER = ["cell", "H = I", "layer", "median us", "q3", "0.999", "most", "of float32", "start ms", "max error"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.library", description="One step of a layer from C.")
    parser.add_argument("--calls", type=int, default=20000, help="of a layer in a round; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--only", choices=(*FORMATS, EIGEN, ONNXRT), nargs="+", help="these providers; default: all")
    parser.add_argument("--cell", choices=CELLS, nargs="+", default=CELLS, help="default: both")
    text = "folder of Eigen's headers; default: %(default)s"
    parser.add_argument("--eigen", type=Path, default=Path("/usr/include/eigen3"), metavar="DIR", help=text)
    parser.add_argument("--onnxruntime", type=Path, metavar="DIR", help="folder of onnxruntime_c_api.h")
    text = "give the programs real-time priority, as an audio thread has: then other processes hardly count"
    parser.add_argument("--realtime", action="store_true", help=text)
    parser.add_argument("--hidden", type=int, choices=SIZES, nargs="+", default=SIZES, help="default: all")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/NAME.json")
    options = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        providers = programs(folder, options.eigen, options.onnxruntime)
        for name in {EIGEN, ONNXRT} - providers.keys():
            print(f"{name}: left out, its headers are not there")
        first = ["chrt", "--fifo", "50"] if options.realtime else []
        chosen = {
            name: [*first, *command] for name, command in providers.items() if name in (options.only or providers)
        }
        for cell in options.cell:
            for hidden in options.hidden:
                results += measure(make_case(cell, hidden, folder), chosen, options.calls, options.rounds)
    machine = describe(1) | {"realtime": options.realtime}
    print("  ".join(f"{key} {machine[key]}" for key in ("cpu", "isa", "load")))
    base = {(r.cell, r.hidden): r for r in reversed(results)}
    print(format_table(HEADER, [line(r, base[r.cell, r.hidden]) for r in results], 3, options.markdown))
    if options.save:
        print(f"written: {save(options.save, machine, results)}")


if __name__ == "__main__":
    main()
