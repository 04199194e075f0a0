"""The command line: ``python -m fastrnn``; what belongs to the examples is in ``fastrnn.examples.command``."""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastrnn
from fastrnn.backends import cpu
from fastrnn.backends import triton as triton_backend
from fastrnn.backends.triton.noise import NOISE
from fastrnn.backends.triton.plans import DEVICES
from fastrnn.bench import MODES
from fastrnn.bench import command as benchmark
from fastrnn.examples import command as examples
from fastrnn.examples.arguments import picture, positive, reporting
from fastrnn.examples.checkpoint import load_best
from fastrnn.exporting.describe import FORMATS
from fastrnn.exporting.exporter import FILE_FORMATS
from fastrnn.ops.dispatch import BACKENDS
from fastrnn.spec import CELLS
from fastrnn.testing import IN_TORCH, TIED

_DTYPES = ("bfloat16", "float16", "float32", "float64")
_MEASURED = ("bfloat16", "float32", "float64")  # in which benchmarks have a rule of accuracy


def info(args: argparse.Namespace) -> None:
    rows = list(_info())
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _info() -> Iterator[tuple[str, str]]:
    yield "fastrnn", _version()
    yield "torch", torch.__version__
    yield "Python", platform.python_version()
    yield "processor", f"{cpu.processor()}, {_cores()} usable cores"
    yield "threads", f"{torch.get_num_threads()} (torch.set_num_threads)"
    if cpu.extension is None:
        yield "extension", f"no: {cpu.missing}"
    else:
        yield "extension", "yes"
        yield "library", f"{cpu.library}"
        yield "OpenMP", cpu.extension.openmp_library() or "no, the kernels run on one thread"
        chosen = "FASTRNN_CPU_ISA" if os.environ.get("FASTRNN_CPU_ISA") else "default"
        yield "instruction set", f"{cpu.extension.isa()}, chosen by {chosen}"
        yield "machine", cpu.machine()
        yield "FASTRNN_CPU_ISA", f"takes {', '.join(cpu.extension.runnable_isas())} with this build and processor"
    for backend in BACKENDS:
        yield f"backend {backend.NAME}", f"no: {backend.missing}" if backend.missing else "yes"
    yield "CUDA", _cuda()
    if not triton_backend.missing:
        yield "Triton", _triton()
    folder = os.environ.get("FASTRNN_KERNELS")
    if folder:
        absent = "" if Path(folder, triton_backend.MANIFEST).exists() else f", no {triton_backend.MANIFEST} in it"
        yield "FASTRNN_KERNELS", folder + absent


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version() -> str:
    try:
        return importlib.metadata.version("fastrnn")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, run from its sources"


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "no device"
    device = torch.cuda.get_device_name()
    if triton_backend.missing:
        return f"{device}; {triton_backend.missing}, so CUDA tensors run on the reference"
    return device


def _triton() -> str:
    names = importlib.metadata.packages_distributions().get("triton", [])  # that of PyTorch for AMD has another name
    return ", ".join(importlib.metadata.version(name) for name in names) or "of unknown version"


def compile_ahead(args: argparse.Namespace) -> None:
    if triton_backend.missing:
        sys.exit(f"python -m fastrnn compile: {triton_backend.missing}; pip install triton")
    if args.sweep:
        from fastrnn.backends.triton import sweep

        targets = args.target or list(DEVICES)
        sys.exit(not sweep.run(sweep.Sweep(targets, args.sweep, args.seed, args.draws, args.jobs)))
    missing = [f"--{name}" for name in ("target", "hidden") if getattr(args, name) is None]
    if missing:
        args.refuse(f"the following arguments are required: {', '.join(missing)}")
    from fastrnn.backends.triton import ahead  # imports Triton, which takes longer than the rest of fastrnn

    layers = (args.target, args.cell, args.hidden, args.dtype, args.batch, args.noise)
    request = ahead.Request(*layers, args.output, args.json, args.jobs, _version(), args.layer_norm)
    sys.exit(not ahead.run(request))


def measure(args: argparse.Namespace) -> None:
    if cpu.extension is None:
        sys.exit(f"python -m fastrnn measure: {cpu.missing}")
    args.file.write_text("".join(f"{name} {value:.4g}\n" for name, value in cpu.measure().items()))
    print(f"written; FASTRNN_MACHINE={args.file} plans with it")


def export(args: argparse.Namespace) -> None:
    program = "python -m fastrnn export"
    with reporting(program):
        try:
            made = fastrnn.export(_model_of(args.model), args.file, args.weights, args.format)
        except (TypeError, ValueError, RuntimeError, ImportError) as error:
            sys.exit(f"{program}: {error}")
    print(
        f"{made.path}: {made.bytes} bytes, largest difference from the model {made.error:.1e} "
        f"beside {made.magnitude:.1e}"
    )


def _model_of(path: Path) -> torch.nn.Module:
    if path.is_dir():
        return load_best(path, torch.device("cpu"))[1]
    model = torch.load(path, weights_only=False, map_location="cpu")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{path}: expected a module that torch.save has written whole, got {type(model).__name__}")
    return model


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "write a model for programs without Python, and compare what the file computes with the model"
    command = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=export)
    text = "the folder of a training, or a module that torch.save has written whole: reading that one runs its code"
    command.add_argument("model", type=Path, metavar="MODEL", help=text)
    command.add_argument("file", type=_new_file, metavar="FILE", help="to write")
    text = "c: for libfastrnn, safetensors; onnx: for ONNX Runtime; pt2: of AOTInductor; default: %(default)s"
    command.add_argument("--format", choices=FILE_FORMATS, default="c", help=text)
    text = "how matrices are stored; default: %(default)s"
    command.add_argument("--weights", choices=FORMATS, default="float32", help=text)


