"""What is timed, the most telling first, so that a run which is cut short has said the most."""

from itertools import product

import torch

from benches.cases import Case
from fastrnn.backends.triton.plans import Device, Plan, make_plan
from fastrnn.spec import LayerSpec

__all__ = ["CASES", "choose", "label", "plan_of", "precision_of", "spec_of"]

_STEPS = 512
_CELLS = ("lstm", "gru")
_DTYPES = ("bfloat16", "float16", "float32")
_HIDDEN = (512, 1024, 256, 128, 768, 64, 1536)
_BATCHES = (16, 64, 1, 256)


def _case(name: str, cell: str, dtype: str, hidden: int, batch: int, **options: int | bool) -> Case:
    return Case(name, cell, batch, _STEPS, hidden, hidden, dtype=dtype, **options)


def _all() -> list[Case]:
    telling = product(("bfloat16",), (512, 1024), (16, 64), _CELLS)
    variants = [
        _case("stacked", cell, dtype, hidden, batch, layers=2, bidirectional=True)
        for dtype, (hidden, batch), cell in product(_DTYPES, ((512, 16), (256, 64)), _CELLS)
    ] + [
        _case("ragged", cell, dtype, hidden, batch, ragged=True)
        for dtype, (hidden, batch), cell in product(_DTYPES, ((512, 64), (256, 16)), _CELLS)
    ]
    # The two variants in bfloat16, then the other dtypes at the sizes that came first, then every size.
    head = [_case("dense", cell, dtype, hidden, batch) for dtype, hidden, batch, cell in telling]
    head += [case for case in variants if case.dtype == "bfloat16"]
    others = product(("float32", "float16"), (512, 1024), (16, 64), _CELLS)
    head += [_case("dense", cell, dtype, hidden, batch) for dtype, hidden, batch, cell in others]
    breadth = product(_HIDDEN, _BATCHES, _DTYPES, _CELLS)
    rest = [_case("dense", cell, dtype, hidden, batch) for hidden, batch, dtype, cell in breadth]
    return list(dict.fromkeys([*head, *variants, *rest]))


CASES: tuple[Case, ...] = tuple(_all())


def choose(cells: list[str], precisions: list[str], hidden: list[int], batches: list[int]) -> list[Case]:
    """Those that every given list allows; an empty list allows all."""
    return [
        case
        for case in CASES
        if case.cell in (cells or _CELLS)
        and (not precisions or precision_of(case) in precisions)
        and (not hidden or case.hidden_size in hidden)
        and (not batches or case.batch in batches)
    ]


def precision_of(case: Case) -> str:
    """Of ``PRECISIONS``: float32 is timed with products in tf32, by both contenders."""
    return "tf32" if case.dtype == "float32" else case.dtype


def label(case: Case) -> str:
    """Such as ``lstm bf16 H512 B16 stacked``."""
    short = {"bfloat16": "bf16", "float16": "fp16", "tf32": "tf32"}[precision_of(case)]
    name = "" if case.name == "dense" else f" {case.name}"
    return f"{case.cell} {short} H{case.hidden_size} B{case.batch}{name}"


def plan_of(case: Case, device: Device) -> Plan:
    """Of each of its layers."""
    return make_plan(spec_of(case), case.batch, case.hidden_size, getattr(torch, case.dtype), True, device)


def spec_of(case: Case) -> LayerSpec:
    return LayerSpec(case.cell, case.directions)
