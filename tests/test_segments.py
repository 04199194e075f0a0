"""Rows that end early and rows that begin anew, the states of every step, recomputation and weight dropout.

By C++ and by Triton's interpreter against the oracle, against packed batches, and against sequences one by one.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import LAYERS, assert_same, build, inputs, results, tensors
from problems import assert_derivatives, call_of, doubled, forward, fused, names, of_each_cell, oracle, peer, problem
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import grad, vmap

import fastrnn
from fastrnn import ops
from fastrnn.diagnose import bytes_kept
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, BackwardCall, ForwardCall, Segments
from fastrnn.testing import Case, Problem, assert_accurate, by_operators, on_reference

pytestmark = pytest.mark.usefixtures("single_thread")

T, B, I, H = 5, 4, 3, 6  # noqa: E741
LENGTHS = torch.tensor([3, 0, 5, 1])
MARKS = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)  # [T, B]

CASE = Case(T, B, H, I, every_state=True)
CASES = {
    "lengths": replace(CASE, padded=True, directions=2, batch_first=True),
    "lengths-no-state": replace(CASE, padded=True, state=False, bias=False, every_state=False),
    "reset": replace(CASE, reset="zeros", directions=2, state=False),
    "reset-once": replace(CASE, reset="once", directions=2, batch_first=True),
    "reset-by-step": replace(CASE, reset="by-step", state=False),
    "both": replace(CASE, padded=True, reset="zeros", bias=False),
    "both-once-no-state": replace(CASE, padded=True, reset="once", state=False),
    "both-by-step": replace(CASE, padded=True, reset="by-step", directions=2, batch_first=True),
    "projected-lengths": replace(CASE, padded=True, directions=2, P=2, every_state=False),
    "projected-both": replace(CASE, padded=True, reset="once", directions=2, P=2, batch_first=True),
}
BOTH = CASES["both-by-step"]


@pytest.mark.parametrize("cell,case", of_each_cell(CASES))
def test_the_oracle_is_met(cell, case, operators):
    assert_same(fused(problem(cell, case), operators), oracle(cell, case, torch.float64))


@pytest.mark.parametrize(
    "name,regime,hidden",
    [("lengths", "resident", 17), ("both-by-step", "resident", 17), ("lengths", "cooperative", 70)],
)
def test_kernels_that_keep_the_weights_on_chip(name, regime, hidden, monkeypatch):
    pytest.importorskip("triton")
    operators = importlib.import_module("fastrnn.backends.triton.operators")
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32")
    case, dtype = replace(CASES[name], H=hidden), torch.float32
    p = problem("lstm", case).to(dtype)
    assert operators.plan_for(p.spec, B, hidden, dtype, p.x.device).regime == regime
    assert_accurate(fused(p, operators), peer("lstm", case, dtype), oracle("lstm", case, dtype))


# What segments mean


def segmented(p: Problem, *segments: Any) -> Problem:
    return replace(p, segments=Segments(*segments))


def test_lengths_are_those_of_a_packed_batch(operators):
    p, order = problem("lstm", replace(CASE, directions=2)), LENGTHS.argsort(descending=True)[:3]
    has = torch.arange(T)[:, None] < LENGTHS
    rows = p.x[:, order][has[:, order]]
    packed = replace(p, case=replace(p.case, lengths=(5, 3, 1)), x=rows, state=[s[:, order] for s in p.state])
    y, final, _ = forward(packed, False, operators)
    got, got_final, _ = forward(segmented(p, LENGTHS), False, operators)
    exact = {"rtol": 0, "atol": 0 if operators is ops else 1e-14}
    torch.testing.assert_close(got[:, order][has[:, order]], y, **exact)
    torch.testing.assert_close([s[:, order] for s in got_final[:2]], final[:2], **exact)
    assert not got[~has].any() and not got_final[2][:, ~has].any()


def test_resets_are_sequences_one_by_one(operators):
    """And what one of them holds does not reach another."""
    p, row = problem("lstm", replace(CASE, directions=2)), slice(1, 2)
    marks = torch.zeros(T, B, dtype=torch.bool)
    marks[2:4, row] = True
    spoiled = p.x.clone()
    spoiled[2, row] = torch.nan
    y, _, _ = forward(segmented(replace(p, x=spoiled), None, marks), False, operators)
    assert y[2, row].isnan().all()
    for first, last, entering in ((0, 2, 0), (3, T, 1)):
        # The direction that enters the row there has its initial state, the other zeros.
        state = [torch.zeros_like(s[:, row]) for s in p.state]
        for zeros, s in zip(state, p.state, strict=True):
            zeros[entering] = s[entering, row]
        alone, _, _ = forward(replace(p, x=p.x[first:last, row], state=state), False, operators)
        torch.testing.assert_close(y[first:last, row], alone, rtol=1e-12, atol=1e-12)


def test_no_gradient_crosses_a_reset(operators):
    p = problem("gru", CASE)
    marks = torch.zeros(T, B, dtype=torch.bool)
    marks[2] = True
    dy = torch.zeros_like(p.dy)
    dy[3] = p.dy[3]
    found = by_operators(segmented(replace(p, dy=dy, dstate=[None]), None, marks), operators)
    dx = found["dx"]
    assert dx[2:4].all() and not dx[:2].any() and not dx[4:].any() and not found["dh_0"].any()


def test_what_lies_beyond_a_row_does_not_matter(operators):
    p = segmented(problem("lstm", CASE), LENGTHS)
    beyond = (torch.arange(T)[:, None] >= LENGTHS).unsqueeze(-1)
    spoiled = replace(p, x=p.x.masked_fill(beyond, torch.nan), dy=p.dy.masked_fill(beyond, torch.nan))
    assert_same(by_operators(spoiled, operators), by_operators(p, operators))


@pytest.mark.parametrize("marks", [None, torch.ones(B, T, dtype=torch.bool)], ids=["lengths", "both"])
def test_no_steps_at_all(marks, operators):
    p = problem("lstm", replace(CASE, directions=2, batch_first=True))
    found = fused(segmented(p, torch.zeros(B, dtype=torch.int32), marks), operators)
    passed = dict(zip(("h_T", "c_T", "dh_0", "dc_0"), [*p.state, *p.dstate], strict=False))
    assert_same({name: found.pop(name) for name in passed}, passed)
    assert not any(t.any() for t in found.values())


def test_no_mark_is_a_plain_layer(operators):
    p = problem("lstm", replace(CASE, directions=2))
    nowhere = segmented(p, torch.full((B,), T), torch.zeros(T, B, dtype=torch.bool))
    assert_same(fused(nowhere, operators), fused(p, operators))


def test_marks_everywhere_are_single_steps(operators):
    p = problem("lstm", replace(CASE, directions=2, state=False))
    y, final, _ = forward(segmented(p, None, torch.ones(T, B, dtype=torch.bool)), False, operators)
    of_steps, (h, c, _), _ = forward(replace(p, x=p.x.reshape(1, T * B, I)), False, operators)
    ends = [s.view(2, T, B, H)[[0, 1], [-1, 0]] for s in (h, c)]
    assert_same({"y": y, "h": final[0], "c": final[1]}, {"y": of_steps.view_as(y), "h": ends[0], "c": ends[1]})


# Forms that the operators take


def test_members_share_their_segments(operators):
    p = problem("lstm", BOTH)

    of_both = {name: doubled(getattr(p, name)) for name in ("x", "state", "weights", "dy", "dstate")}
    states = doubled(p.segments.reset_state)
    got = by_operators(replace(p, **of_both, segments=p.segments._replace(reset_state=states)), operators)
    assert_same({name: t[0] for name, t in got.items()}, by_operators(p, operators))


@pytest.mark.parametrize("batch", ["packed", "step"])
def test_states_of_every_step(batch, operators):
    if batch == "packed":
        p = problem("lstm", replace(CASE, lengths=(5, 3, 3, 1)))
        shape, last = (1, 12, H), (0, [11, 8, 9, 3])
    else:
        p = problem("lstm", replace(CASE, T=1))
        h, c, every = p.dstate
        p = replace(p, x=p.x[0], state=[s[0] for s in p.state], dy=p.dy[0], dstate=[h[0], c[0], every[0, 0]])
        shape, last = (B, H), ()
    found = by_operators(p, operators)
    assert found["c of every step"].shape == shape
    assert torch.equal(found["c of every step"][last].flatten(), found["c_T"].flatten())
    without = by_operators(replace(p, case=replace(p.case, every_state=False), dstate=p.dstate[:2]), operators)
    assert not torch.equal(found["dx"], without["dx"])


ERRORS: dict[str, tuple[Callable[[ForwardCall], dict], str]] = {
    "lengths-size": (lambda a: {"lengths": LENGTHS[:3]}, r"lengths to be integers \[4\] on .*, got Long \[3\] on cpu"),
    "lengths-float": (lambda a: {"lengths": LENGTHS.float()}, r"lengths to be integers .*, got Float \[4\] on cpu"),
    "reset-order": (lambda a: {"reset": a.reset.t()}, r"reset to be bool \[B, T\], .*, got Bool \[5, 4\] on cpu"),
    "reset-dtype": (lambda a: {"reset": a.reset.int()}, r"reset to be bool .*, got Int \[4, 5\] on cpu"),
    "reset-missing": (lambda a: {"reset": None}, "expected 2 states for a reset, and a reset, got 2 without one"),
    "reset-states": (lambda a: {"c_reset": None}, "expected 2 states for a reset, and a reset, got 1"),
    "reset-shape": (
        lambda a: {"h_reset": a.h_reset[:, :2]},
        r"reset_state\[0\] of shape \[2, 4, 6\] or, for every step, \[2, 5, 4, 6\] .*, got Double \[2, 2, 4, 6\]",
    ),
    "reset-forms": (lambda a: {"c_reset": a.c_reset[:, 0]}, r"reset_state\[1\] of shape"),
    "reset-float": (lambda a: {"c_reset": a.c_reset.float()}, r"reset_state\[1\] .* as Double .*, got Float"),
    "packed": (
        lambda a: {"x": a.x.flatten(0, 1), "batch_sizes": torch.full((T,), B)},
        "lengths and reset of an input of 3 dimensions, got a packed one",
    ),
    "step": (
        lambda a: {"x": a.x[:, 0], "h_0": a.h_0[0], "c_0": a.c_0[0], "weights": a.weights[:4], "directions": 1},
        "lengths and reset of an input of 3 dimensions, got a single step",
    ),
}


@pytest.mark.parametrize("change,message", ERRORS.values(), ids=ERRORS)
def test_operators_refuse(change, message, operators):
    call = call_of(problem("lstm", BOTH))
    with pytest.raises(RuntimeError, match=message):
        operators.layer_forward(*call._replace(**change(call)))


def test_lengths_outside_the_steps(operators):
    """A GPU, which is not waited for, takes the nearest that there are."""
    p = segmented(problem("gru", CASE), torch.tensor([3, -1, 6, 1]))
    if operators is ops:
        with pytest.raises(RuntimeError, match="expected lengths from 0 to 5, got -1 of row 1"):
            forward(p, False, operators)
    else:
        assert_same(by_operators(p, operators), by_operators(segmented(p, LENGTHS), operators))


def test_gradients_by_sample_are_refused(operators):
    p = problem("lstm", BOTH)
    y, final, saved = forward(p, True, operators)
    call = BackwardCall.after(
        call_of(p), dy=y, dstate=final, y=y, saved=saved, needed=[True] * len(names(p)), samples=B
    )
    with pytest.raises(NotImplementedError, match="neither lengths nor reset beside gradients by sample"):
        operators.layer_backward(*call)


MODULE_ERRORS = {
    "lengths": ({"lengths": LENGTHS.float()}, r"lengths: expected integers \[4\], got torch.float32 \[4\]"),
    "reset": ({"reset": MARKS.t()}, r"reset: expected bool \[5, 4\], got torch.bool \[4, 5\]"),
    "states": ({"reset_state": torch.zeros(1, B, H)}, r"reset_state: expected 1 tensors \(h\) beside a reset"),
    "shape": ({"reset": MARKS, "reset_state": torch.zeros(B, H)}, r"expected shape \(1, 4, 6\) or \(1, 5, 4, 6\)"),
}


@pytest.mark.parametrize("given,message", MODULE_ERRORS.values(), ids=MODULE_ERRORS)
def test_modules_refuse(given, message):
    with pytest.raises(ValueError, match=message):
        fastrnn.GRU(I, H)(torch.zeros(T, B, I), **given)


def test_a_packed_input_has_no_lengths():
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(T, B, I), torch.tensor([5, 3, 3, 1]))
    with pytest.raises(ValueError, match="expected an input that is not packed"):
        fastrnn.LSTM(I, H)(packed, lengths=LENGTHS)


@pytest.mark.parametrize("name", ["lengths", "both-by-step", "both-once-no-state", "projected-both"])
def test_opcheck(name):
    p = problem("lstm", CASES[name])
    call = call_of(p)
    torch.library.opcheck(ops.layer_forward, tuple(call))
    y, final, saved = forward(p, True)
    needed = [True] * len(call.inputs)
    backward = BackwardCall.after(call, dy=y.cos(), dstate=final, y=y, saved=saved, needed=needed)
    torch.library.opcheck(ops.layer_backward, tuple(backward))


# Modules, derivatives and transforms


def layer(kind: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(fastrnn, LAYERS, kind, I, H, dtype=torch.float64, **options)


class Bound(nn.Module):
    """A layer that is always given the same besides its input."""

    def __init__(self, module: nn.Module, given: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.given = module, given

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        return self.module(x, hx, **self.given)


FORMS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "stacked": (
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        inputs(B, T, I),
        {"lengths": LENGTHS, "reset": MARKS.t(), "reset_state": 4},
    ),
    "unbatched": (
        {"num_layers": 2},
        inputs(T, I),
        {"lengths": torch.tensor(3), "reset": MARKS[:, 1], "reset_state": 2},
    ),
    "packed": (
        {"bidirectional": True},
        nn.utils.rnn.pack_padded_sequence(inputs(T, 2, I), torch.tensor([2, 5]), enforce_sorted=False),
        {},
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options,x,given", FORMS.values(), ids=FORMS)
def test_modules_agree_with_the_oracle(kind, options, x, given):
    module = layer(kind, **options)
    if given:
        form = (given["reset_state"], *((B,) if x.dim() == 3 else ()), H)
        given = given | {"reset_state": hx_of(tuple(inputs(*form) for _ in module.cell_spec.states))}
    given = given | {"return_states": True}
    assert_same(results(Bound(module, given), x), results(Bound(on_reference(module), given), x))


@pytest.mark.parametrize("cell,name", [("lstm", "both-by-step"), ("gru", "lengths"), ("cifg", "projected-both")])
def test_derivatives_of_both_orders(cell, name):
    assert_derivatives(call_of(problem(cell, replace(CASES[name], T=3, H=2))))


@pytest.mark.parametrize("mapped", [False, True], ids=["shared", "mapped"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_vmap(mapped, batch_first):
    module = layer("lstm", bidirectional=True, batch_first=batch_first)
    x = inputs(3, *((B, T, I) if batch_first else (T, B, I)))
    lengths, marks = LENGTHS, MARKS.t() if batch_first else MARKS
    if mapped:
        lengths, marks = torch.stack([lengths.roll(i) for i in range(3)]), torch.stack([marks, ~marks, marks.flip(0)])

    def run(x: Tensor, lengths: Tensor, reset: Tensor) -> Tensor:
        return torch.cat([t.flatten() for t in tensors(module(x, lengths=lengths, reset=reset, return_states=True))])

    def loss(*arguments: Tensor) -> Tensor:
        return run(*arguments).square().sum()

    dims = (0, 0, 0) if mapped else (0, None, None)
    for function in (run, grad(loss)):
        each = [function(x[i], *((lengths[i], marks[i]) if mapped else (lengths, marks))) for i in range(3)]
        assert_same({"": vmap(function, dims)(x, lengths, marks)}, {"": torch.stack(each)})


class Ragged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = layer("lstm", num_layers=2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, _), states = self.rnn(x, lengths=lengths, reset=reset, return_states=True)
        return y, h + states.c.sum((1, 2)).unsqueeze(1)


def ragged_batch(batch: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    reset = torch.rand(batch, steps, generator=generator) < 0.3
    return inputs(batch, steps, I), torch.randint(steps + 1, (batch,), generator=generator), reset


def test_one_graph_takes_any_lengths_and_resets():
    torch._dynamo.reset()
    module = Ragged()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    before = counters["stats"]["unique_graphs"]
    for sizes in ((4, 5), (4, 5), (3, 7), (6, 2)):
        batch = ragged_batch(*sizes)
        got, expected = compiled(*batch), module(*batch)
        assert_same(dict(enumerate(got)), dict(enumerate(expected)))
        parameters = list(module.parameters())
        first, second = (torch.autograd.grad(sum(t.sin().sum() for t in ts), parameters) for ts in (got, expected))
        assert_same(dict(enumerate(first)), dict(enumerate(second)))
    assert counters["stats"]["unique_graphs"] - before == 2  # the first sizes, any sizes


def test_an_exported_program_takes_any_sizes():
    module = Ragged()
    batch, steps = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "steps"))
    free = ({0: batch, 1: steps}, {0: batch}, {0: batch, 1: steps})
    program = torch.export.export(module, ragged_batch(4, 5), dynamic_shapes=free).module()
    for sizes in ((4, 5), (7, 3)):
        given = ragged_batch(*sizes)
        assert_same(dict(enumerate(program(*given))), dict(enumerate(module(*given))))


# What else a module can be asked for


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("recompute", [True, 2])
@pytest.mark.parametrize("segments", [False, True], ids=["whole", "segments"])
def test_recomputation_keeps_less_and_changes_nothing(kind, recompute, segments):
    module = layer(kind, num_layers=2, bidirectional=not segments)
    given = {"lengths": LENGTHS, "reset": MARKS} if segments else {}
    x = inputs(T, B, I)

    def of(recompute: bool | int) -> tuple[dict[str, Tensor], int]:
        module.recompute = recompute
        owned = [x, *module.parameters(), *given.values()]
        kept = bytes_kept(lambda: module(x.requires_grad_(), **given), owned)
        return results(Bound(module, given), x), kept

    (plain, of_plain), (again, of_again) = of(False), of(recompute)
    if recompute is True:
        assert all(torch.equal(again[name], plain[name]) for name in plain)
        # y of each layer, from which a plain RNN has its derivative anyway.
        outputs = 2 * T * B * H * (1 if segments else 2) * 8
        assert of_again <= outputs if CELLS[kind].saved else of_again == of_plain
    else:
        assert_same(again, plain)


def test_weight_dropout_comes_from_the_seed_and_only_in_training():
    module = layer("gru", bidirectional=True, weight_dropout=0.5)
    plain = layer("gru", bidirectional=True)
    x = inputs(T, B, I)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return module(x)[0]

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    torch.manual_seed(0)
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
            nn.functional.dropout(getattr(plain, name), 0.5, inplace=True)
    assert torch.equal(run(0), plain(x)[0])
    module.eval()
    assert torch.equal(run(0), run(1)) and torch.equal(run(0), layer("gru", bidirectional=True)(x)[0])


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@torch.no_grad()
def test_frozen_layers_take_segments(weights):
    """As the layer of the weights that they read."""
    module = layer("lstm", num_layers=2, bidirectional=True).float()
    frozen = fastrnn.freeze(module, weights)
    exact = layer("lstm", num_layers=2, bidirectional=True).float()
    for name, w in exact.named_parameters():
        w.copy_(getattr(frozen, name))
    x, given = inputs(T, B, I, dtype=torch.float32), {"lengths": LENGTHS, "reset": MARKS}
    got, expected = (dict(enumerate(tensors(m(x, **given)))) for m in (frozen, exact))
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=5e-3)
    assert not got[0][torch.arange(T)[:, None] >= LENGTHS].any()


def test_lengths_of_any_integers_in_parts():
    rnn, x = fastrnn.LSTM(3, 4, recompute=2), torch.randn(6, 3, 3)
    expected = fastrnn.functional.rnn("lstm", x, (), list(rnn.parameters()), lengths=torch.tensor([1, 6, 3]))
    for dtype in (torch.uint8, torch.int8, torch.int32):
        torch.testing.assert_close(rnn(x, lengths=torch.tensor([1, 6, 3], dtype=dtype)), expected)
    for wrong in (7, -1):
        with pytest.raises(RuntimeError, match=f"lengths from 0 to 2, got {-1 if wrong < 0 else 3}"):
            rnn(x, lengths=torch.tensor([1, wrong, 3]))
