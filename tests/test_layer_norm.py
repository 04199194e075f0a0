"""Layer normalisation: the operators against the oracle, the modules against loops over torch.nn.LayerNorm."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import LAYERS, assert_same, build, inputs, results
from problems import (
    MULTIPLY_BFLOAT16,
    assert_derivatives,
    assert_operators_are_sound,
    call_of,
    doubled,
    every_cell,
    every_isa,
    forward,
    fused,
    of_each_cell,
    oracle,
    peer,
    problem,
)
from torch import Tensor, nn
from torch.func import grad, vmap

import fastrnn
from fastrnn.spec import CELLS, BackwardCall
from fastrnn.testing import (
    Case,
    RoundedProducts,
    assert_accurate,
    bfloat16_products_allowed,
    by_operators,
    by_reference,
    on_reference,
)

T, B, I, H = 4, 3, 5, 6  # noqa: E741

pytestmark = pytest.mark.usefixtures("single_thread")

CASE = Case(T, B, H, I, layer_norm=True, every_state=True)
NOISE: dict[str, Any] = {"mask": True, "zoneout": (0.3, 0.2), "draws": True}
CASES = {
    "bidirectional": replace(CASE, directions=2, batch_first=True),
    "no-state-no-bias": replace(CASE, state=False, bias=False, every_state=False),
    "packed": replace(CASE, directions=2, lengths=(4, 2, 1), every_state=False),
    "segments": replace(CASE, directions=2, padded=True, reset="by-step", batch_first=True),
    "noise": replace(CASE, **NOISE, directions=2),
    "noise-expected-packed": replace(CASE, zoneout=(0.3, 0.2), lengths=(4, 4, 2), every_state=False),
    "projected": replace(CASE, **NOISE, directions=2, P=2, padded=True),
}


# The operators


@pytest.mark.parametrize("cell,case", of_each_cell(CASES))
def test_the_oracle_is_met(cell, case, operators):
    assert_same(fused(problem(cell, case), operators), oracle(cell, case, torch.float64))


def test_members(operators):
    p = problem("lstm", replace(CASE, T=2, directions=2))
    of_both = {name: doubled(getattr(p, name)) for name in ("x", "state", "weights", "dy", "dstate")}
    got = by_operators(replace(p, **of_both), operators)
    for i in range(2):
        alone = {n: [t[i] for t in v] if isinstance(v, list) else v[i] for n, v in of_both.items()}
        assert_same({name: t[i] for name, t in got.items()}, by_operators(replace(p, **alone), operators))


def test_one_step(operators):
    p = problem("gru", replace(CASE, T=1))
    step = replace(p, x=p.x[0], state=[p.state[0][0]], dy=p.dy[0], dstate=[p.dstate[0][0]])
    got, expected = by_operators(step, operators), by_operators(p, operators)
    assert_same({name: t.flatten() for name, t in got.items()}, {name: t.flatten() for name, t in expected.items()})


LARGER = {
    "row-by-row": Case(4, 1, 130, 1, threads=3, directions=2, layer_norm=True),
    "rows-and-units": Case(3, 33, 70, 1, threads=4, layer_norm=True, **NOISE),
    "ragged": Case(6, 5, 33, 1, directions=2, lengths=(6, 6, 4, 2, 1), layer_norm=True),
    "projected": Case(3, 9, 40, 1, threads=2, P=20, directions=2, layer_norm=True),
}


@every_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("cell,case", of_each_cell(LARGER))
def test_every_instruction_set(cell, case, dtype, isa):
    p = problem(cell, case).to(dtype)
    assert_accurate(fused(p), peer(cell, case, dtype), oracle(cell, case, dtype))


@pytest.mark.parametrize("isa", MULTIPLY_BFLOAT16, indirect=True)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_products_of_float32_are_rounded_where_pytorch_allows_it(cell, isa):
    p = problem(cell, LARGER["rows-and-units"]).to(torch.float32)
    with RoundedProducts():
        rounded = by_reference(p)
    with bfloat16_products_allowed():
        assert_accurate(fused(p), rounded, oracle(cell, p.case, torch.float32))


@every_cell
def test_neither_threads_nor_what_is_saved_change_anything(cell):
    p = problem(cell, replace(LARGER["rows-and-units"], H=130))
    y, final, _ = forward(p, False)
    torch.set_num_threads(4)
    for again, of_again, _ in (forward(p, False), forward(p, True)):
        assert torch.equal(again, y) and all(map(torch.equal, of_again, final))


def test_opcheck():
    assert_operators_are_sound(call_of(problem("lstm", CASES["segments"])))


@pytest.mark.parametrize("cell,name", [("lstm", "noise"), ("gru", "bidirectional"), ("rnn_tanh", "segments")])
def test_derivatives_of_both_orders(cell, name):
    assert_derivatives(call_of(problem(cell, replace(CASES[name], T=3, H=3, every_state=False))))


def test_operators_refuse(operators):
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
    backward = BackwardCall.after(call, dy=y, dstate=final, y=y, saved=saved, needed=needed, samples=B)
    with pytest.raises(RuntimeError, match="fastrnn: expected no gradients by sample of a normalised layer"):
        operators.layer_backward(*backward)


# The modules


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


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "gru", "cifg"])  # of which it has the equations
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


@pytest.mark.parametrize("kind", LAYERS)
def test_modules_agree_with_the_oracle(kind):
    module = layer(kind, num_layers=2, bidirectional=True, batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(inputs(T, 2, I), torch.tensor([2, 4]), enforce_sorted=False)
    for x in (inputs(B, T, I), packed):
        assert_same(results(module, x), results(on_reference(module), x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_modules_are_as_accurate_as_plain_pytorch(dtype):
    module = layer("lstm", num_layers=2)
    x = inputs(T, B, I).to(dtype)
    exact = results(on_reference(copy.deepcopy(module).to(dtype).double()), x.double())
    low = module.to(dtype)
    assert_accurate(results(low, x), results(on_reference(copy.deepcopy(low)), x), exact)


def test_samples_and_members():
    """By the reference: kernels give no gradients by sample of gains."""
    module, x = layer("gru"), inputs(T, B, I)
    parameters = dict(module.named_parameters())

    def loss(given: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(module, given, (row.unsqueeze(1),))[0].square().sum()

    by_sample = vmap(grad(loss), (None, 1))(parameters, x)
    of_all = torch.autograd.grad(sum(loss(parameters, x[:, b]) for b in range(B)), list(parameters.values()))
    assert_same({name: t.sum(0) for name, t in by_sample.items()}, dict(zip(parameters, of_all, strict=True)))


def test_one_graph_takes_any_sizes():
    torch._dynamo.reset()
    module = layer("lstm", num_layers=2, bidirectional=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in ((4, 5), (3, 7)):
        got, expected = (results(m, inputs(*sizes, I)).values() for m in (compiled, module))
        assert_same(dict(enumerate(got)), dict(enumerate(expected)))


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


def test_explain_tells_what_is_saved():
    module = layer("gru").float()
    said = str(fastrnn.explain(module, torch.zeros(T, B, I)))
    assert "backend: cpu" in said and "(r, z, n, gh_n, gh_r before its norm, gh_z before its norm" in said