def _add_measure(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "measure this machine's rates, which layers are planned with, on a core that is not busy otherwise"
    command = commands.add_parser("measure", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=measure)
    command.add_argument("file", type=_new_file, metavar="FILE", help="for FASTRNN_MACHINE=FILE")


def _add_compile(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "compile the kernels for GPUs that need not be here, and check what they take"
    command = commands.add_parser("compile", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=compile_ahead, refuse=command.error)

    several = partial(_add_several, command)
    several("--target", None, choices=DEVICES, help="architectures")
    several("--cell", list(CELLS), choices=CELLS, help="cells")
    several("--hidden", None, type=_positive, metavar="H", help="hidden sizes")
    several("--dtype", ["bfloat16", "float16", "float32"], choices=_DTYPES, help="types of tensors")
    several(
        "--batch", [1, 16, 64, 256], type=_positive, metavar="B", help="rows, which the choice of kernels depends on"
    )
    several("--noise", ["none"], choices=NOISE, help="recurrent dropout and zoneout of the layers")
    command.add_argument("--layer-norm", action="store_true", help="the layers are normalised")
    text = "new or empty folder for the kernels; FASTRNN_KERNELS=DIR uses them"
    command.add_argument("--output", type=_new_folder, metavar="DIR", help=text)
    command.add_argument("--json", type=_new_file, metavar="FILE", help="write plans and table to FILE")
    text = "kernels compiled at a time; default: %(default)s"
    command.add_argument("--jobs", type=_positive, default=_cores(), metavar="N", help=text)
    sweep = command.add_argument_group("kernels at random", "of any cell, dtype and hidden size up to 2048")
    text = (
        "compile these instead and write a table; one that was ended goes on. Of the above, --target and --jobs count"
    )
    sweep.add_argument("--sweep", type=_new_file, metavar="FILE", help=text)
    sweep.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    sweep.add_argument(
        "--draws", type=_positive, default=10_000, metavar="N", help="kernels; default: %(default)s, hours"
    )


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "how fast layers of your shapes are here, beside torch.nn, ONNX Runtime and OpenVINO"
    note = "Several values of a size or cell are timed in all combinations. The peers besides torch.nn only infer."
    command = commands.add_parser("bench", help=text, description=f"{text[0].upper()}{text[1:]}. {note}")
    command.set_defaults(run=bench)
    several = partial(_add_several, command)
    several("--cell", ["lstm"], choices=[*IN_TORCH, *TIED], help="cells")
    several("--batch", [32], type=_positive, metavar="B", help="rows")
    several("--steps", [100], type=_positive, metavar="T", help="steps")
    several("--input", [128], type=_positive, metavar="I", help="input sizes")
    several("--hidden", [256], type=_positive, metavar="H", help="hidden sizes")
    several("--mode", list(MODES), choices=MODES, help="what is timed; training is forward and backward")
    command.add_argument("--layers", type=_positive, default=1, metavar="L", help="stacked; default: %(default)s")
    command.add_argument("--bidirectional", action="store_true", help="both directions")
    command.add_argument("--ragged", action="store_true", help="a packed batch of rows of half the steps on average")
    command.add_argument("--dtype", default="float32", choices=_MEASURED, help="of the tensors; default: %(default)s")
    text = "float32 that is multiplied as bfloat16, as torch.backends.mkldnn.rnn.fp32_precision allows"
    command.add_argument("--as-bf16", action="store_true", help=text)
    text = "threads of everyone; default: as torch chooses"
    command.add_argument("--threads", type=_positive, metavar="N", help=text)
    text = "to time the slowest in each race; default: %(default)s"
    command.add_argument("--seconds", type=positive(float), default=1.0, metavar="S", help=text)
    text = "of the picture, .png, .pdf or .svg; default: %(default)s"
    command.add_argument("--output", type=picture, default=Path("bench.png"), metavar="FILE", help=text)


def bench(args: argparse.Namespace) -> None:
    if args.as_bf16 and args.dtype != "float32":
        sys.exit(f"python -m fastrnn bench: --as-bf16: expected --dtype float32, got {args.dtype}")
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = (args.batch, args.steps, args.input, args.hidden)
    options = (args.layers, args.bidirectional, args.ragged, args.dtype, args.as_bf16)
    try:
        benchmark.run(benchmark.Request(args.cell, *sizes, args.mode, *options, args.seconds, args.output))
    except AssertionError as error:
        sys.exit(f"python -m fastrnn bench: not timed, for the results are wrong: {error}")


def _add_several(command: argparse.ArgumentParser, name: str, default: list | None, **kind: Any) -> None:
    shown = f"{kind.pop('help')}; default: {' '.join(map(str, default))}" if default else kind.pop("help")
    command.add_argument(name, nargs="+", action=_Several, default=default, help=shown, **kind)


class _Several(argparse.Action):
    """An option with several values, which may also be given several times. Unlike "extend" it replaces the default."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else before + values)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _new_folder(text: str) -> Path:
    folder = Path(text)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise argparse.ArgumentTypeError(f"expected a new or an empty folder, {text!r} is neither")
    return folder


def _new_file(text: str) -> Path:
    file = Path(text)
    if file.is_dir() or not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, got {text!r}")
    return file


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastrnn", description="torch.nn's recurrent layers, faster.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("info", help="what this build and this machine can run")
    command.set_defaults(run=info)
    _add_bench(commands)
    _add_compile(commands)
    _add_export(commands)
    _add_measure(commands)
    examples.add(commands)
    return parser


def main() -> None:
    args = parser().parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
