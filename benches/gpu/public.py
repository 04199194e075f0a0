"""What users write, on the device: autocast, compilation, half precision in inference, each against torch.nn."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

import fastrnn
from benches.gpu.checks import Check
from benches.gpu.precision import PRECISIONS
from fastrnn.ops.dispatch import BACKENDS, reasons_against
from fastrnn.testing import compare

__all__ = ["CELL", "CHECKS", "check"]

CELL = "lstm"
_T, _B, _H = 40, 32, 256


class _Model(nn.Module):
    def __init__(self, library: ModuleType, layers: int, both: bool) -> None:
        super().__init__()
        self.before = nn.Linear(32, _H)
        self.rnn = library.LSTM(_H, _H, num_layers=layers, bidirectional=both)
        self.after = nn.Linear(_H * (1 + both), 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.rnn(self.before(x))[0])


def _model(library: ModuleType, device: str, dtype: torch.dtype, layers: int = 1, both: bool = False) -> _Model:
    torch.manual_seed(0)
    return _Model(library, layers, both).to(device=device, dtype=dtype)


def _input(device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(_T, _B, 32, generator=torch.Generator().manual_seed(1)).to(device=device, dtype=dtype)


def _results(model: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Output and all gradients."""
    x = x.clone().requires_grad_()
    parameters = dict(model.named_parameters())
    y = run(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    named = dict(zip(["dx", *(f"d {name}" for name in parameters)], gradients, strict=True))
    return {"y": y.detach(), **named}


def _autocast(device: str) -> tuple[dict[str, Tensor], ...]:
    """Two layers in both directions, forward and backward under autocast in bfloat16."""
    x = _input(device, torch.float32)

    def under_autocast(model: nn.Module) -> dict[str, Tensor]:
        def run(x: Tensor) -> Tensor:
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                return model(x)

        return _results(model, x, run)

    ours, peer = (under_autocast(_model(library, device, torch.float32, 2, True)) for library in (fastrnn, nn))
    exact = _model(nn, device, torch.float64, 2, True)
    exact.load_state_dict(_model(nn, device, torch.float32, 2, True).state_dict())
    return ours, peer, _results(exact, x.double(), exact)


def _compiled(device: str) -> tuple[dict[str, Tensor], ...]:
    """A model with a layer inside, compiled without graph breaks, forward and backward in bfloat16."""
    x = _input(device, torch.bfloat16)
    ours, peer = (_model(library, device, torch.bfloat16) for library in (fastrnn, nn))
    exact = _model(nn, device, torch.float64)
    exact.load_state_dict(peer.state_dict())
    compiled = torch.compile(ours, fullgraph=True)
    return _results(ours, x, compiled), _results(peer, x, peer), _results(exact, x.double(), exact)


def _half_inference(device: str) -> tuple[dict[str, Tensor], ...]:
    """A forward pass in float16 without gradients."""
    x = _input(device, torch.float16)
    ours, peer = (_model(library, device, torch.float16).eval() for library in (fastrnn, nn))
    exact = _model(nn, device, torch.float64).eval()
    exact.load_state_dict(peer.state_dict())
    with torch.no_grad():
        return {"y": ours(x)}, {"y": peer(x)}, {"y": exact(x.double())}


CHECKS: dict[str, tuple[Callable[[str], tuple[dict[str, Tensor], ...]], str]] = {
    "autocast to bfloat16": (_autocast, "bfloat16"),
    "torch.compile(fullgraph=True)": (_compiled, "bfloat16"),
    "inference in float16": (_half_inference, "float16"),
}


def check(name: str, device: str = "cuda") -> Check:
    run, precision_name = CHECKS[name]
    precision = PRECISIONS[precision_name]
    if device == "cuda":
        against = reasons_against(CELL, torch.device(device), precision.dtype)
        if "triton" not in {b.NAME for b in BACKENDS} or against["triton"]:
            return Check(name, [f"fastrnn.LSTM does not run on Triton's kernels: {against}"])
    return Check.of(name, [], compare(*run(device), precision.floor_ulps, precision.ulp))
