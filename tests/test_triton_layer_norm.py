"""Layer normalisation in the Triton kernels, by the interpreter: what concerns a regime. ``test_layer_norm.py`` has the
rest of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import assert_same
from problems import fused, oracle, peer, problem

from fastrnn.testing import Case, assert_accurate

pytest.importorskip("triton")

from fastrnn.backends.triton import operators  # noqa: E402
from fastrnn.backends.triton.launch import interpreted  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not interpreted, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("single_thread"),
]
every_form = pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])

CASE = Case(4, 3, 6, 1, layer_norm=True)
NOISE: dict[str, Any] = {"mask": True, "zoneout": (0.3, 0.2), "draws": True}
SEGMENTS: dict[str, Any] = {"directions": 2, "padded": True, "reset": "by-step", "batch_first": True}


@every_form
def test_a_stepwise_program_has_whole_rows(cell):
    """Of more units than the tiles of other layers have."""
    case = replace(CASE, T=3, B=5, H=300, bias=False, state=False)
    assert_same(fused(problem(cell, case), operators), oracle(cell, case, torch.float64))


RESIDENT = {
    "two-tiles-of-rows": (replace(CASE, T=2, B=18, H=17, bias=False, every_state=True), torch.float16),
    "packed": (replace(CASE, H=50, directions=2, lengths=(4, 2, 1)), torch.float32),
    "segments-noise": (replace(CASE, H=33, **SEGMENTS, **NOISE), torch.float32),
}


@every_form
@pytest.mark.parametrize("case,dtype", RESIDENT.values(), ids=RESIDENT)
def test_kernels_that_keep_the_weights_on_chip(cell, case, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32")
    p = problem(cell, case).to(dtype)
    assert operators.plan_for(p.spec, case.B, case.H, dtype, p.x.device).regime == "resident"
    assert_accurate(fused(p, operators), peer(cell, case, dtype), oracle(cell, case, dtype))


@pytest.mark.parametrize("precision", ["tf32", "ieee"], ids=["resident", "stepwise"])
def test_a_bad_row_leaves_the_others_alone(precision, monkeypatch):
    """All units of a row meet in its norms."""
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
    p = problem("lstm", CASE).to(torch.float32)
    x = p.x.clone()
    x[1, 1, 0] = torch.nan
    clean, spoiled = fused(p, operators), fused(replace(p, x=x), operators)
    assert spoiled["y"][1, 1].isnan().all()
    for name in ("y", "h_T", "c_T", "dx", "dh_0", "dc_0"):
        assert torch.equal(spoiled[name][:, [0, 2]], clean[name][:, [0, 2]]), name
