"""Layer normalisation, against loops over torch.nn.LayerNorm."""

import copy

import pytest
import torch
from comparison import LAYERS, assert_same, build, inputs, results
from torch import Tensor, nn

import fastrnn
from fastrnn.spec import CELLS

T, B, I, H = 4, 3, 5, 6  # noqa: E741

pytestmark = pytest.mark.filterwarnings("ignore:fastrnn. .* with layer_norm:UserWarning")


def layer(kind: str, **options: object) -> nn.Module:
    """With gains that are not 1."""
    torch.manual_seed(0)
    module = build(fastrnn, LAYERS, kind, I, H, dtype=torch.float64, layer_norm=True, **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "_ln_" in name:
                parameter += torch.rand_like(parameter) - 0.5
    return module


class Loop(nn.Module):
    """A layer of one direction, a norm for every sum that is one to Ba et al."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of
        gates = len(CELLS[of.mode.lower()].gates)
        self.together = [2, 1] if of.mode == "GRU" else [gates]

    def norms(self, side: str, product: Tensor) -> Tensor:
        gain, bias = getattr(self.of, f"weight_ln_{side}_l0"), getattr(self.of, f"bias_{side}_l0")
        sizes = [count * H for count in self.together]
        out = []
        for part, g, b in zip(product.split(sizes, -1), gain.split(sizes), bias.split(sizes), strict=True):
            norm = nn.LayerNorm(len(g), dtype=g.dtype)
            out.append(torch.func.functional_call(norm, {"weight": g, "bias": b}, (part,)))
        return torch.cat(out, -1)

    def forward(self, x: Tensor, hx: object = None) -> tuple[Tensor, object]:
        of, mode = self.of, self.of.mode
        h = c = x.new_zeros(B, H)
        ys = []
        for t in range(T):
            gx = self.norms("ih", x[t] @ of.weight_ih_l0.t())
            gh = self.norms("hh", h @ of.weight_hh_l0.t())
            if mode in ("LSTM", "CIFG"):
                *i, f, g, o = (gx + gh).chunk(len(self.of.cell_spec.gates), -1)
                f = f.sigmoid()
                c = f * c + (i[0].sigmoid() if i else 1 - f) * g.tanh()
                norm = nn.LayerNorm(H, dtype=c.dtype)
                normalised = {"weight": of.weight_ln_c_l0, "bias": of.bias_ln_c_l0}
                h = o.sigmoid() * torch.func.functional_call(norm, normalised, (c,)).tanh()
            elif mode == "GRU":
                (xr, xz, xn), (hr, hz, hn) = gx.chunk(3, -1), gh.chunk(3, -1)
                z = (xz + hz).sigmoid()
                h = (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h
            else:
                h = (gx + gh).tanh() if mode == "RNN_TANH" else (gx + gh).relu()
            ys.append(h)
        return torch.stack(ys), (h.unsqueeze(0), c.unsqueeze(0)) if len(of.cell_spec.states) > 1 else h.unsqueeze(0)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_loop_is_met(kind):
    module = layer(kind)
    got, expected = results(module, inputs(T, B, I)), results(Loop(module), inputs(T, B, I))
    assert_same(got, {name.replace(" of.", " "): value for name, value in expected.items()})


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_gains_are_named_and_begin_with_one(kind, bias):
    module = build(fastrnn, LAYERS, kind, I, H, num_layers=2, bidirectional=True, bias=bias, layer_norm=True)
    gates, of_state = len(CELLS[kind].gates) * H, len(CELLS[kind].states) > 1
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        ones = {"weight_ln_ih": gates, "weight_ln_hh": gates} | ({"weight_ln_c": H} if of_state else {})
        for name, size in ones.items():
            assert torch.equal(getattr(module, name + suffix), torch.ones(size))
        assert hasattr(module, "bias_ln_c" + suffix) == (bias and of_state)
    again = build(fastrnn, LAYERS, kind, I, H, num_layers=2, bidirectional=True, bias=bias, layer_norm=True)
    again.load_state_dict(module.state_dict())
    x = inputs(T, B, I, dtype=torch.float32)
    assert torch.equal(again(x)[0], module(x)[0]) and torch.equal(copy.deepcopy(module)(x)[0], module(x)[0])


def test_functional_takes_the_gains():
    module = layer("lstm", num_layers=2, proj_size=2)
    x, weights = inputs(T, B, I), list(module.parameters())
    options = {"num_layers": 2, "layer_norm": True, "lengths": torch.tensor([2, 0, 4])}
    y, (h, c) = fastrnn.functional.rnn("lstm", x, (), weights, **options)
    expected, (h_n, c_n) = module(x, lengths=options["lengths"])
    assert torch.equal(y, expected) and torch.equal(h, h_n) and torch.equal(c, c_n)
    with pytest.raises(ValueError, match=r"weights: expected 16 tensors \(8 for .* or 18 with projections, got 17"):
        fastrnn.functional.rnn("lstm", x, (), weights[:-1], **options)


def test_what_has_none_refuses():
    module = layer("lstm").float()
    with pytest.raises(ValueError, match="expected no layer_norm"):
        fastrnn.freeze(nn.Sequential(module), "bfloat16")
    with pytest.warns(UserWarning, match="torch.nn has no layer_norm"):
        fastrnn.restore(nn.Sequential(module))
    with pytest.raises(RuntimeError, match="without layer_norm"):
        torch.jit.script(module)
    with pytest.raises(ValueError, match="recompute: expected False with layer_norm"):
        layer("lstm", recompute=True)
    assert "not cpu: it has no layer normalisation" in str(fastrnn.explain(module, torch.zeros(T, B, I)))
