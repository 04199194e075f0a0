"""Results of modules by name, held to the accuracy rule, with torch.nn's module as the peer and in float64 the truth.

Where torch.nn lacks the cell both are its counterpart there, whose gradients are taken back to the weights of the cell
by the chain rule: every output and every gradient is compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn.bench.workload import Workload, build, converted, run_inference, run_training
from fastrnn.modules.counterparts import cell_of
from fastrnn.spec import CELLS
from fastrnn.testing import compare, counterpart_of

__all__ = ["FLOOR_ULPS", "check_close", "check_fastrnn", "results"]

FLOOR_ULPS = {torch.float64: 1000, torch.float32: 4, torch.bfloat16: 1}
# Of a peer's whole result. In float32 its activations may be approximations. Rounding to bfloat16 at every step costs
# OpenVINO up to 1.3 ulps in the cases of the benchmark.
_PEER_ULPS = {torch.float32: 2000, torch.bfloat16: 4}


def results(module: nn.Module, work: Workload, training: bool) -> dict[str, Tensor]:
    """Outputs and final states by name, in training also the gradients of the input and of fastrnn's parameters."""
    names = ["output", *(f"{state}_n" for state in CELLS[work.case.cell].states)]
    if not training:
        with torch.no_grad():
            return dict(zip(names, run_inference(module.eval(), work), strict=True))
    parameters = dict(module.named_parameters())
    outputs, (dx, *dweights) = run_training(module.train(), work, [work.values.requires_grad_(), *parameters.values()])
    gradients = dict(zip(parameters, dweights, strict=True))
    if cell_of(module) is not CELLS[work.case.cell]:
        gradients = counterpart_of(work.case.cell).gradients(gradients)
    found = dict(zip(names, (value.detach() for value in outputs), strict=True))
    return found | {"d_input": dx} | {f"d_{name}": gradient for name, gradient in gradients.items()}


def check_fastrnn(work: Workload, training: bool) -> None:
    """Raises ``AssertionError`` naming each output or gradient of fastrnn that breaks the rule.

    Where float32 is multiplied as bfloat16, twice the error of torch.nn in bfloat16 is allowed.
    """
    dtype = getattr(torch, work.case.dtype)
    exact_work = converted(work, torch.float64)
    exact = results(build(nn, work.case, exact_work.weights, torch.float64), exact_work, training)
    peer_work = converted(work, getattr(torch, work.case.products))
    peer = results(build(nn, work.case, peer_work.weights, peer_work.values.dtype), peer_work, training)
    peer = {name: value.to(dtype) for name, value in peer.items()}
    ours = results(build(fastrnn, work.case, work.weights, dtype), work, training)
    assert ours.keys() == exact.keys(), f"expected {list(exact)}, got {list(ours)}"
    comparisons = compare(ours, peer, exact, FLOOR_ULPS[dtype])
    wrong = [str(comparison) for comparison in comparisons if not comparison.ok]
    assert not wrong, f"{work.case.id} differs from torch.nn: " + "; ".join(wrong)


def check_close(ours: list[Tensor], expected: list[Tensor], products: torch.dtype, who: str) -> None:
    """A looser check for a peer that multiplies ``products``: it finds swapped gates, not lost digits."""
    for value, reference in zip(ours, expected, strict=True):
        error = (value.to(reference.dtype) - reference).abs().max().item()
        allowed = _PEER_ULPS[products] * torch.finfo(products).eps
        assert error <= allowed, f"{who} differs from torch.nn: error {error:.2e}, allowed {allowed:.2e}"
