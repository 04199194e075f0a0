"""Rows that end early and rows that begin anew, the states of every step, recomputation and weight dropout.

By C++ and by Triton's interpreter against the oracle, against packed batches, and against sequences one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from comparison import LAYERS, assert_same, build, inputs, results, tensors
from problems import problem
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import grad, vmap

import fastrnn
from fastrnn import ops
from fastrnn.diagnose import bytes_kept
from fastrnn.modules.layers import hx_of
from fastrnn.spec import CELLS, WHOLE, ForwardCall, Segments, pair_of, reference
from fastrnn.testing import Case, Problem, assert_accurate, on_reference, poisoned
from fastrnn.testing.problem import names

pytestmark = pytest.mark.usefixtures("single_thread")

T, B, I, H = 5, 4, 3, 6  # noqa: E741
LENGTHS = torch.tensor([3, 0, 5, 1])
MARKS = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)  # [T, B]


@dataclass(frozen=True)
class Part:
    """Which segments a case has, and ``reset_state``: none, once or by step."""

    case: Case
    lengths: bool = False
    reset: bool = False
    reset_state: str = "none"

    def problem(self, cell: str) -> Problem:
        return problem(cell, self.case)

    def segments(self, cell: str) -> Segments:
        case, p = self.case, self.problem(cell)
        if not self.reset:
            return Segments(LENGTHS)
        marks = MARKS.t() if case.batch_first else MARKS
        steps = {"none": None, "once": (), "by-step": (case.T,)}[self.reset_state]
        widths = p.spec.state_widths(case.H, case.outputs).values() if steps is not None else ()
        generator = torch.Generator().manual_seed(1)
        states = [
            torch.randn(case.directions, *(steps or ()), case.B, width, generator=generator, dtype=torch.float64)
            for width in widths
        ]
        return Segments(LENGTHS if self.lengths else None, marks, states)


CASE = Case(T, B, H, I)
PARTS = {
    "lengths": Part(replace(CASE, directions=2, batch_first=True), lengths=True),
    "lengths-no-state": Part(replace(CASE, state=False, bias=False), lengths=True),
    "reset": Part(replace(CASE, directions=2, state=False), reset=True),
    "reset-once": Part(replace(CASE, directions=2, batch_first=True), reset=True, reset_state="once"),
    "reset-by-step": Part(replace(CASE, state=False), reset=True, reset_state="by-step"),
    "both": Part(replace(CASE, bias=False), lengths=True, reset=True),
    "both-once-no-state": Part(replace(CASE, state=False), lengths=True, reset=True, reset_state="once"),
    "both-by-step": Part(replace(CASE, directions=2, batch_first=True), True, True, "by-step"),
    "projected-lengths": Part(replace(CASE, directions=2, P=2), lengths=True),
    "projected-both": Part(replace(CASE, directions=2, P=2, batch_first=True), True, True, "once"),
}
every_part = pytest.mark.parametrize(
    "cell,part",
    [
        pytest.param(cell, part, id=f"{cell}-{name}")
        for cell in CELLS
        for name, part in PARTS.items()
        if not part.case.P or CELLS[cell].projectable
    ],
)
BOTH = PARTS["both-by-step"]


def call_of(p: Problem, segments: Segments = WHOLE, **others: Any) -> ForwardCall:
    plain = (p.x, *pair_of(p.state), p.weights, p.case.batch_sizes, *p.spec.arguments)
    return ForwardCall.of(plain, segments.arguments)._replace(**others)


def named(p: Problem, results: Sequence[Tensor], gradients: Sequence[Tensor], resets: int) -> dict[str, Tensor]:
    states = CELLS[p.cell].states
    outputs = ["y", *(f"{s}_T" for s in states), *(f"{s} of every step" for s in states[1:])]
    inputs = [*names(p), *(f"{s}_reset" for s in states[:resets])]
    found = dict(zip(outputs, results, strict=False))  # the states of every step are not always asked for
    return found | {f"d{name}": d for name, d in zip(inputs, gradients, strict=True)}


def weights_of_results(results: Sequence[Tensor]) -> list[Tensor]:
    """Gradients for results, the same whatever computed these."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in results]


def by_operators(operators: Any, p: Problem, segments: Segments, every_state: bool = True) -> dict[str, Tensor]:
    """Results and all gradients, in memory full of NaN."""
    call = call_of(p, segments, save=True, every_state=every_state)
    with poisoned():
        y, final, saved = operators.layer_forward(*call)
        dy, *dstate = weights_of_results((y, *final))
        plain = (p.x, call.h_0, call.c_0, p.weights, y, saved, call.batch_sizes, *call.options)
        needed = [True] * len(call.inputs)
        gradients = operators.layer_backward(dy, dstate, *plain, needed, 1, *segments.arguments)
    return named(p, (y, *final), gradients, len(segments.reset_state))


