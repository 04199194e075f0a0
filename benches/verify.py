"""A result is right when its error is at most twice that of torch.nn at the same dtype, plus a few ulps.

Errors are the largest absolute differences from torch.nn in float64 on the same values; an ulp is that of the largest
value in the tensor. Where the dtype is float64 itself, nothing more exact stands behind the comparison, and the floor
allows for the rounding of both sides in sums over thousands of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastrnn
from benches.workload import Workload, build, run_inference, run_training, to_float64

__all__ = ["check_close", "check_fastrnn"]

_FLOOR_ULPS = {torch.float64: 1000, torch.float32: 4, torch.bfloat16: 1}
_PEER_ULPS = 2000


def _results(module: nn.Module, work: Workload, training: bool) -> dict[str, Tensor]:
    names = ["output", "h_n", "c_n"]
    if not training:
        with torch.no_grad():
            return dict(zip(names, run_inference(module.eval(), work), strict=False))
    parameters = dict(module.named_parameters())
    outputs, gradients = run_training(module.train(), work, [work.values.requires_grad_(), *parameters.values()])
    results = dict(zip(names, (value.detach() for value in outputs), strict=False))
    return results | dict(zip(["d_input", *(f"d_{name}" for name in parameters)], gradients, strict=True))


def check_fastrnn(work: Workload, training: bool) -> None:
    """Raises ``AssertionError`` naming each output or gradient of fastrnn that breaks the rule."""
    dtype = getattr(torch, work.case.dtype)
    exact_work = to_float64(work)
    exact = _results(build(nn, work.case, exact_work.weights, torch.float64), exact_work, training)
    peer = _results(build(nn, work.case, work.weights, dtype), work, training)
    ours = _results(build(fastrnn, work.case, work.weights, dtype), work, training)
    assert ours.keys() == exact.keys(), f"expected {list(exact)}, got {list(ours)}"

    wrong = []
    for name, value in exact.items():
        assert ours[name].shape == value.shape, f"{name}: expected {tuple(value.shape)}, got {tuple(ours[name].shape)}"
        assert ours[name].dtype == dtype, f"{name}: expected {dtype}, got {ours[name].dtype}"
        floor = _FLOOR_ULPS[dtype] * torch.finfo(dtype).eps * value.abs().max().item()
        allowed = 2 * (peer[name] - value).abs().max().item() + floor
        error = (ours[name] - value).abs().max().item()
        if not error <= allowed:  # so that a NaN is wrong
            wrong.append(f"{name}: error {error:.2e}, allowed {allowed:.2e}")
    assert not wrong, f"{work.case.id} differs from torch.nn: " + "; ".join(wrong)


def check_close(ours: list[Tensor], expected: list[Tensor], who: str) -> None:
    """A looser check for a peer, whose activations may be approximations: it finds swapped gates, not lost digits."""
    for value, reference in zip(ours, expected, strict=True):
        error = (value - reference).abs().max().item()
        allowed = _PEER_ULPS * torch.finfo(reference.dtype).eps
        assert error <= allowed, f"{who} differs from torch.nn: error {error:.2e}, allowed {allowed:.2e}"
