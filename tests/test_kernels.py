"""The fused operators against the oracle: every cell, instruction set, plan and kind of batch."""

from dataclasses import replace

import pytest
import torch
from comparison import assert_exact
from problems import (
    CASES,
    MULTIPLY_BFLOAT16,
    Case,
    cases_of,
    every_case,
    every_cell,
    every_isa,
    every_isa_of_bfloat16,
    every_isa_of_floats,
    forward,
    fused,
    of_each_cell,
    oracle,
    peer,
    plan_of,
    problem,
    rounded_peer,
)

from fastrnn import _C
from fastrnn.spec import CELLS, reference
from fastrnn.testing import assert_accurate, bfloat16_products_allowed

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@every_isa_of_floats
@every_case
def test_float64_agrees_with_the_oracle(cell, case, isa):
    assert_exact(fused(problem(cell, case)), oracle(cell, case, torch.float64))


@every_isa_of_floats
@every_case
def test_float32_keeps_the_accuracy_rule(cell, case, isa):
    got = fused(problem(cell, case).to(torch.float32))
    assert_accurate(got, peer(cell, case, torch.float32), oracle(cell, case, torch.float32))


SHORT_CASES = {
    name: CASES[name]
    for name in (
        "T2-B2-H64-I40-ragged-batch",
        "T63-B1-H17-I40-batch-first",
        "T63-B5-H64-I1-batch-first-bidirectional-2-threads",
        "T2-B32-H17-I40",
        "some-of-length-one-2-threads",
        "projected-ragged",
    )
}


# With more rows, threads and directions.
ROUNDED_CASES = {
    name: CASES[name]
    for name in (
        "T1-B32-H64-I40-2-threads",
        "T63-B1-H130-I40-bidirectional-4-threads",
        "T20-B9-H130-I40-rows-and-units-4-threads",
        "decreasing-lengths-bidirectional",
    )
}


# Both are converted to float32 here; what multiplies bfloat16 is given every case below.
@every_isa_of_floats
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("cell,case", of_each_cell(SHORT_CASES))
def test_half_precision_keeps_the_accuracy_rule(cell, case, dtype, isa):
    got = fused(problem(cell, case).to(dtype))
    assert_accurate(got, peer(cell, case, dtype), oracle(cell, case, dtype))


@every_isa_of_bfloat16
@every_case
def test_products_of_bfloat16_keep_the_accuracy_rule(cell, case, isa):
    assert _C.multiplies_bfloat16()
    got = fused(problem(cell, case).to(torch.bfloat16))
    assert_accurate(got, peer(cell, case, torch.bfloat16), oracle(cell, case, torch.bfloat16))


@pytest.mark.parametrize("isa", MULTIPLY_BFLOAT16, indirect=True)
@pytest.mark.parametrize("cell,case", of_each_cell(SHORT_CASES | ROUNDED_CASES))
def test_products_of_float32_are_rounded_where_pytorch_allows_it(cell, case, isa):
    p = problem(cell, case).to(torch.float32)
    with bfloat16_products_allowed():
        got = fused(p)
    assert_accurate(got, rounded_peer(cell, case), oracle(cell, case, torch.float32))
    as_they_are = fused(p)
    few_rows = case.rows <= 8
    assert all(torch.equal(value, as_they_are[name]) is few_rows for name, value in got.items() if "w_" in name)


@pytest.mark.skipif("amx" not in _C.runnable_isas(), reason="needs a processor with AMX, and its system's permission")
@every_case
def test_tiles_in_software_are_those_of_the_processor(cell, case, isa_as_before):
    p = problem(cell, case).to(torch.bfloat16)
    found = []
    for isa in ("amx", "software_tiles"):
        _C.force_isa(isa)
        found.append(fused(p))
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@every_isa
@pytest.mark.parametrize("cell", ["gru"])
def test_small_steps_of_a_bfloat16_state_are_not_lost(cell, isa):
    """z near 1: h moves by less than half a unit in its last place in each of many steps."""
    case = Case(400, 5, 17, 3)
    p = problem(cell, case)
    weights = [w * 0.1 for w in p.weights]
    weights[2][17:34] += 6  # z = 0.9975
    p = replace(p, weights=weights, state=[p.state[0] * 0 + 0.9]).to(torch.bfloat16)
    torch.set_num_threads(1)
    _, (h_T,), _ = forward(p, save=False)
    wide = p.to(torch.float64)
    _, (exact,) = reference.layer(wide.spec, wide.x, wide.state, wide.weights)
    assert (h_T.double() - exact).abs().max() < 2 * torch.finfo(torch.bfloat16).eps
    assert (exact - 0.9).abs().min() > 0.3


@every_isa
@pytest.mark.parametrize("element_bytes", [2, 4, 8], ids=["bfloat16", "float32", "float64"])
@every_cell
def test_the_cases_meet_every_plan(cell, element_bytes, isa):
    plans = [plan_of(case, cell, element_bytes) for case in cases_of(cell).values()]
    assert {plan["products"] for plan in plans} == {"direct", "hoisted", "fused"}
    for products in ("hoisted", "fused"):
        threads = {plan["threads"] for plan in plans if plan["products"] == products}
        assert {1, 2} <= threads and max(threads) > 2, products
    splits = {tuple(plan[key] > 1 for key in ("directions_at_once", "row_parts", "unit_parts")) for plan in plans}
    missing = {
        "nothing": (False, False, False),
        "directions": (True, False, False),
        "rows": (False, True, False),
        "units": (False, False, True),
        "rows and units": (False, True, True),
    }
    assert not [name for name, split in missing.items() if split not in splits]


@every_cell
def test_both_languages_describe_a_cell_alike(cell):
    spec = CELLS[cell]
    assert _C.cell_facts(cell) == {
        "gates": len(spec.gates),
        "sums": len(spec.gates) + len(spec.apart),
        "apart": [spec.gates.index(gate) for gate in spec.apart],
        "saved": len(spec.saved),
        "states": len(spec.states),
        "projectable": spec.projectable,
    }


def test_both_languages_have_the_same_cells():
    assert sorted(_C.cells()) == sorted(CELLS)
