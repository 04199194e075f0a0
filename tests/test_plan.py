"""How a layer would run on a GPU: a pure function, so it is asked about devices that are not here."""

import re
from dataclasses import replace
from itertools import product

import pytest
import torch

from fastrnn.backends.triton.plans import DEVICES, Device, Plan, make_plan
from fastrnn.spec import CELLS, CellSpec, LayerSpec

H100, A100 = DEVICES["sm_90"], DEVICES["sm_80"]
every_device = pytest.mark.parametrize("device", list(DEVICES.values()), ids=lambda d: d.name.replace(" ", "-"))
every_cell = pytest.mark.parametrize("cell", CELLS)

HIDDEN = (1, 16, 17, 64, 65, 100, 128, 129, 200, 256, 512, 1000, 1024, 2048, 4096)
BATCHES = (1, 16, 17, 32, 100, 512, 3000)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def plan(cell: str, hidden: int, batch: int = 16, device: Device = H100, **changes) -> Plan:
    options = {name: changes.pop(name) for name in ("directions", "projected") if name in changes}
    arguments = {"dtype": torch.bfloat16, "tf32": True} | changes
    return make_plan(LayerSpec(cell, **options), batch, hidden, device=device, **arguments)


@every_device
@every_cell
def test_every_plan_fits_its_device_and_covers_the_layer(cell, device):
    regimes = set()
    for hidden, batch, directions, dtype in product(HIDDEN, BATCHES, (1, 2), DTYPES):
        found = plan(cell, hidden, batch, device, directions=directions, dtype=dtype)
        regimes.add(found.regime)
        assert (found.forward is None) == (found.backward is None) == (found.regime == "stepwise")
        for tile in (found.forward, found.backward):
            if tile is None:
                continue
            sizes = (found, dtype)
            groups = directions * -(-batch // tile.rows)
            assert (tile.programs - 1) * tile.units < hidden <= tile.programs * tile.units, sizes
            assert (tile.waves - 1) * tile.at_once < groups <= tile.waves * tile.at_once, sizes
            assert 0 < tile.shared <= device.shared_memory, sizes
            assert (found.regime == "cooperative") == (tile.programs > 1), sizes
            if tile.programs > 1:
                assert tile.programs * tile.at_once <= device.multiprocessors, sizes
            for size in (tile.rows, tile.units, tile.block_k, tile.split, tile.warps):
                assert size & (size - 1) == 0, sizes
            # tl.dot takes no operand with fewer rows, nor sums of fewer terms.
            assert tile.rows >= 16 and tile.block_k >= 16, sizes
    if device.architecture == "sm_75":
        assert regimes == {"stepwise"}
    else:
        # Registers of RDNA hold the weights of small layers alone.
        assert {"resident", "stepwise"} <= regimes and ("cooperative" in regimes or device.rdna)


@pytest.mark.parametrize(
    "hidden,regime",
    [(64, "resident"), (128, "resident"), (512, "cooperative"), (1024, "cooperative"), (4096, "stepwise")],
)
@pytest.mark.parametrize("cell", [cell for cell, spec in CELLS.items() if len(spec.gates) > 1])
def test_regimes_of_half_precision_on_an_h100(cell, hidden, regime):
    assert plan(cell, hidden, 64).regime == regime


@every_cell
def test_small_layers_stay_on_one_program_in_tf32(cell):
    assert plan(cell, 64, dtype=torch.float32).regime == "resident"
    assert plan(cell, 256, dtype=torch.float32).regime == "cooperative"


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"dtype": torch.float32, "tf32": False}, "exact float32 products .*fp32_precision is not 'tf32'"),
        ({"dtype": torch.float64}, "float64"),
        ({"projected": True}, "a projection is a second product"),
        ({"device": DEVICES["sm_75"]}, "needs sm_80 or newer, not sm_75"),
        ({"device": DEVICES["gfx950"], "dtype": torch.float32}, "tf32 products on gfx942 alone .* not on gfx950"),
    ],
    ids=["exact-float32", "float64", "projection", "sm_75", "tf32-on-gfx950"],
)
def test_what_no_kernel_of_all_steps_takes_is_stepwise_with_a_reason(changes, reason):
    found = plan("lstm", 64, **changes)
    assert found.regime == "stepwise"
    assert [regime for regime, _ in found.against] == ["resident", "cooperative"]
    for _, given in found.against:
        assert re.search(reason, given)


