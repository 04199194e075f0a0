"""The search for wrong layers finds one, and makes it small."""

import pytest
from fuzz.compute import failures
from fuzz.layer import Layer, draw
from fuzz.shrink import shrink

from fastrnn import functional
from fastrnn.ops.function import layer

pytestmark = pytest.mark.usefixtures("isa_as_before")


def test_a_seed_is_one_layer_and_they_are_right():
    for seed in range(40):
        assert draw(seed) == draw(seed)
        assert failures(draw(seed)) == []


def wrong_layout(spec, x, *arguments):
    """Rows and steps change places where nobody has tested both options at once."""
    y, final = layer(spec, x, *arguments)
    if spec.batch_first and spec.projected and y.dim() == 3:
        y = y.transpose(0, 1).reshape(y.shape)
    return y, final


def test_a_fault_is_found_and_made_small(monkeypatch):
    monkeypatch.setattr(functional, "layer", wrong_layout)
    monkeypatch.setattr("fastrnn.modules.layers.call_layers", lambda *_: None)  # which does not pass by it
    found = next(drawn for drawn in map(draw, range(1000)) if failures(drawn))
    small = shrink(found, lambda other: bool(failures(other)))
    assert (small.T, small.B, small.H, small.P, small.I, small.num_layers) == (2, 2, 2, 1, 1, 1)
    plain = Layer(small.seed, small.cell, small.isa)
    differing = {name for name, value in vars(small).items() if value != vars(plain)[name]}
    assert differing <= {"T", "B", "H", "P", "batch_first", "dtype", "no_gradient", "no_loss"}
    assert str(small).startswith(f"{small.cell.upper()}(1, 2, batch_first=True, proj_size=1)")
