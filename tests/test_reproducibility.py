"""What must not change a bit: threads, neighbours in the batch, repetition, gradients that nobody asked for."""

from dataclasses import replace

import pytest
import torch
from machines import WITHOUT_CACHES, ZEN4
from problems import (
    CASES,
    Case,
    backward,
    every_case,
    every_cell,
    every_kernel,
    forward,
    fused,
    names,
    of_each_cell,
    oracle,
    peer,
    problem,
)
from torch import Tensor

from fastrnn import _C
from fastrnn.ops.function import layer
from fastrnn.spec import CELLS
from fastrnn.testing import assert_accurate, poisoned

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


# Above the few rows where products are taken on the weights as they lie: those add up in another order.
BITWISE_CASES = {
    name: CASES[name]
    for name in (
        "T63-B1-H130-I40-bidirectional-4-threads",
        "T63-B5-H130-I40-5-threads",
        "T20-B9-H130-I40-rows-and-units-4-threads",
        "T63-B32-H130-I40-batch-first-bidirectional-3-threads",
        "some-of-length-one-2-threads",
        "projected-ragged",
    )
}
bitwise = pytest.mark.parametrize("cell,case", of_each_cell(BITWISE_CASES))


def assert_identical(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), f"{name}: {(got[name] != tensor).sum()} of {tensor.numel()} values"


@every_kernel
@bitwise
def test_forward_does_not_depend_on_the_number_of_threads(cell, case, dtype, isa):
    p, found = problem(cell, case).to(dtype), []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        y, final, saved = forward(p, save=True)
        found.append(dict(enumerate((y, *final, saved))))
    for other in found[1:]:
        assert_identical(other, found[0])


@every_kernel
@bitwise
def test_forward_does_not_depend_on_the_machine(cell, case, dtype, isa):
    """Without caches input products are hoisted for many rows too, units divided and panels fetched ahead."""
    p, found = problem(cell, case).to(dtype), []
    torch.set_num_threads(2)
    for machine in (ZEN4, WITHOUT_CACHES):
        _C.force_machine(machine)
        y, final, saved = forward(p, save=True)
        found.append(dict(enumerate((y, *final, saved))))
        assert_accurate(fused(p), peer(cell, case, dtype), oracle(cell, case, dtype))
    assert_identical(found[1], found[0])


@every_kernel
@bitwise
@pytest.mark.parametrize("threads", [3, 5], ids=lambda n: f"on-{n}")
def test_backward_repeats_itself(cell, case, threads, dtype, isa):
    p = problem(cell, replace(case, threads=threads)).to(dtype)
    first = fused(p)
    for _ in range(2):
        assert_identical(fused(p), first)


@every_kernel
@every_case
@torch.no_grad()
def test_inference_gives_the_same_bits(cell, case, dtype, isa):
    """Operator without and with saved values, and the layer function, which may take a shorter way."""
    p = problem(cell, case).to(dtype)
    torch.set_num_threads(case.threads)
    with poisoned(dtype):
        y, final, _ = forward(p, save=True)
        expected = dict(enumerate((y, *final)))
        y, final, saved = forward(p, save=False)
        assert_identical(dict(enumerate((y, *final))), expected)
        assert saved.numel() == 0
        y, final = layer(p.spec, p.x, p.state, p.weights, case.batch_sizes)
        assert_identical(dict(enumerate((y, *final))), expected)


def row_of(tensors: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """What belongs to one row of a dense batch, batch second."""
    return {name: t[:, row] for name, t in tensors.items() if "[" not in name}


@every_kernel
@every_cell
@pytest.mark.parametrize("threads", [1, 3], ids=["1-thread", "3-threads"])
def test_rows_do_not_depend_on_the_rows_beside_them(cell, threads, dtype, isa):
    # Long enough that no part is so small as to be computed another way ("direct").
    p = problem(cell, Case(9, 19, 65, 200, threads=threads, directions=2)).to(dtype)
    whole = fused(p)
    for rows in ([0], [18], [3, 4], list(range(5, 16))):
        part = fused(
            replace(
                p,
                case=replace(p.case, B=len(rows)),
                x=p.x[:, rows],
                state=[s[:, rows] for s in p.state],
                dy=p.dy[:, rows],
                dstate=[s[:, rows] for s in p.dstate],
            )
        )
        for i, row in enumerate(rows):
            got, expected = row_of(part, i), row_of(whole, row)
            for name in got:
                assert name.startswith("d") or torch.equal(got[name], expected[name]), f"{name} of row {row}"


@every_kernel
@every_cell
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("T,B", [(2, 2), (7, 2), (7, 19)], ids=["direct", "hoisted", "fused"])
def test_a_bad_row_leaves_the_others_alone(cell, value, T, B, dtype, isa):
    p = problem(cell, Case(T, B, 17, 9, directions=2)).to(dtype)
    clean = fused(p)
    bad = B // 2
    x = p.x.clone()
    x[0, bad] = value
    spoiled = fused(replace(p, x=x))
    assert not torch.equal(spoiled["y"][:, bad], clean["y"][:, bad])
    for row in set(range(B)) - {bad}:
        assert_identical(row_of(spoiled, row), row_of(clean, row))


@every_cell
@pytest.mark.parametrize("isa", _C.runnable_isas()[-1:], indirect=True)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(2, 2, 17, 9), id="direct"),
        pytest.param(Case(2, 2, 17, 9, state=False, bias=False), id="direct-no-state-no-bias"),
        pytest.param(Case(9, 1, 65, 9, directions=2, threads=2), id="hoisted-bidirectional-2-threads"),
        pytest.param(Case(9, 9, 65, 9, threads=2), id="fused-2-threads"),
        pytest.param(Case(5, 5, 17, 9, directions=2, lengths=(5, 4, 4, 1, 1)), id="ragged"),
        pytest.param(Case(5, 5, 17, 9, directions=2, P=3), id="projected"),
    ],
)
def test_any_subset_of_gradients_has_the_values_of_all(cell, case, isa):
    if not CELLS[cell].projectable:
        case = replace(case, P=0)
    p = problem(cell, case)
    torch.set_num_threads(case.threads)
    y, _, saved = forward(p, save=True)
    wanted = names(p)
    everything = dict(zip(wanted, backward(p, y, saved, [True] * len(wanted)), strict=True))
    singles = [{name} for name in wanted]
    groups = [{n for n in wanted if n.startswith(letter)} for letter in sorted({name[0] for name in wanted})]
    for subset in singles + [set(wanted) - s for s in singles + groups] + groups:
        chosen = [name for name in wanted if name in subset]
        with poisoned(torch.float64):
            gradients = backward(p, y, saved, [name in subset for name in wanted])
        assert_identical(dict(zip(chosen, gradients, strict=True)), {name: everything[name] for name in chosen})
