"""``python -m fastrnn compile --sweep``: kernels of layers drawn at random, compiled and kept in a table."""

import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import torch
import triton

from fastrnn.backends.triton.ahead import Case, kernels_of, progress, row_of, stop_if_interpreted
from fastrnn.backends.triton.build import reason_against
from fastrnn.backends.triton.compiler import Job, compile_all
from fastrnn.backends.triton.kernel import sources_fingerprint
from fastrnn.backends.triton.noise import NOISE
from fastrnn.backends.triton.plans import DEVICES, make_plan
from fastrnn.spec import CELLS, LayerSpec

__all__ = ["LARGEST", "Sweep", "draws", "run"]

LARGEST = 2048  # hidden units
_BATCHES = (1, 16, 64, 256)
_DTYPES = ("bfloat16", "float16", "float32")
_FLAGS = ("ragged", "save", "states", "tf32", "mask", "zoneout", "expected", "norm")
_FACTS = ("target", "cell", "dtype", "hidden", "regime", "kernel", "tile", *_FLAGS)
_COLUMNS = ("triton", "sources", "seed", "draw", *_FACTS, "registers", "spilled", "shared", "fault")
# The table is written after so many kernels, and its beginning is what a sweep that was ended goes on from.
_AT_ONCE = 50


@dataclass(frozen=True)
class Sweep:
    """
    Attributes:
        targets: names in ``DEVICES``; those that this Triton does not know are left out.
        table: a CSV file, which is continued.
        count: draws in all, those of the file among them.
        processes: how many kernels are compiled at a time.
    """

    targets: Sequence[str]
    table: Path
    seed: int
    count: int
    processes: int


def run(sweep: Sweep) -> bool:
    """Whether all kernels of the table are fit for use."""
    stop_if_interpreted()
    targets = []
    for target in sweep.targets:
        reason = reason_against(DEVICES[target])
        print(f"without {target}: {reason}") if reason else targets.append(target)
    facts = {"triton": triton.__version__, "sources": _sources(), "seed": sweep.seed}
    rows = _read(sweep.table, facts)
    numbered = enumerate(islice(draws(sweep.seed, targets), sweep.count))
    ahead = islice(numbered, len(rows), None)
    with sweep.table.open("a", newline="") as file:
        table = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        if not rows:
            table.writeheader()
        for new in progress(_compiled(ahead, sweep.processes), max(0, sweep.count - len(rows))):
            row = {name: str(value) for name, value in (facts | new).items()}
            table.writerow(row)
            file.flush()
            rows.append(row)
    faulty = [row for row in rows if row["fault"]]
    sizes = {row["hidden"] for row in rows}
    print(f"{len(rows)} kernels of {len(sizes)} sizes from seed {sweep.seed}, {len(faulty)} faulty")
    for row in faulty:
        print(", ".join(f"{name} {row[name]}" for name in (*_FACTS, "fault")), file=sys.stderr)
    return not faulty


def draws(seed: int, targets: Sequence[str]) -> Iterator[tuple[Case, Job]]:
    """A kernel each of a layer of any cell, dtype, batch and size, some with noise, some normalised, the same for the
    same seed and targets."""
    random = Random(seed)
    for number in count():
        case = _case(number, random, targets)
        # Its kernels are small and alike at all sizes: of four, one is enough.
        while case.plan.regime == "stepwise" and random.random() < 0.75:
            case = _case(number, random, targets)
        every_state = len(case.spec.facts.states) > 1 and random.random() < 0.5
        options: dict[str, Any] = {"ragged": random.random() < 0.5, "every_state": every_state, "inference": True}
        options["noise"] = NOISE[case.noise]
        kernel = random.choice(kernels_of(case.spec, case.plan, case.hidden, getattr(torch, case.dtype), **options))
        yield case, Job(case.plan.device, kernel)


def _case(number: int, random: Random, targets: Sequence[str]) -> Case:
    target, cell, dtype = random.choice(targets), random.choice(list(CELLS)), random.choice(_DTYPES)
    hidden, batch, directions = _hidden(number, random), random.choice(_BATCHES), random.choice((1, 2))
    norm, tf32 = random.random() < 0.25, random.random() < 0.8
    noise = random.choice(list(NOISE)) if random.random() < 0.5 else "none"
    spec = LayerSpec(cell, directions, layer_norm=norm, gates_given=norm)
    plan = make_plan(spec, batch, hidden, getattr(torch, dtype), tf32, DEVICES[target])
    return Case(target, spec, hidden, dtype, batch, plan, noise)


def _hidden(number: int, random: Random) -> int:
    """In turn one of the small sizes, of those about multiples of 16, at which tiles are full, and of all."""
    match number % 3:
        case 0:
            return 1 + number // 3 % 64
        case 1:
            about = 16 * random.randint(1, LARGEST // 16) + random.choice((-4, -1, 0, 0, 1, 4))
            return min(LARGEST, about)
        case _:
            return random.randint(1, LARGEST)


def _compiled(numbered: Iterator[tuple[int, tuple[Case, Job]]], processes: int) -> Iterator[dict[str, Any]]:
    while part := list(islice(numbered, _AT_ONCE * processes)):
        jobs = [job for _, (_, job) in part]
        for (number, (case, job)), outcome in zip(part, compile_all(jobs, processes, None), strict=True):
            tile = case.plan.forward if job.kernel.name.endswith("forward") else case.plan.backward
            row = row_of(job, case, tile, outcome)
            if not row["fault"] and tile and row["shared"] > tile.shared:
                row["fault"] = f"takes {row['shared']:,} bytes of shared memory, the plan says {tile.shared:,}"
            flags = {name: int(row[name]) for name in _FLAGS}
            yield {**row, **flags, "draw": number, "fault": row["fault"] or ""}


def _sources() -> str:
    """Changes with the kernels, how they are compiled, and the plans."""
    plans = Path(__file__).with_name("plans.py").read_bytes()
    return hashlib.sha256(sources_fingerprint().encode() + plans).hexdigest()[:8]


def _read(path: Path, facts: dict[str, Any]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name, expected in facts.items():
            if row.get(name) != str(expected):
                raise SystemExit(
                    f"python -m fastrnn compile: {path} has a sweep of {name} {row.get(name)}, here is {expected}"
                )
    return rows
