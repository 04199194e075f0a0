"""The command line: ``python -m fastrnn info``."""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

from fastrnn.backends import cpu
from fastrnn.dispatch import BACKENDS, reasons_against


def info(args: argparse.Namespace) -> None:
    rows = list(_info())
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _info() -> Iterator[tuple[str, str]]:
    yield "fastrnn", _version()
    yield "torch", torch.__version__
    yield "Python", platform.python_version()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "processor", f"{cpu.processor()}, {cores} usable cores"
    yield "threads", f"{torch.get_num_threads()} (torch.set_num_threads)"
    if cpu.extension is None:
        yield "extension", f"no: {cpu.missing}"
    else:
        yield "extension", "yes"
        yield "OpenMP", "yes" if cpu.extension.built_with_openmp() else "no, the kernels run on one thread"
        chosen = "FASTRNN_CPU_ISA" if os.environ.get("FASTRNN_CPU_ISA") else "default"
        yield "instruction set", f"{cpu.extension.isa()}, chosen by {chosen}"
        yield "FASTRNN_CPU_ISA", f"takes {', '.join(cpu.extension.runnable_isas())} with this build and processor"
    for backend in BACKENDS:
        yield f"backend {backend.NAME}", f"no: {backend.missing}" if backend.missing else "yes"
    yield "CUDA", _cuda()


def _version() -> str:
    try:
        return importlib.metadata.version("fastrnn")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, run from its sources"


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "no device"
    device = torch.cuda.get_device_name()
    if all(reasons_against("lstm", torch.device("cuda"), torch.float32).values()):
        return f"{device}; no fused GPU kernels in this version: CUDA tensors run on the reference"
    return device


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastrnn", description="torch.nn's recurrent layers, faster.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("info", help="what this build and this machine can run")
    command.set_defaults(run=info)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
