"""Without the compiled extension: schemas, fakes and gradients of the operators, with Triton's kernels on the CPU."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
sys.modules["fastrnn._C"] = None
import torch
from torch.func import grad, vmap
import fastrnn
from fastrnn.backends import cpu
from fastrnn.backends.triton import operators
from fastrnn.diagnose import bytes_kept
from fastrnn.modules.layers import hx_of
from fastrnn.ops import dispatch
from fastrnn.ops.operators import library
from fastrnn.testing import on_reference

assert "fastrnn._C" in cpu.missing
for name in ("layer_forward", "layer_backward"):
    library.impl(name, getattr(operators, name), "CPU")
kind = sys.argv[1]
dispatch._answers[kind.lower(), "cpu", torch.float64] = True

torch.manual_seed(0)
module = getattr(fastrnn, kind)(2, 3, bidirectional=True, batch_first=True, dtype=torch.float64)
oracle = on_reference(module)
x = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
h = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
hx = hx_of((h,) * len(module.cell_spec.states))

def derivatives(module, hx, segments):
    y, _, states = module(x, hx, return_states=True, **segments)
    inputs = [x, *([] if hx is None else [h]), *module.parameters()]
    first = torch.autograd.grad(sum(t.sin().sum() for t in (y, *states)), inputs, create_graph=True)
    return [y, *first, *torch.autograd.grad(sum(d.sin().sum() for d in first), inputs)]

marks = {"lengths": torch.tensor([2, 1]), "reset": torch.tensor([[False, True], [True, False]]), "reset_state": hx}
for given, segments, recompute in ((hx, {}, False), (None, {}, False), (hx, marks, False), (hx, marks, True)):
    module.recompute = recompute
    torch.testing.assert_close(derivatives(module, given, segments), derivatives(oracle, given, segments))

normalised = getattr(fastrnn, kind)(2, 3, layer_norm=True, batch_first=True, dtype=torch.float64)
of_first = tuple([s[:1] for s in hx]) if isinstance(hx, tuple) else hx[:1]
torch.testing.assert_close(derivatives(normalised, of_first, {}), derivatives(on_reference(normalised), of_first, {}))

def kept(recompute):
    module.recompute = recompute
    return bytes_kept(lambda: module(x, hx, **marks), [x, h, *module.parameters()])

assert kept(True) < kept(False)

def loss(module):
    return lambda x: module(x)[0].square().sum()

xs = torch.randn(3, 2, 2, 2, dtype=torch.float64)
torch.testing.assert_close(vmap(grad(loss(module)))(xs), torch.stack([grad(loss(oracle))(x) for x in xs]))
with torch.no_grad():
    assert module(x)[0].stride() == (6, 12, 1)
"""


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gradients_without_the_extension(kind):
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
