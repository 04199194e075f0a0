"""The command line: ``python -m fastrnn``; what belongs to the examples is in ``fastrnn.examples.command``."""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastrnn.backends import cpu
from fastrnn.backends import triton as triton_backend
from fastrnn.backends.triton.plans import DEVICES
from fastrnn.examples import command as examples
from fastrnn.ops.dispatch import BACKENDS
from fastrnn.spec import CELLS

_DTYPES = ("bfloat16", "float16", "float32", "float64")


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

    request = ahead.Request(
        args.target, args.cell, args.hidden, args.dtype, args.batch, args.output, args.json, args.jobs, _version()
    )
    sys.exit(not ahead.run(request))


def measure(args: argparse.Namespace) -> None:
    if cpu.extension is None:
        sys.exit(f"python -m fastrnn measure: {cpu.missing}")
    args.file.write_text("".join(f"{name} {value:.4g}\n" for name, value in cpu.measure().items()))
    print(f"written; FASTRNN_MACHINE={args.file} plans with it")


def _add_measure(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "measure this machine's rates, which layers are planned with, on a core that is not busy otherwise"
    command = commands.add_parser("measure", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=measure)
    command.add_argument("file", type=_new_file, metavar="FILE", help="for FASTRNN_MACHINE=FILE")


def _add_compile(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "compile the kernels for GPUs that need not be here, and check what they take"
    command = commands.add_parser("compile", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=compile_ahead, refuse=command.error)

    def several(name: str, default: list | None, **kind: Any) -> None:
        shown = f"{kind.pop('help')}; default: {' '.join(map(str, default))}" if default else kind.pop("help")
        command.add_argument(name, nargs="+", action=_Several, default=default, help=shown, **kind)

    several("--target", None, choices=DEVICES, help="architectures")
    several("--cell", list(CELLS), choices=CELLS, help="cells")
    several("--hidden", None, type=_positive, metavar="H", help="hidden sizes")
    several("--dtype", ["bfloat16", "float16", "float32"], choices=_DTYPES, help="types of tensors")
    several(
        "--batch", [1, 16, 64, 256], type=_positive, metavar="B", help="rows, which the choice of kernels depends on"
    )
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastrnn", description="torch.nn's recurrent layers, faster.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("info", help="what this build and this machine can run")
    command.set_defaults(run=info)
    _add_compile(commands)
    _add_measure(commands)
    examples.add(commands)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
