"""What is kept for backward, and what is not computed because nobody asked."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastrnn
from benches.cases import Case
from benches.memory import kept_bytes
from fastrnn.bench.workload import build, make_workload
from fastrnn.spec import CELLS
from fastrnn.testing import IN_TORCH

SHAPES = {
    "dense": {},
    "stacked-bidirectional": {"layers": 2, "bidirectional": True, "batch_first": True},
    "ragged-bidirectional": {"bidirectional": True, "ragged": True},
}


def every_shape(cells: Iterable[str]) -> pytest.MarkDecorator:
    found = [pytest.param(cell, options, id=f"{cell}-{name}") for cell in cells for name, options in SHAPES.items()]
    # Of one step, a cell whose derivative follows from its output keeps as little in torch.nn.
    found += [pytest.param(cell, {"steps": 1}, id=f"{cell}-step") for cell in cells if CELLS[cell].saved]
    return pytest.mark.parametrize("cell,options", found)


def case_of(cell: str, options: dict[str, Any]) -> Case:
    return Case("small", cell, **{"batch": 5, "steps": 9, "input_size": 24, "hidden_size": 32} | options)


@every_shape(IN_TORCH)
def test_less_is_kept_than_by_torch(cell, options):
    work = make_workload(case_of(cell, options))
    work.values.requires_grad_()
    ours, peer = (kept_bytes(build(library, work.case, work.weights, torch.float32), work) for library in (fastrnn, nn))
    assert 0 < ours < peer


@every_shape(CELLS)
@pytest.mark.parametrize("reason", ["no-grad", "nothing-requires-grad"])
def test_inference_keeps_nothing(cell, options, reason):
    work = make_workload(case_of(cell, options))
    module = build(fastrnn, work.case, work.weights, torch.float32)
    module.requires_grad_(reason == "no-grad")
    with torch.set_grad_enabled(reason != "no-grad"):
        assert kept_bytes(module, work) == 0


class Backwards(TorchDispatchMode):
    """Records what the operator of backward is asked for and how many gradients it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator is torch.ops.fastrnn.layer_backward.default:
            needed = dict(zip((a.name for a in operator._schema.arguments), args, strict=False)) | (kwargs or {})
            self.seen.append((needed["needed"][0], len(result)))
        return result


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_of_an_input_is_computed_only_where_it_is_needed(cell, wanted):
    work = make_workload(case_of(cell, {}))
    work.values.requires_grad_(wanted)
    module = build(fastrnn, work.case, work.weights, torch.float32)
    with Backwards() as backwards:
        module(work.input)[0].sum().backward()
    assert backwards.seen == [(wanted, 4 + wanted)]
    assert (work.values.grad is not None) == wanted
    assert all(parameter.grad is not None for parameter in module.parameters())
