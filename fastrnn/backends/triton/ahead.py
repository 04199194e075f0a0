"""``python -m fastrnn compile``: the kernels that plans would launch, compiled without a GPU, measured and kept."""

import importlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton

from fastrnn.backends.triton import MANIFEST, persistent, stepwise
from fastrnn.backends.triton.build import reason_against
from fastrnn.backends.triton.compiler import Job, Outcome, compile_all
from fastrnn.backends.triton.kernel import Kernel, sources_fingerprint
from fastrnn.backends.triton.launch import interpreted
from fastrnn.backends.triton.noise import NOISE, PLAIN, NoiseKind
from fastrnn.backends.triton.plans import DEVICES, Plan, Tile, make_plan
from fastrnn.spec import LayerSpec

__all__ = ["Case", "Request", "cases", "kernels", "kernels_of", "progress", "row_of", "run", "stop_if_interpreted"]

T = TypeVar("T")

_NOTE = (
    "The kernels depend on the target, the Triton version and their sources, not on the Python version. To launch "
    "them, Triton builds C extensions on the target machine, one for the driver and one for each signature of a "
    "kernel, and keeps them in its cache. They depend on the Python version and take a C compiler and Python's headers."
)
_PURPOSES = ("save", "ragged", "states", "tf32", "mask", "zoneout", "expected", "norm")


@dataclass(frozen=True)
class Request:
    """Every combination is compiled.

    Attributes:
        targets: names in ``DEVICES``.
        dtypes: names in ``torch``.
        noise: names in ``NOISE``.
        output: a folder for the kernels, new or empty.
        report: a JSON file for the plans and the rows of the table.
        processes: how many kernels are compiled at a time.
        version: of fastrnn.
        layer_norm: the layers are normalised.
    """

    targets: Sequence[str]
    cells: Sequence[str]
    hidden: Sequence[int]
    dtypes: Sequence[str]
    batches: Sequence[int]
    noise: Sequence[str]
    output: Path | None
    report: Path | None
    processes: int
    version: str
    layer_norm: bool = False


@dataclass(frozen=True)
class Case:
    """One layer on one target."""

    target: str
    spec: LayerSpec
    hidden: int
    dtype: str
    batch: int
    plan: Plan
    noise: str = "none"


