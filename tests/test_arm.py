"""The CPU kernels compiled for 64-bit Arm, in an emulator, held to what they are held to on this machine.

The emulator keeps the stricter order of memory accesses of an x86-64 under it: a missing barrier would not show.
"""

import arm
import pytest
import torch
from comparison import assert_exact
from problems import every_small_case, fused, oracle, peer, problem
from test_activations import assert_within_four_ulps, every_activation, every_dtype

from fastrnn.testing import assert_accurate

pytestmark = [
    pytest.mark.skipif(bool(arm.missing()), reason=f"needs the packages {', '.join(arm.missing())}"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@pytest.fixture(scope="module")
def operators(tmp_path_factory) -> arm.Operators:
    return arm.Operators(arm.build(tmp_path_factory.mktemp("arm")))


@every_small_case
def test_float64_agrees_with_the_oracle(cell, case, operators):
    assert_exact(fused(problem(cell, case), operators), oracle(cell, case, torch.float64))


@every_small_case
def test_float32_keeps_the_accuracy_rule(cell, case, operators):
    got = fused(problem(cell, case).to(torch.float32), operators)
    assert_accurate(got, peer(cell, case, torch.float32), oracle(cell, case, torch.float32))


@every_dtype
@every_activation
def test_activations_are_within_four_ulps_everywhere(compute, exact, dtype, operators, monkeypatch):
    monkeypatch.setattr("fastrnn.modules.layers.call_layers", lambda *_: None)
    monkeypatch.setattr("fastrnn.ops.function.layer_forward", operators.layer_forward)
    assert_within_four_ulps(compute, exact, dtype)
