"""The command: ``python -m benches.gpu [OPTIONS]``."""

import argparse
import sys
from pathlib import Path

import torch

from benches.gpu.cases import label, plan_of
from benches.gpu.child import Child
from benches.gpu.precision import PRECISIONS
from benches.gpu.run import PARTS, Options, run
from fastrnn.backends.triton.plans import DEVICES
from fastrnn.spec import CELLS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.gpu", description="Checks and times fastrnn on a GPU.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--only", nargs="+", choices=list(CELLS), metavar="CELL", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--dtype", nargs="+", choices=list(PRECISIONS), help="float32 as tf32 or ieee; timed: not ieee")
    parser.add_argument("--hidden", nargs="+", type=int, metavar="H", help="hidden sizes that are timed")
    parser.add_argument("--batch", nargs="+", type=int, metavar="B", help="batch sizes that are timed")
    parser.add_argument("--save", type=Path, metavar="FILE", help="default: benches/out/gpu-<device>.json")
    parser.add_argument("--budget", type=float, default=520.0, metavar="SECONDS", help="no case starts after them")
    given = parser.parse_args()
    options = Options(
        parts=given.part,
        cells=given.only or list(CELLS),
        precisions=given.dtype or list(PRECISIONS),
        hidden=given.hidden or [],
        batches=given.batch or [],
        save=given.save,
        budget=given.budget,
    )
    if torch.cuda.is_available():
        return run(options, Child())
    device = DEVICES["sm_90"]
    print(f"the plans of what is timed, on an {device.name}:")
    for case in options.cases():
        print(f"{label(case)}: {plan_of(case, device)}")
    print("no CUDA device was found: checks, barrier and speed were not run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
