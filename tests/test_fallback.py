"""Without the compiled extension: schemas, fakes and gradients of the operators, with Triton's kernels on the CPU."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
sys.modules["fastrnn._C"] = None
import torch
from torch.func import functional_call, grad, vmap
import fastrnn
from fastrnn.backends import cpu
from fastrnn.backends.triton import operators
from fastrnn.modules.layers import hx_of
from fastrnn.ops import dispatch
from fastrnn.ops.operators import library

assert "fastrnn._C" in cpu.missing
for name in ("layer_forward", "layer_backward"):
    library.impl(name, getattr(operators, name), "CPU")
kind = sys.argv[1]
dispatch._answers[kind.lower(), "cpu", torch.float64] = True

torch.manual_seed(0)
options = {"bidirectional": True, "batch_first": True, "dtype": torch.float64}
module = getattr(fastrnn, kind)(2, 3, **options)
x = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
state = [torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in module.cell_spec.states]
names = [name for name, _ in module.named_parameters()]

def run(x, *others):
    state, weights = others[: len(state_)], others[len(state_) :]
    y, hx = functional_call(module, dict(zip(names, weights)), (x, hx_of(tuple(state)) if state else None))
    return (y, *hx) if isinstance(hx, tuple) else (y, hx)

weights = list(module.parameters())
for state_ in (state, []):
    arguments = (x, *state_, *weights)
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)

loss = lambda x: run(x, *weights)[0].square().sum()
xs = torch.randn(3, 2, 2, 2, dtype=torch.float64)
torch.testing.assert_close(vmap(grad(loss))(xs), torch.stack([grad(loss)(x) for x in xs]))
with torch.no_grad():
    y, hx = module(x)
    assert y.shape == (2, 2, 6) and y.stride() == (6, 12, 1)
"""


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gradients_without_the_extension(kind):
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