def run(request: Request) -> bool:
    """Compiles, prints plans, a table and faults; whether all kernels are fit for use."""
    stop_if_interpreted()
    for target in request.targets:
        if reason := reason_against(DEVICES[target]):
            raise SystemExit(f"python -m fastrnn compile: {reason}")
    found = list(cases(request))
    plans = _distinct_plans(found)
    for plan in plans:
        print(f"{plan['cell']} {plan['hidden']} {plan['dtype']} {plan['precision']}, {_layers(plan)}: {plan['plan']}")
    print(flush=True)

    jobs = {Job(case.plan.device, kernel): (case, tile) for case in found for kernel, tile in kernels(case)}
    outcomes = list(progress(compile_all(list(jobs), request.processes, request.output), len(jobs)))
    rows = [row_of(job, *jobs[job], outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
    _print_table(rows)
    faulty = [row for row in rows if row["fault"]]
    print(f"\n{len(rows)} kernels, {sum(row['seconds'] for row in rows):.0f} s of compilation, {len(faulty)} faulty")
    for row in faulty:
        print(f"{row['target']} {row['constants']}: {row['fault']}", file=sys.stderr)

    if request.output:
        request.output.mkdir(parents=True, exist_ok=True)
        manifest = _manifest(request.version, zip(jobs, outcomes, strict=True))
        (request.output / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    if request.report:
        report = {**_versions(request.version), "plans": plans, "kernels": rows}
        request.report.write_text(json.dumps(report, indent=1) + "\n")
    return not faulty


def stop_if_interpreted() -> None:
    if interpreted:
        raise SystemExit("python -m fastrnn compile: TRITON_INTERPRET is set, with which nothing is compiled; unset it")


def cases(request: Request) -> Iterator[Case]:
    """Layers of the sizes asked for, of one and of two directions, with and without tf32, as PyTorch may be set."""
    layers = product(request.targets, request.cells, request.hidden, request.dtypes)
    for (target, cell, hidden, dtype), tf32 in product(layers, (False, True)):
        for directions, batch, noise in product((1, 2), request.batches, request.noise):
            spec = LayerSpec(cell, directions, layer_norm=request.layer_norm, gates_given=request.layer_norm)
            plan = make_plan(spec, batch, hidden, getattr(torch, dtype), tf32, DEVICES[target])
            yield Case(target, spec, hidden, dtype, batch, plan, noise)


def kernels(case: Case) -> Iterator[tuple[Kernel, Tile | None]]:
    """What is launched for dense and for ragged batches, in inference and in training, with and without gradients of
    the states of every step."""
    plan, dtype = case.plan, getattr(torch, case.dtype)
    own_states = (False, True) if len(case.spec.facts.states) > 1 else (False,)
    for ragged, every_state in product((False, True), own_states):
        options = {"ragged": ragged, "every_state": every_state, "inference": True}
        for kernel in kernels_of(case.spec, plan, case.hidden, dtype, **options, noise=NOISE[case.noise]):
            yield kernel, plan.forward if kernel.name.endswith("forward") else plan.backward


def kernels_of(
    spec: LayerSpec,
    plan: Plan,
    hidden: int,
    dtype: torch.dtype,
    *,
    ragged: bool,
    inference: bool,
    every_state: bool = False,
    noise: NoiseKind = PLAIN,
) -> list[Kernel]:
    """What a layer launches in training; with ``inference`` also the kernel of a call without gradients."""
    saves = [True, False] if inference else [True]
    if plan.regime == "stepwise":
        return [
            *(stepwise.forward_kernel(spec, hidden, dtype, ragged, save, noise) for save in saves),
            stepwise.backward_kernel(spec, hidden, dtype, ragged, every_state, noise),
        ]
    return [
        *(persistent.forward_kernel(spec, plan, hidden, dtype, ragged, save, noise) for save in saves),
        persistent.backward_kernel(spec, plan, hidden, dtype, ragged, every_state, noise),
    ]


def _distinct_plans(found: Iterable[Case]) -> list[dict[str, Any]]:
    """Plans that differ in more than the batch and the directions, with the [batch, directions] that follow each."""
    plans: dict[tuple[str, ...], dict[str, Any]] = {}
    for case in found:
        facts = {"target": case.target, "cell": case.spec.cell, "hidden": case.hidden, "dtype": case.dtype}
        facts |= {"precision": case.plan.precision, "regime": case.plan.regime, "plan": str(case.plan)}
        tiles = {"forward": _fields(case.plan.forward), "backward": _fields(case.plan.backward)}
        key = tuple(str(fact) for fact in facts.values())
        layers = plans.setdefault(key, {**facts, **tiles, "layers": []})["layers"]
        if [case.batch, case.spec.directions] not in layers:
            layers.append([case.batch, case.spec.directions])
    return list(plans.values())


def _fields(tile: Tile | None) -> dict[str, int] | None:
    if tile is None:
        return None
    return {name: value for name, value in asdict(tile).items() if name != "at_once"}  # depends on the batch


def _layers(plan: dict[str, Any]) -> str:
    directions: dict[str, list[str]] = {}  # by the batches
    for d in (1, 2):
        batches = " ".join(str(batch) for batch, of in plan["layers"] if of == d)
        if batches:
            directions.setdefault(batches, []).append(str(d))
    return "; ".join(f"batch {batches}, directions {' '.join(ds)}" for batches, ds in directions.items())


def progress(outcomes: Iterator[T], total: int) -> Iterator[T]:
    """Shows on a terminal how many are done."""
    try:
        bar = importlib.import_module("tqdm").tqdm
    except ImportError:
        return _counted(outcomes, total)
    return bar(outcomes, total=total, unit="kernel", leave=False, disable=None)


def _counted(outcomes: Iterator[T], total: int) -> Iterator[T]:
    for done, outcome in enumerate(outcomes, 1):
        if sys.stderr.isatty():
            print(f"\r{done} of {total} kernels", end="\n" if done == total else "", file=sys.stderr, flush=True)
        yield outcome


def row_of(job: Job, case: Case, tile: Tile | None, outcome: Outcome) -> dict[str, Any]:
    constants = dict(job.kernel.constants)
    return {
        "target": case.target,
        "key": job.kernel.key(),
        "kernel": job.kernel.name,
        "cell": case.spec.cell,
        "dtype": case.dtype,
        "hidden": case.hidden,
        "regime": case.plan.regime,
        "ragged": constants["RAGGED"],
        "save": constants.get("SAVE", False),
        "states": job.kernel.takes("dcell_states"),
        "mask": job.kernel.takes("h_mask"),
        "zoneout": job.kernel.takes("draws"),
        "expected": job.kernel.takes("shares"),
        "norm": job.kernel.takes("norm"),
        "tf32": constants.get("PRECISION") == "tf32",
        "tile": _tile({**constants, "BLOCK_K": outcome.block_k}, job.kernel.warps),
        "constants": str(job.kernel),
        "planned_shared": tile.shared if tile else 0,
        "shared_limit": job.device.shared_memory,
        **asdict(outcome),
    }


def _tile(constants: dict[str, Any], warps: int) -> str:
    """Rows x units, the pieces of the sum, and warps."""
    tile = f"{constants['ROWS']}x{constants['UNITS']}"
    if constants["BLOCK_K"]:
        tile += f" k{constants.get('SPLIT', 1)}x{constants['BLOCK_K']}"
    return f"{tile} w{warps}"


def _print_table(rows: Iterable[dict[str, Any]]) -> None:
    heads = ("target", "kernel", "cell", "dtype", "hidden", "regime", "tile", "for", "registers", "spilled")
    table = [[*heads, "shared", "limit", "seconds"]]
    for row in rows:
        facts = [str(row[head]) for head in heads[:7]]
        facts.append(" ".join(name for name in _PURPOSES if row[name]) or "-")
        facts += ["-" if row[n] is None else f"{row[n]:,}" for n in ("registers", "spilled", "shared", "shared_limit")]
        table.append([*facts, f"{row['seconds']:.2f}"])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        left = [text.ljust(width) for text, width in zip(line[:8], widths[:8], strict=True)]
        right = [text.rjust(width) for text, width in zip(line[8:], widths[8:], strict=True)]
        print("  ".join(left + right))


def _versions(version: str) -> dict[str, str]:
    return {
        "fastrnn": version,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "sources": sources_fingerprint(),
    }


def _manifest(version: str, compiled: Iterable[tuple[Job, Outcome]]) -> dict[str, Any]:
    """What ``launch`` reads on the target machine. Faulty kernels are left out: it compiles those anew."""
    entries = [
        {
            "key": job.kernel.key(),
            "target": job.device.architecture,
            "kernel": str(job.kernel),
            "folder": job.folder,
            "files": list(outcome.files),
        }
        for job, outcome in compiled
        if not outcome.fault
    ]
    return {"note": _NOTE, **_versions(version), "kernels": entries}