def by_reference(p: Problem, segments: Segments) -> dict[str, Tensor]:
    call = call_of(p, segments)
    leaves = [t.clone().requires_grad_() for t in call.inputs]
    call = call.with_inputs(leaves)
    y, final = reference.layer(call.spec, call.x, call.state, call.weights, None, call.segments, every_state=True)
    found = torch.autograd.grad([y, *final], leaves, weights_of_results((y, *final)))
    return {name: t.detach() for name, t in named(p, (y, *final), found, len(segments.reset_state)).items()}


@lru_cache
def expected(cell: str, part: Part) -> dict[str, Tensor]:
    return by_reference(part.problem(cell), part.segments(cell))


def cast(segments: Segments, dtype: torch.dtype) -> Segments:
    return segments._replace(reset_state=[s.to(dtype) for s in segments.reset_state])


@every_part
def test_the_oracle_is_met(cell, part, operators):
    assert_same(by_operators(operators, part.problem(cell), part.segments(cell)), expected(cell, part))


@pytest.fixture
def tf32():
    before = torch.backends.cudnn.rnn.fp32_precision
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.rnn.fp32_precision = before


@pytest.mark.parametrize("regime,hidden", [("resident", 17), ("cooperative", 70)])
@pytest.mark.parametrize("name", ["lengths", "both-by-step"])
def test_kernels_that_keep_the_weights_on_chip(name, regime, hidden, operators, tf32):
    if operators is ops:
        pytest.skip("of Triton")
    part = replace(PARTS[name], case=replace(PARTS[name].case, H=hidden))
    p, segments = part.problem("lstm").to(torch.float32), cast(part.segments("lstm"), torch.float32)
    assert operators.plan_for(p.spec, B, hidden, torch.float32, p.x.device).regime == regime
    exact = by_reference(p.to(torch.float64), cast(segments, torch.float64))
    assert_accurate(by_operators(operators, p, segments), by_reference(p, segments), exact)


# What segments mean


def test_lengths_are_those_of_a_packed_batch(operators):
    order, batch_sizes = LENGTHS.argsort(descending=True)[:3], torch.tensor([3, 2, 2, 1, 1])
    p = problem("lstm", replace(CASE, directions=2))
    has = torch.arange(T)[:, None] < LENGTHS
    packed = replace(
        p,
        case=replace(p.case, lengths=(5, 3, 1)),
        x=p.x[:, order][has[:, order]],
        state=[s[:, order] for s in p.state],
    )
    y, (h, c), _ = operators.layer_forward(*call_of(packed))
    got, (got_h, got_c), _ = operators.layer_forward(*call_of(p, Segments(LENGTHS)))
    assert call_of(packed).batch_sizes.equal(batch_sizes)
    exact = {"rtol": 0, "atol": 0 if operators is ops else 1e-14}
    torch.testing.assert_close(got[:, order][has[:, order]], y, **exact)
    torch.testing.assert_close((got_h[:, order], got_c[:, order]), (h, c), **exact)
    assert not got[~has].any()


def test_resets_are_sequences_one_by_one(operators):
    """And what one of them holds does not reach another."""
    p = problem("lstm", replace(CASE, directions=2))
    marks = torch.zeros(T, B, dtype=torch.bool)
    marks[2, 1] = marks[3, 1] = True
    spoiled = p.x.clone()
    spoiled[2, 1] = torch.nan
    y, _, _ = operators.layer_forward(*call_of(replace(p, x=spoiled), Segments(None, marks)))
    assert y[2, 1].isnan().all()
    row = slice(1, 2)
    for first, last, of_direction in ((0, 2, 0), (3, T, 1)):
        # A direction has the initial state where it enters the row, and zeros where it enters at a mark.
        state = [s[:, row] * torch.eye(2, dtype=s.dtype)[of_direction].view(2, 1, 1) for s in p.state]
        alone, _, _ = operators.layer_forward(*call_of(replace(p, x=p.x[first:last, row], state=state)))
        torch.testing.assert_close(y[first:last, row], alone, rtol=1e-12, atol=1e-12)


def test_no_gradient_crosses_a_reset(operators):
    p = problem("gru", CASE)
    marks = torch.zeros(T, B, dtype=torch.bool)
    marks[2] = True
    dy = torch.zeros_like(p.dy)
    dy[3] = p.dy[3]
    call = call_of(p, Segments(None, marks), save=True)
    y, _, saved = operators.layer_forward(*call)
    needed = [True] * len(call.inputs)
    plain = (call.x, call.h_0, None, call.weights, y, saved, None, *call.options, needed, 1, None, marks)
    dx, dh_0, *_ = operators.layer_backward(dy, [None], *plain)
    assert dx[2:4].all() and not dx[:2].any() and not dx[4:].any() and not dh_0.any()


def test_what_lies_beyond_a_row_does_not_matter(operators):
    p, segments = problem("lstm", CASE), Segments(LENGTHS)
    clean = by_operators(operators, p, segments)
    beyond = (torch.arange(T)[:, None] >= LENGTHS).unsqueeze(-1)
    assert_same(by_operators(operators, replace(p, x=p.x.masked_fill(beyond, torch.nan)), segments), clean)


