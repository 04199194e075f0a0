"""The command: one layer after another, in a process of its own, so that a crash is told by its seed too."""

import argparse
import faulthandler
import multiprocessing
import random
import sys
import time
import warnings
from collections import Counter
from typing import Any

from fastrnn import _C
from fastrnn.spec import CELLS

from .compute import failures
from .layer import DTYPES, FORMATS, draw
from .shrink import shrink

_TOLD = 2  # the exit status of the process that has told of a failure itself
_PATIENCE = 120.0  # seconds for one layer


def _report(found: Counter[tuple[str, str]], layers: int, seconds: float) -> str:
    columns = [*DTYPES, *(f"frozen {name}" for name in FORMATS), *_C.runnable_isas(), "packed", "gradients"]
    lines = [["", "layers", *columns]]
    for cell in CELLS:
        lines.append([cell, *(str(found[cell, column]) for column in ["layers", *columns])])
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    table = "\n".join("  ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) for line in lines)
    return f"{layers} layers in {seconds:.0f} s, all right\n{table}"


def _run(options: argparse.Namespace, current: Any) -> None:
    """In a process of its own."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    begin, done, found = time.monotonic(), 0, Counter[tuple[str, str]]()
    while done < options.layers if options.layers else time.monotonic() - begin < 60 * options.minutes:
        seed = current.value = options.seed + done
        layer = draw(seed)
        wrong = failures(layer)
        if wrong:
            print(f"python -m tests.fuzz --seed {seed} --layers 1: {'; '.join(wrong)}\n{layer}", flush=True)
            current.value = -1  # making it smaller takes long
            small = shrink(layer, lambda other: bool(failures(other)))
            print(f"smaller: {small}\n{small!r}\n{'; '.join(failures(small))}")
            sys.exit(_TOLD)
        done += 1
        kinds = ["layers", f"frozen {layer.frozen}" if layer.frozen else layer.dtype, layer.isa]
        kinds += ["packed"] * (layer.form == "packed") + ["gradients"] * (not layer.inference)
        found.update((layer.cell, kind) for kind in kinds)
    print(_report(found, done, time.monotonic() - begin))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random layers against the reference.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--layers", type=int, default=0, help="as many instead, whatever time they take")
    parser.add_argument("--seed", type=int, help="of the first layer; each has the next. Without it, a random one")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(10**9)
    print(f"seed {options.seed}", flush=True)
    # What crashes or waits for ever is told by its seed too.
    context = multiprocessing.get_context("spawn")
    current = context.Value("q", -1)
    process = context.Process(target=_run, args=(options, current), daemon=True)
    process.start()
    before = -1
    while process.is_alive():
        process.join(_PATIENCE)
        if process.is_alive() and current.value == before != -1:
            process.kill()
            print(f"python -m tests.fuzz --seed {before} --layers 1: no answer in {_PATIENCE:.0f} s\n{draw(before)}")
            return 1
        before = current.value
    if process.exitcode not in (0, _TOLD):
        told = f"the process ended with code {process.exitcode}"
        print(f"python -m tests.fuzz --seed {current.value} --layers 1: {told}\n{draw(max(current.value, 0))}")
    return 1 if process.exitcode else 0
