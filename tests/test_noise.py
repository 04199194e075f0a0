"""Recurrent dropout and zoneout.

By C++ and by Triton's interpreter against the oracle, whose draws are checked first, and against layers that compute
the same without either.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import CELL_MODULES, LAYERS, assert_same, build, inputs, results, tensors
from problems import (
    assert_derivatives,
    assert_operators_are_sound,
    call_of,
    doubled,
    every_kernel,
    forward,
    fused,
    names,
    of_each_cell,
    oracle,
    peer,
    problem,
)
from torch import Tensor, nn
from torch.func import grad, vmap

import fastrnn
from fastrnn import ops
from fastrnn.diagnose import bytes_kept
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, BackwardCall, ForwardCall, Noise
from fastrnn.testing import Case, assert_accurate, by_operators, on_reference

pytestmark = pytest.mark.usefixtures("single_thread")

T, B, I, H = 5, 4, 3, 6  # noqa: E741
LENGTHS = torch.tensor([3, 0, 5, 1])

CASE = Case(T, B, H, I, every_state=True)
DRAWN: dict[str, Any] = {"zoneout": (0.3, 0.2), "draws": True}
CASES = {
    "mask": replace(CASE, mask=True, directions=2, batch_first=True),
    "mask-no-state": replace(CASE, mask=True, state=False, bias=False, every_state=False),
    "mask-packed": replace(CASE, mask=True, directions=2, lengths=(5, 3, 3, 1), every_state=False),
    "zoneout": replace(CASE, **DRAWN, directions=2),
    "zoneout-packed": replace(CASE, **DRAWN, directions=2, lengths=(5, 3, 3, 1), every_state=False),
    "zoneout-expected": replace(CASE, zoneout=(0.3, 0.2), batch_first=True, every_state=False),
    "zoneout-of-h-no-state": replace(CASE, zoneout=(0.5, 0.0), draws=True, state=False, every_state=False),
    "both": replace(CASE, **DRAWN, mask=True, batch_first=True),
    "both-segments": replace(CASE, **DRAWN, mask=True, directions=2, padded=True, reset="by-step", batch_first=True),
    "projected": replace(CASE, **DRAWN, mask=True, directions=2, P=2, padded=True),
}
BOTH = CASES["both"]


# The draws


def test_words_are_those_of_philox():
    """Known answers of Random123, of a key and counter of zeros; others by its definition in whole numbers."""

    def words(key: int, counter: int, direction: int) -> list[int]:
        c = [counter & 0xFFFFFFFF, counter >> 32, direction, 0]
        k = [key & 0xFFFFFFFF, key >> 32]
        for _ in range(10):
            first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    assert words(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for key, row, direction in ((0, 0, 0), (2**63 - 1, 2**40, 1), (12345678901234, 7, 0)):
        # Of units that stay with probability p the half of a word is below p: found by halving. Six have two counters.
        def found(state: int, unit: int, key: int = key, row: int = row, direction: int = direction) -> int:
            low = 0
            for bit in reversed(range(16)):
                p = (low + (1 << bit)) / 2**16
                noise = Noise(None, p, p, torch.tensor([key, row]))
                low += 0 if noise.stays(direction, torch.tensor([3]), 6)[state][0, unit].item() else 1 << bit
            return low

        counters = [2 * (row + 3), 2 * (row + 3) + 1]
        expected = [word for counter in counters for word in words(key, counter, direction)][:6]
        assert [found(0, unit) + (found(1, unit) << 16) for unit in range(6)] == expected


def test_as_many_units_stay_as_are_asked_for():
    rows, hidden = 400, 50
    noise = Noise(None, 0.3, 0.1, torch.tensor([2024, 0]))
    first, second = noise.stays(0, torch.arange(rows), hidden), noise.stays(1, torch.arange(rows), hidden)
    h, c, other = first[0].double(), first[1].double(), second[0].double()
    error = 4 / (rows * hidden) ** 0.5  # eight standard deviations or more
    assert abs(h.mean() - 0.3) < error and abs(c.mean() - 0.1) < error
    for left, right in ((h, c), (h, other), (h[1:], h[:-1]), (h[:, 1:], h[:, :-1])):
        assert abs((left * right).mean() - left.mean() * right.mean()) < error


# The operators


@pytest.mark.parametrize("cell,case", of_each_cell(CASES))
def test_the_oracle_is_met(cell, case, operators):
    assert_same(fused(problem(cell, case), operators), oracle(cell, case, torch.float64))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize(
    "name,regime,hidden",
    [("both-segments", "resident", 17), ("zoneout-expected", "resident", 17), ("both", "cooperative", 130)],
)
def test_kernels_that_keep_the_weights_on_chip(cell, name, regime, hidden, monkeypatch):
    pytest.importorskip("triton")
    operators = importlib.import_module("fastrnn.backends.triton.operators")
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32")
    case, dtype = replace(CASES[name], H=hidden), torch.float32
    p = problem(cell, case).to(dtype)
    assert operators.plan_for(p.spec, B, hidden, dtype, p.x.device).regime == regime
    assert_accurate(fused(p, operators), peer(cell, case, dtype), oracle(cell, case, dtype))


LARGER = {
    "row-by-row": Case(4, 1, 130, 40, threads=3, directions=2, mask=True, **DRAWN),
    "rows-and-units": Case(3, 33, 70, 17, threads=4, mask=True, **DRAWN),
    "ragged": Case(6, 5, 33, 20, directions=2, mask=True, lengths=(6, 6, 4, 2, 1), **DRAWN),
    "expected-mask": Case(3, 11, 40, 8, threads=2, mask=True, zoneout=(0.1, 0.5)),
    "projected": Case(3, 9, 40, 8, threads=2, P=20, directions=2, mask=True, **DRAWN),
}


@every_kernel
@pytest.mark.parametrize("cell,case", of_each_cell(LARGER))
def test_every_instruction_set(cell, case, dtype, isa):
    p = problem(cell, case).to(dtype)
    assert_accurate(fused(p), peer(cell, case, dtype), oracle(cell, case, dtype))


@pytest.mark.parametrize("cell", CELLS)
def test_threads_change_nothing(cell):
    case = replace(LARGER["rows-and-units"], mask=False)
    one, four = (forward(problem(cell, c), False) for c in (replace(case, threads=1), case))
    torch.set_num_threads(4)
    assert torch.equal(one[0], forward(problem(cell, case), False)[0]) and torch.equal(one[0], four[0])


def test_a_mask_of_zeros_is_a_weight_of_zeros(operators):
    p = problem("gru", replace(CASE, every_state=False))
    cut = replace(p, weights=[torch.zeros_like(w) if i == 1 else w for i, w in enumerate(p.weights)])
    masked = replace(p, noise=Noise(torch.zeros_like(p.state[0])))
    assert_same({"y": forward(masked, False, operators)[0]}, {"y": forward(cut, False, operators)[0]})


def test_all_stays_with_certainty(operators):
    p = problem("lstm", replace(CASE, directions=2))
    of_noise = replace(p, noise=Noise(None, 1.0, 1.0, torch.tensor([1, 0])))
    y, final, _ = forward(of_noise, False, operators)
    assert torch.equal(y, torch.cat([*p.state[0]], -1).expand(T, B, 2 * H))
    assert all(torch.equal(s, given) for s, given in zip(final, p.state, strict=False))
    gradients = by_operators(of_noise, operators)
    assert not any(gradients[f"d{name}"].any() for name in names(p) if name[:1] in "xwb")


def test_draws_belong_to_places(operators):
    """Not to how many steps or rows there are besides."""
    p = problem("lstm", replace(CASE, **DRAWN))
    y, _, _ = forward(p, False, operators)
    earlier, _, _ = forward(replace(p, x=p.x[:3]), False, operators)
    later = replace(p, x=p.x[1:], state=list(forward(replace(p, x=p.x[:1]), False, operators)[1][:2]))
    later = replace(later, noise=p.noise.from_row(B))
    torch.testing.assert_close(y[:3], earlier, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(y[1:], forward(later, False, operators)[0], rtol=1e-12, atol=1e-14)


def test_members_have_noise_of_their_own(operators):
    p = problem("lstm", BOTH)

    of_both = {name: doubled(getattr(p, name)) for name in ("x", "state", "weights", "dy", "dstate")}
    mask, seed = p.noise.h_mask, p.noise.zoneout_seed
    noise = p.noise._replace(h_mask=torch.stack((mask, 2 - mask)), zoneout_seed=torch.stack((seed, seed + 1)))
    got = by_operators(replace(p, **of_both, noise=noise), operators)
    for i in range(2):
        alone = replace(
            p,
            **{name: [v[i] for v in value] if isinstance(value, list) else value[i] for name, value in of_both.items()},
            noise=noise.of_member(i),
        )
        assert_same({name: t[i] for name, t in got.items()}, by_operators(alone, operators))


def test_one_step(operators):
    p = problem("lstm", replace(BOTH, T=1))
    h, c, every = p.dstate
    step = replace(p, x=p.x[:, 0], state=[s[0] for s in p.state], dy=p.dy[:, 0], dstate=[h[0], c[0], every[0, 0]])
    step = replace(step, noise=p.noise._replace(h_mask=p.noise.h_mask[0]))
    got, expected = by_operators(step, operators), by_operators(p, operators)
    assert_same({name: t.flatten() for name, t in got.items()}, {name: t.flatten() for name, t in expected.items()})


ERRORS: dict[str, tuple[Callable[[ForwardCall], dict], str]] = {
    "mask": (
        lambda a: {"h_mask": a.h_mask[:, :2]},
        r"h_mask of shape \[1, 4, 6\] as Double .*, got Double \[1, 2, 6\]",
    ),
    "mask-dtype": (lambda a: {"h_mask": a.h_mask.float()}, r"h_mask .* as Double .*, got Float"),
    "probability": (lambda a: {"zoneout_h": 1.5}, "zoneout_h from 0 to 1, got 1.5"),
    "seed": (lambda a: {"zoneout_seed": a.zoneout_seed[:1]}, r"zoneout_seed to be int64 \[2\] .*, got Long \[1\]"),
    "no-state": (
        lambda a: {"cell": "gru", "weights": [w[: 3 * H] for w in a.weights], "c_0": None},
        "zoneout_c of 0, for that state is not the cell's own, got 0.2",
    ),
}


@pytest.mark.parametrize("change,message", ERRORS.values(), ids=ERRORS)
def test_operators_refuse(change, message, operators):
    call = call_of(problem("lstm", BOTH))
    with pytest.raises(RuntimeError, match=message):
        operators.layer_forward(*call._replace(**change(call)))


@pytest.mark.parametrize("name", ["both-segments", "zoneout-expected", "projected"])
def test_opcheck(name):
    assert_operators_are_sound(call_of(problem("lstm", CASES[name])))


@pytest.mark.parametrize("cell,name", [("lstm", "both"), ("gru", "zoneout"), ("rnn_relu", "zoneout-expected")])
def test_derivatives_of_both_orders(cell, name):
    assert_derivatives(call_of(problem(cell, replace(CASES[name], T=3, H=2, every_state=False))))


@pytest.mark.parametrize("mapped", [("x",), ("x", "h_mask"), ("x", "zoneout_seed"), ("weights",)], ids="-".join)
def test_vmap(mapped):
    p = problem("lstm", BOTH)
    call = call_of(p)
    of_all = {"x": call.x, "h_mask": call.h_mask, "zoneout_seed": call.zoneout_seed, "weights": call.weights[0]}
    each = {name: torch.stack([value, value.roll(1, -1), value.flip(-1)]) for name, value in of_all.items()}
    given = [each[name] if name in mapped else value for name, value in of_all.items()]

    def run(x: Tensor, h_mask: Tensor, seed: Tensor, w_ih: Tensor) -> Tensor:
        own = call._replace(x=x, h_mask=h_mask, zoneout_seed=seed, weights=[w_ih, *call.weights[1:]])
        y, final, _ = ops.layer_forward(*own)
        return torch.cat([t.flatten() for t in (y, *final)])

    def of_weights(x: Tensor, h_mask: Tensor, seed: Tensor, w_ih: Tensor) -> Tensor:
        return grad(lambda w: run(x, h_mask, seed, w).square().sum())(w_ih)

    dims = tuple(0 if name in mapped else None for name in of_all)
    for function in (run, of_weights):
        one_by_one = [function(*[v[i] if d == 0 else v for v, d in zip(given, dims, strict=True)]) for i in range(3)]
        assert_same({"": vmap(function, dims)(*given)}, {"": torch.stack(one_by_one)})


def test_gradients_by_sample_of_a_mask():
    p = problem("gru", replace(CASES["mask"], every_state=False))
    y, final, saved = forward(p, True)
    call = BackwardCall.after(call_of(p), dy=p.dy, dstate=p.dstate, y=y, saved=saved, needed=[True] * len(names(p)))
    by_sample = ops.layer_backward(*call._replace(samples=B))
    assert_same(dict(enumerate(t.sum(0) for t in by_sample[2:])), dict(enumerate(ops.layer_backward(*call)[2:])))


# The modules


def layer(kind: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(fastrnn, LAYERS, kind, I, H, dtype=torch.float64, **options)


class Seeded(nn.Module):
    """A layer whose draws are the same at every call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: Any) -> Any:
        torch.manual_seed(1)
        return self.module(*given)


FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "stacked": ({"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}, inputs(B, T, I)),
    "unbatched": ({"num_layers": 2}, inputs(T, I)),
    "packed": (
        {"bidirectional": True},
        nn.utils.rnn.pack_padded_sequence(inputs(T, 2, I), torch.tensor([2, 5]), enforce_sorted=False),
    ),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options,x", FORMS.values(), ids=FORMS)
def test_modules_agree_with_the_oracle(kind, options, x, training):
    module = layer(kind, **options, recurrent_dropout=0.5, zoneout=0.3).train(training)
    assert_same(results(Seeded(module), x), results(Seeded(on_reference(module)), x))


def test_draws_come_from_the_generator_and_only_in_training():
    for options in ({"recurrent_dropout": 0.5}, {"zoneout": (0.2, 0.0)}):
        module, x = layer("lstm", **options), inputs(T, B, I)
        first, second = Seeded(module)(x)[0], module(x)[0]
        assert torch.equal(first, Seeded(module)(x)[0]) and not torch.equal(first, second)
        module.eval()
        assert torch.equal(module(x)[0], module(x)[0])
    torch.testing.assert_close(layer("lstm", recurrent_dropout=0.5).eval()(x), layer("lstm")(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("recompute", [True, 2])
def test_recomputation_draws_the_same(kind, recompute):
    module = layer(kind, num_layers=2, recurrent_dropout=0.5, zoneout=0.3)
    x = inputs(T, B, I)

    def of(recompute: bool | int) -> tuple[dict[str, Tensor], int]:
        module.recompute = recompute
        return results(Seeded(module), x), bytes_kept(lambda: module(x.requires_grad_()), [x, *module.parameters()])

    (plain, of_plain), (again, of_again) = of(False), of(recompute)
    if recompute is True:
        assert all(torch.equal(again[name], plain[name]) for name in plain) and of_again < of_plain
    else:
        assert_same(again, plain)


def test_one_graph_takes_any_sizes():
    torch._dynamo.reset()
    module = layer("lstm", num_layers=2, batch_first=True, recurrent_dropout=0.5, zoneout=0.3)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in ((4, 5), (3, 7)):
        x = inputs(*sizes, I)
        for training in (True, False):
            module.train(training)
            got, expected = (results(Seeded(m), x).values() for m in (compiled, module))
            assert_same(dict(enumerate(got)), dict(enumerate(expected)))


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@torch.no_grad()
def test_frozen_layers_take_what_is_expected(weights):
    """As the layer of the weights that they read."""
    for kind in LAYERS:
        module = layer(kind, num_layers=2, bidirectional=True, zoneout=0.3).float().eval()
        frozen = fastrnn.freeze(module, weights)
        exact = layer(kind, num_layers=2, bidirectional=True, zoneout=0.3).float().eval()
        for name, w in exact.named_parameters():
            w.copy_(getattr(frozen, name))
        x = inputs(T, B, I, dtype=torch.float32)
        got, expected = (dict(enumerate(tensors(m(x)))) for m in (frozen, exact))
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=5e-3)


def test_autocast():
    module = layer("gru", recurrent_dropout=0.5, zoneout=0.3).float()
    x = inputs(T, B, I, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = Seeded(module)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), Seeded(module)(x)[0], rtol=0.1, atol=0.05)


@pytest.mark.filterwarnings("ignore:fastrnn. .* with layer_norm:UserWarning")
@pytest.mark.parametrize("own", [{"zoneout": 0.3}, {"layer_norm": True, "zoneout": 0.5}], ids=["zoneout", "normalised"])
@pytest.mark.parametrize("kind", CELL_MODULES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_cells_agree_with_the_oracle(kind, own, training):
    torch.manual_seed(0)
    cell = build(fastrnn, CELL_MODULES, kind, I, H, dtype=torch.float64, **own).train(training)
    assert "zoneout=" in repr(cell)
    for x in (inputs(B, I), inputs(I)):
        hx = hx_of(tuple(inputs(*x.shape[:-1], H) for _ in cell.cell_spec.states))
        assert_same(results(Seeded(cell), x, hx), results(Seeded(on_reference(cell)), x, hx))
    if not own.get("layer_norm"):
        frozen = fastrnn.freeze(build(fastrnn, CELL_MODULES, kind, I, H, **own), "bfloat16")
        whole = build(fastrnn, CELL_MODULES, kind, I, H, **own).eval()
        with torch.no_grad():
            for name, w in whole.named_parameters():
                w.copy_(getattr(frozen, name))
        x = inputs(B, I, dtype=torch.float32)
        with torch.no_grad():
            got, expected = (dict(enumerate(tensors(m(x)))) for m in (frozen, whole))
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=5e-3)


MODULE_ERRORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "probability": ("lstm", {"recurrent_dropout": -0.1}, "recurrent_dropout: expected a probability .*, got -0.1"),
    "three": ("lstm", {"zoneout": (0.1, 0.2, 0.3)}, "zoneout: expected a probability, or one for h and one for c"),
    "no-c": ("gru", {"zoneout": (0.1, 0.2)}, "zoneout: expected a probability for h alone with cell gru"),
    "projected": ("lstm", {"zoneout": 0.1, "proj_size": 2}, r"zoneout: expected \(0, p\) with a projection"),
    "recompute": (
        "lstm",
        {"zoneout": 0.1, "recompute": 2, "bidirectional": True},
        "recompute: expected True or False for two directions with zoneout",
    ),
}


@pytest.mark.parametrize("kind,options,message", MODULE_ERRORS.values(), ids=MODULE_ERRORS)
def test_modules_refuse(kind, options, message):
    with pytest.raises(ValueError, match=message):
        layer(kind, **options)


def test_what_torch_lacks_is_told():
    module = layer("lstm", recurrent_dropout=0.5, zoneout=(0.1, 0.2))
    assert "recurrent_dropout=0.5, zoneout=(0.1, 0.2)" in repr(module)
    with pytest.raises(RuntimeError, match="without recurrent_dropout and zoneout"):
        torch.jit.script(module)
    with pytest.warns(UserWarning, match="torch.nn has no recurrent_dropout and no zoneout"):
        fastrnn.restore(nn.Sequential(module))