@pytest.mark.parametrize("marks", [None, False], ids=["lengths", "both"])
def test_no_steps_at_all(marks, operators):
    p = problem("lstm", replace(CASE, directions=2, batch_first=True))
    reset = None if marks is None else torch.zeros(B, T, dtype=torch.bool)
    got = by_operators(operators, p, Segments(torch.zeros(B, dtype=torch.int32), reset))
    y, h, c, every, dx, dh, dc, *others = got.values()
    results = [y, h, c, every]
    assert not any(t.any() for t in (y, every, dx, *others))
    assert_same({"h": h, "c": c}, dict(zip("hc", p.state, strict=True)))
    assert_same({"h": dh, "c": dc}, dict(zip("hc", weights_of_results(results)[1:3], strict=True)))


def test_no_mark_is_a_plain_layer_and_marks_everywhere_are_single_steps(operators):
    p = problem("lstm", replace(CASE, directions=2))
    plain = by_operators(operators, p, WHOLE)
    assert_same(by_operators(operators, p, Segments(torch.full((B,), T), torch.zeros(T, B, dtype=torch.bool))), plain)
    every = Segments(None, torch.ones(T, B, dtype=torch.bool))
    y, final, _ = operators.layer_forward(*call_of(replace(p, state=[]), every))
    steps = replace(p, x=p.x.reshape(1, T * B, I), state=[])
    of_steps, (h, c), _ = operators.layer_forward(*call_of(steps))
    ends = [s.view(2, T, B, -1)[[0, 1], [-1, 0]] for s in (h, c)]
    assert_same({"y": y, **dict(zip("hc", final, strict=True))}, {"y": of_steps.view_as(y), "h": ends[0], "c": ends[1]})


# Forms that the operators take


def test_members_share_their_segments(operators):
    segments = BOTH.segments("lstm")
    p = BOTH.problem("lstm")
    double = {name: [torch.stack((t, -t)) for t in getattr(p, name)] for name in ("state", "weights")}
    whole = replace(p, x=torch.stack((p.x, -p.x)), **double)
    of_whole = segments._replace(reset_state=[torch.stack((s, -s)) for s in segments.reset_state])
    got = by_operators(operators, whole, of_whole)
    y, final, _ = operators.layer_forward(*call_of(p, segments, every_state=True))
    expected = dict(zip(got, (y, *final), strict=False))
    assert_same({name: got[name][0] for name in expected}, expected)
    assert {name: t.shape for name, t in got.items() if name.startswith("d")} == {
        f"d{name}": t.shape
        for name, t in zip([*names(p), "h_reset", "c_reset"], call_of(whole, of_whole).inputs, strict=True)
    }


@pytest.mark.parametrize("batch", ["packed", "step"])
def test_states_of_every_step(batch, operators):
    p = problem("lstm", replace(CASE, lengths=(5, 3, 3, 1)) if batch == "packed" else replace(CASE, T=1))
    if batch == "step":
        p = replace(p, x=p.x[0], state=[s[0] for s in p.state])
    with_states, plain = (by_operators(operators, p, WHOLE, every_state) for every_state in (True, False))
    every = with_states["c of every step"]
    assert every.shape == ((1, len(p.x), H) if batch == "packed" else (B, H))
    last = every[0, [11, 8, 9, 3]] if batch == "packed" else every
    assert_same({"c": last}, {"c": with_states["c_T"].view_as(last)})
    assert not torch.equal(with_states["dx"], plain["dx"])


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
    call = call_of(BOTH.problem("lstm"), BOTH.segments("lstm"))
    with pytest.raises(RuntimeError, match=message) as raised:
        operators.layer_forward(*call._replace(**change(call)))
    assert len(str(raised.value).splitlines()) == 1 or operators is ops  # C++ adds where it was


def test_gradients_by_sample_are_refused(operators):
    call = call_of(BOTH.problem("lstm"), BOTH.segments("lstm"), save=True)
    y, final, saved = operators.layer_forward(*call)
    plain = (call.x, call.h_0, call.c_0, call.weights, y, saved, None, *call.options)
    with pytest.raises(NotImplementedError, match="neither lengths nor reset beside gradients by sample"):
        operators.layer_backward(y, final, *plain, [True] * len(call.inputs), B, *call.segments.arguments)


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
    part = PARTS[name]
    p, segments = part.problem("lstm"), part.segments("lstm")
    call = call_of(p, segments, save=True, every_state=True)
    # What is saved has room for more than there is, which nobody writes.
    torch.library.opcheck(ops.layer_forward, tuple(call._replace(save=False)))
    y, final, saved = ops.layer_forward(*call)
    plain = (p.x, call.h_0, call.c_0, p.weights, y, saved, None, *call.options)
    arguments = (y.cos(), final, *plain, [True] * len(call.inputs), 1, *segments.arguments)
    torch.library.opcheck(ops.layer_backward, arguments)


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
    part = PARTS[name]
    part = replace(part, case=replace(part.case, H=2))
    call = call_of(part.problem(cell), part.segments(cell), every_state=True)

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        y, final, _ = ops.layer_forward(*call.with_inputs(given))
        return y, *final

    leaves = [t.clone().requires_grad_() for t in call.inputs]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


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