def test_normalised_layers_are_of_one_program_or_stepwise():
    resident, stepwise = (
        make_plan(LayerSpec("lstm", layer_norm=True), 16, h, torch.bfloat16, False, H100) for h in (64, 512)
    )
    assert resident.regime == "resident" and stepwise.regime == "stepwise"
    assert dict(stepwise.against)["cooperative"].startswith("a norm is over all units, so programs would wait")


def test_more_gates_than_a_product_holds_are_a_reason(monkeypatch):
    monkeypatch.setitem(CELLS, "five", CellSpec("five", tuple("abcde"), ("h",), (), ""))
    found = plan("five", 64)
    assert found.regime == "stepwise"
    assert dict(found.against)["resident"] == "one product takes at most 4 gates, five has 5"


def test_tf32_concerns_float32_alone():
    assert plan("gru", 64, tf32=False) == plan("gru", 64, tf32=True)


def test_a_group_that_could_not_be_resident_at_once_is_refused():
    few = replace(H100, multiprocessors=31)
    assert plan("lstm", 512, device=replace(few, multiprocessors=32)).regime == "cooperative"
    reasons = dict(plan("lstm", 512, device=few).against)
    assert re.search(r"a group of \d+ programs could not .* on 31 multiprocessors", reasons["cooperative"])


def test_too_little_shared_memory_is_a_reason_with_both_numbers():
    reason = dict(plan("lstm", 1024, device=replace(H100, shared_memory=10_000)).against)["cooperative"]
    assert "bytes of shared memory" in reason and "has 10,000" in reason


def test_too_few_registers_are_a_reason_with_both_numbers():
    """AMD's keep the weights there."""
    plans = {name: plan("lstm", 1500, device=DEVICES[name]) for name in ("gfx942", "gfx1201")}
    assert plans["gfx942"].regime == "cooperative"
    assert re.search(
        r"takes about \d+ registers a thread, RX 9070 XT has 256", dict(plans["gfx1201"].against)["cooperative"]
    )


def test_rows_of_odd_length_are_loaded_one_by_one_and_keep_fewer_units_resident():
    assert plan("gru", 72).regime == plan("gru", 63).regime == plan("rnn_tanh", 113).regime == "resident"
    assert "no multiple of 4" in dict(plan("gru", 71).against)["resident"]


def test_too_many_waves_are_refused():
    reason = dict(plan("lstm", 1024, 3000).against)["cooperative"]
    assert "3000 rows in 1 directions would take" in reason and "waves, more than" in reason


def test_a_plan_says_what_runs_and_why_nothing_before_it():
    resident, cooperative, stepwise = (str(plan("lstm", hidden)) for hidden in (64, 512, 4096))
    assert resident.startswith("resident on H100 (sm_90): forward 16 rows x 64 units on ")
    assert "not" not in resident
    assert "32 programs a group" in cooperative and "; backward 16 rows x 16 units on " in cooperative
    assert "not resident: one program holds at most 128 hidden units, not 512" in cooperative
    assert "a product and a pointwise kernel for each step" in stepwise
    assert "; not resident: " in stepwise and "; not cooperative: " in stepwise


def test_plans_are_values():
    assert plan("gru", 512, 100) == plan("gru", 512, 100)
    assert hash(plan("gru", 512, 100)) == hash(plan("gru", 512, 100))
    assert plan("gru", 512, 100, A100) != plan("gru", 512, 100)
