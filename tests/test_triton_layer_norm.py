"""Layer normalisation in the Triton kernels, by the interpreter against the oracle: stepwise and resident."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import assert_same
from problems import call_of, doubled, fused, of_each_cell, oracle, peer, problem

from fastrnn.spec import BackwardCall
from fastrnn.testing import Case, assert_accurate, by_operators

pytest.importorskip("triton")

from fastrnn.backends.triton import operators  # noqa: E402
from fastrnn.backends.triton.launch import interpreted  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not interpreted, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("single_thread"),
]

CASE = Case(4, 3, 6, 1, layer_norm=True)
NOISE: dict[str, Any] = {"mask": True, "zoneout": (0.3, 0.2), "draws": True}
SEGMENTS: dict[str, Any] = {"directions": 2, "padded": True, "reset": "by-step", "batch_first": True}
CASES = {
    "several-tiles-no-bias-no-state": replace(CASE, T=3, B=5, H=300, bias=False, state=False),
    "packed-expected-zoneout": replace(CASE, directions=2, lengths=(4, 4, 1), zoneout=(0.3, 0.2)),
    "segments-noise": replace(CASE, **SEGMENTS, **NOISE, every_state=True),
    "projected-noise": replace(CASE, **NOISE, directions=2, P=2, padded=True),
}


@pytest.mark.parametrize("cell,case", of_each_cell(CASES))
def test_the_oracle_is_met(cell, case):
    assert_same(fused(problem(cell, case), operators), oracle(cell, case, torch.float64))


RESIDENT = {
    "two-tiles-of-rows": (replace(CASE, T=2, B=18, H=17, bias=False, every_state=True), torch.float16),
    "packed": (replace(CASE, H=50, directions=2, lengths=(4, 2, 1)), torch.float32),
    "segments-noise": (replace(CASE, H=33, **SEGMENTS, **NOISE), torch.float32),
}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
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


def test_members():
    p = problem("lstm", replace(CASE, T=2, directions=2, every_state=True))
    of_both = {name: doubled(getattr(p, name)) for name in ("x", "state", "weights", "dy", "dstate")}
    got = by_operators(replace(p, **of_both), operators)
    for i in range(2):
        alone = {n: [t[i] for t in v] if isinstance(v, list) else v[i] for n, v in of_both.items()}
        assert_same({name: t[i] for name, t in got.items()}, by_operators(replace(p, **alone), operators))


def test_one_step():
    p = problem("gru", replace(CASE, T=1))
    step = replace(p, x=p.x[0], state=[p.state[0][0]], dy=p.dy[0], dstate=[p.dstate[0][0]])
    got, expected = by_operators(step, operators), by_operators(p, operators)
    assert_same({name: t.flatten() for name, t in got.items()}, {name: t.flatten() for name, t in expected.items()})


def test_operators_refuse():
    call = call_of(problem("lstm", CASE))
    w_hh, b_hh, w_ln_hh, w_ln_c, b_ln_c = call.weights
    for change, message in (
        ({"x": call.x[..., 1:]}, "expected 24 inputs, the gates' products, of a layer with layer_norm, got 23"),
        ({"weights": call.weights[:-1]}, r"expected 5 weights \(6 with a projection\) per direction, got 4"),
        ({"weights": [w_hh, b_hh, w_ln_hh, w_ln_c[1:], b_ln_c]}, r"expected weight_ln_c of shape \[6\], got \[5\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operators.layer_forward(*call._replace(**change))
    y, final, saved = operators.layer_forward(*call._replace(save=True))
    needed = [True] * len(call.inputs)
    backward = BackwardCall.after(call, dy=y, dstate=final, y=y, saved=saved, needed=needed, samples=3)
    with pytest.raises(RuntimeError, match="^fastrnn: expected no gradients by sample of a normalised layer$"):
        operators.layer_backward(*backward)
