"""The registered operators as PyTorch sees them: schemas, fakes, errors, threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from comparison import LAYERS, assert_same, inputs, pair, results, tensors
from torch import Tensor

from fastrnn.ops import frozen_forward, layer_backward, layer_forward
from fastrnn.spec import CELLS, BackwardCall, ForwardCall, pair_of

T, B, I, H = 4, 3, 5, 6  # noqa: E741
BATCH_SIZES = torch.tensor([3, 2, 2, 1])


def states_of(state: list[Tensor]) -> dict[str, Tensor | None]:
    return dict(zip(("h_0", "c_0"), pair_of(state), strict=True))


def given_states(arguments: dict) -> list[Tensor]:
    return [arguments[name] for name in ("h_0", "c_0") if arguments[name] is not None]


def forward_arguments(cell: str, batch: str = "dense", **changes: object) -> dict:
    """Arguments of layer_forward by name.

    ``batch``: dense, batch-first, packed, packed-no-state, no-state, projected, step, or members, of an ensemble.
    """
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    packed, members, directions = batch.startswith("packed"), (2,) * (batch == "members"), 1 if batch == "step" else 2
    x = (int(BATCH_SIZES.sum()), I) if packed else {"batch-first": (B, T, I), "step": (B, I)}.get(batch, (T, B, I))
    P = 2 if batch == "projected" else H
    rows = len(CELLS[cell].gates) * H
    of_direction = [(rows, I), (rows, P), (rows,), (rows,)] + [(P, H)] * (batch == "projected")
    of_state = members if batch == "step" else (*members, directions)
    state = [make(*of_state, B, width) for width in [P, H][: len(CELLS[cell].states)]]
    return {
        "x": make(*members, *x),
        **states_of([] if batch.endswith("no-state") else state),
        "weights": [make(*members, *shape) for shape in of_direction * directions],
        "batch_sizes": BATCH_SIZES if packed else None,
        "cell": cell,
        "directions": directions,
        "has_bias": True,
        "batch_first": batch == "batch-first",
        "save": True,
    } | changes


def backward_arguments(forward: dict, layer_forward: Callable = layer_forward, **changes: object) -> dict:
    """Arguments of layer_backward by name, after that forward. All gradients are there and needed."""
    forward = forward | {"save": True}
    y, final, saved = layer_forward(**forward)
    shared = {name: forward[name] for name in forward if name != "save"}
    needed = [True] * (1 + len(given_states(forward)) + len(forward["weights"]))
    return shared | {"dy": y.cos(), "dstate": list(final), "y": y, "saved": saved, "needed": needed} | changes


SAMPLES = {f"{cell}-dense": (cell, "dense") for cell in CELLS} | {
    "gru-no-state": ("gru", "no-state"),
    "gru-batch-first": ("gru", "batch-first"),
    "lstm-no-state": ("lstm", "no-state"),
    "lstm-packed": ("lstm", "packed"),
    "lstm-projected": ("lstm", "projected"),
    "lstm-step": ("lstm", "step"),
    "gru-members": ("gru", "members"),
}
every_sample = pytest.mark.parametrize("cell,batch", SAMPLES.values(), ids=SAMPLES)


def test_calls_have_the_arguments_of_the_schemas():
    lacking = ("save", "every_state", "recompute", "h_mask", "zoneout_seed", "layer_norm")
    of_frozen = tuple(name for name in ForwardCall._fields if name not in lacking)
    for operator, fields in (
        (layer_forward, ForwardCall._fields),
        (layer_backward, BackwardCall._fields),
        (frozen_forward, of_frozen),
    ):
        assert [argument.name for argument in operator._schema.arguments] == list(fields)


@every_sample
@pytest.mark.parametrize("save", [True, False], ids=["save", "inference"])
def test_opcheck_of_forward(cell, batch, save):
    torch.library.opcheck(layer_forward, (), forward_arguments(cell, batch, save=save))


BACKWARD_CHANGES = {
    "everything": lambda a: {},
    "dy-alone": lambda a: {"dstate": [None] * len(a["dstate"])},
    "dh-alone": lambda a: {"dy": None, "dstate": [a["dstate"][0], None][: len(a["dstate"])]},
    "dc-alone": lambda a: {"dy": None, "dstate": [None, a["dstate"][-1]][-len(a["dstate"]) :]},
    "x-alone": lambda a: {"needed": [i == 0 for i in range(len(a["needed"]))]},
    "weights-alone": lambda a: {"needed": [i >= 1 + len(given_states(a)) for i in range(len(a["needed"]))]},
    "by-sample": lambda a: {"samples": B} if a["batch_sizes"] is None else {},
}


# Forms of a batch that gradients take, of cells with one state and with two. Other samples have everything.
CHANGED = ("lstm-dense", "lstm-packed", "lstm-projected", "lstm-step", "gru-no-state", "gru-members")


@pytest.mark.parametrize(
    "cell,batch,change",
    [
        pytest.param(*SAMPLES[sample], change, id=f"{sample}-{name}")
        for sample in SAMPLES
        for name, change in BACKWARD_CHANGES.items()
        if name == "everything" or sample in CHANGED
    ],
)
def test_opcheck_of_backward(cell, batch, change):
    arguments = backward_arguments(forward_arguments(cell, batch))
    torch.library.opcheck(layer_backward, (), arguments | change(arguments))


def test_strides_of_what_was_kept_do_not_matter(operators):
    arguments = backward_arguments(forward_arguments("lstm"), operators.layer_forward)
    expected = operators.layer_backward(**arguments)
    strided = {name: arguments[name].mT.contiguous().mT for name in ("y", "saved", "dy", "x")}
    assert not strided["saved"].is_contiguous()
    torch.testing.assert_close(operators.layer_backward(**arguments | strided), expected, rtol=0, atol=0)


def test_nothing_needed_gives_nothing(operators):
    arguments = backward_arguments(forward_arguments("lstm"), operators.layer_forward)
    assert operators.layer_backward(**arguments | {"needed": [False] * len(arguments["needed"])}) == []


@every_sample
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_meta_tensors_have_the_form_of_real_ones(cell, batch, dtype):
    def convert(arguments: dict, **to: object) -> dict:
        def each(value: object) -> object:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.to(**to)
            return [each(v) for v in value] if isinstance(value, list) else value

        return {name: each(value) for name, value in arguments.items()}

    forward = convert(forward_arguments(cell, batch), dtype=dtype)
    for operator, arguments in ((layer_forward, forward), (layer_backward, backward_arguments(forward))):
        real = list(tensors(operator(**arguments)))
        meta = list(tensors(operator(**convert(arguments, device="meta"))))
        assert [(t.shape, t.dtype, t.stride()) for t in meta] == [(t.shape, t.dtype, t.stride()) for t in real]
        assert all(t.is_meta for t in meta)


def each_result(results: object) -> dict[int, Tensor]:
    return dict(enumerate(tensors(results)))


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_a_sequence_of_one(cell, operators):
    step = forward_arguments(cell, "step")
    sequence = step | {"x": step["x"][None], **states_of([s[None] for s in given_states(step)])}
    y, final, saved = operators.layer_forward(**step)
    expected_y, expected_final, expected_saved = operators.layer_forward(**sequence)
    expected = [expected_y[0], [s[0] for s in expected_final], expected_saved]
    torch.testing.assert_close(each_result((y, final, saved)), each_result(expected), rtol=0, atol=0)
    got = operators.layer_backward(**backward_arguments(step, operators.layer_forward))
    dx, *others = operators.layer_backward(**backward_arguments(sequence, operators.layer_forward))
    states = len(given_states(step))
    expected = [dx[0], *[d[0] for d in others[:states]], *others[states:]]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_no_state_is_zeros_in_a_packed_batch(cell, operators):
    arguments = forward_arguments(cell, "packed")
    zeros = arguments | states_of([torch.zeros_like(s) for s in given_states(arguments)])
    got, expected = operators.layer_forward(**arguments | states_of([])), operators.layer_forward(**zeros)
    torch.testing.assert_close(each_result(got), each_result(expected), rtol=0, atol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_members_are_layers(cell, operators):
    def of(arguments: dict) -> list[Tensor]:
        gradients = operators.layer_backward(**backward_arguments(arguments, operators.layer_forward, samples=B))
        return [*tensors(operators.layer_forward(**arguments)), *gradients]

    whole = forward_arguments(cell, "members")
    torch.set_num_threads(1)
    expected = []
    for e in range(2):
        member = whole | states_of([s[e] for s in given_states(whole)]) | {"x": whole["x"][e]}
        expected.append(of(member | {"weights": [w[e] for w in whole["weights"]]}))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.testing.assert_close(of(whole), [torch.stack(both) for both in zip(*expected, strict=True)])


@pytest.mark.parametrize("cell,batch", [*SAMPLES.values(), ("cifg", "projected")])
def test_gradients_by_sample_add_up(cell, batch, operators):
    arguments = backward_arguments(forward_arguments(cell, batch), operators.layer_forward)
    samples = 1 if batch == "packed" else B
    if batch == "packed":  # every row twice, and so two equal samples
        rows = arguments["x"].repeat_interleave(2, 0)
        states = [s.repeat_interleave(2, 1) for s in given_states(arguments)]
        doubled = forward_arguments(cell, batch) | {"x": rows, **states_of(states), "batch_sizes": 2 * BATCH_SIZES}
        arguments, samples = backward_arguments(doubled, operators.layer_forward), 2
    whole = operators.layer_backward(**arguments)
    split = operators.layer_backward(**arguments | {"samples": samples})
    inputs = 1 + len(given_states(arguments))
    torch.testing.assert_close(split[:inputs], whole[:inputs], rtol=0, atol=0)
    of_members = int(batch == "members")
    added = [t.sum(of_members) for t in split[inputs:]]
    torch.testing.assert_close(added, whole[inputs:], rtol=1e-4, atol=1e-5)
    if batch == "packed":
        for t in split[inputs:]:
            torch.testing.assert_close(t[0], t[1])


# Errors


def with_weight(position: int, *shape: int) -> Callable[[dict], dict]:
    def change(arguments: dict) -> dict:
        weights = list(arguments["weights"])
        weights[position] = torch.zeros(shape)
        return {"weights": weights}

    return change


def with_sizes(*sizes: int, dtype: torch.dtype = torch.int64) -> Callable[[dict], dict]:
    return lambda arguments: {"batch_sizes": torch.tensor(sizes, dtype=dtype)}


FORWARD_ERRORS = {
    "unknown-cell": (
        "dense",
        lambda a: {"cell": "elman"},
        r"unknown cell 'elman', expected one of (\w+ )*lstm",
    ),
    "three-directions": ("dense", lambda a: {"directions": 3}, "expected 1 or 2 directions, got 3"),
    "too-few-weights": ("dense", lambda a: {"weights": a["weights"][:5]}, "expected 4 weights .* got 5 for 2"),
    "no-weights": ("dense", lambda a: {"weights": []}, "expected 4 weights .* got 0 for 2"),
    "w_ih-columns": ("dense", with_weight(0, 24, 7), r"weight_ih of shape \[24, 5\], got \[24, 7\]"),
    "w_hh-1-D": ("dense", with_weight(1, 24), r"weight_hh \[4 \* hidden_size, outputs\], got \[24\]"),
    "w_hh-rows": ("dense", with_weight(1, 23, 6), r"weight_hh \[4 \* hidden_size, outputs\], got \[23, 6\]"),
    "w_hh-columns": ("dense", with_weight(1, 24, 7), "weight_hh with 6 columns, got 7|weight_hh of shape"),
    "bias-of-second-direction": ("dense", with_weight(7, 23), r"bias_hh of shape \[24\], got \[23\]"),
    "projection": ("projected", with_weight(4, 3, 6), r"weight_hr of shape \[2, 6\], got \[3, 6\]"),
    "projection-of-gru": ("projected", lambda a: {"cell": "gru"}, "expected no projection for cell gru, got one"),
    "x-1-D": ("dense", lambda a: {"x": torch.zeros(I)}, "expected 3 dimensions, got 1"),
    "no-steps": ("dense", lambda a: {"x": torch.zeros(0, B, I)}, "sequence length to be larger than 0"),
    "dtypes-of-weights": (
        "dense",
        lambda a: {"weights": [w.double() for w in a["weights"]]},
        "weight_ih as Float on cpu like the input, got Double",
    ),
    "dtype-of-state": (
        "dense",
        lambda a: {"c_0": a["c_0"].double()},
        "c_0 as Float on cpu like the input, got Double",
    ),
    "integers": (
        "no-state",
        lambda a: {"x": a["x"].long(), "weights": [w.long() for w in a["weights"]]},
        "expected float32, float64, bfloat16 or float16, got Long",
    ),
    "one-state": ("dense", lambda a: {"c_0": None}, "expected 2 initial states or none, got 1"),
    "cell-state-alone": ("dense", lambda a: {"h_0": None}, "expected c_0 with h_0, got c_0 alone"),
    "batch-of-state": (
        "dense",
        lambda a: {"h_0": a["h_0"][:, :2]},
        r"h_0 of shape \[2, 3, 6\], got \[2, 2, 6\]",
    ),
    "packed-3-D": ("packed", lambda a: {"x": torch.zeros(T, B, I)}, "expected a packed input of 2 dimensions, got 3"),
    "sizes-increase": ("packed", with_sizes(3, 1, 2, 2), "do not increase, .* got 2 at step 2"),
    "sizes-above-batch": ("packed", with_sizes(4, 2, 1, 1), "do not increase, from 3 .* got 4 at step 0"),
    "sizes-below-batch": ("packed", with_sizes(2, 2, 2, 2), "begin with 2 and add up to 8, expected 3 and 8"),
    "sizes-sum": ("packed", with_sizes(3, 2, 2, 2), "add up to 9, expected 3 and 8"),
    "sizes-zero": ("packed", with_sizes(3, 3, 2, 0), "no less than 1, got 0 at step 3"),
    "sizes-negative": ("packed", with_sizes(3, 3, 3, -1), "no less than 1, got -1 at step 3"),
    "sizes-empty": ("packed", with_sizes(), r"batch_sizes to be int64 \[T\] on the CPU"),
    "sizes-int32": ("packed", with_sizes(3, 2, 2, 1, dtype=torch.int32), r"batch_sizes to be int64 \[T\] on the CPU"),
}


@pytest.mark.parametrize("batch,change,message", FORWARD_ERRORS.values(), ids=FORWARD_ERRORS)
def test_forward_refuses(batch, change, message, operators):
    arguments = forward_arguments("lstm", batch)
    with pytest.raises(RuntimeError, match=message):
        operators.layer_forward(**arguments | change(arguments))


BACKWARD_ERRORS = {
    "dy-shape": (lambda a: {"dy": a["dy"][:2]}, r"dy of shape \[4, 3, 12\] on cpu, got \[2, 3, 12\]"),
    "dh_T-shape": (lambda a: {"dstate": [a["dy"], None]}, r"dh_T of shape \[2, 3, 6\] on cpu, got \[4, 3, 12\]"),
    "dc_T-shape": (lambda a: {"dstate": [None, a["dy"]]}, r"dc_T of shape \[2, 3, 6\] on cpu, got \[4, 3, 12\]"),
    "one-dstate": (lambda a: {"dstate": [None]}, "expected 2 final-state gradients, or one more, got 1"),
    "needed": (lambda a: {"needed": [True] * 3}, "expected 11 flags in needed, got 3"),
    "nothing-saved": (lambda a: {"saved": a["saved"][:, :0]}, r"expected y and saved of .*\[2, 0, 30\]"),
    "saved-dtype": (lambda a: {"saved": a["saved"].double()}, "expected y and saved of .*Double"),
    "y-shape": (lambda a: {"y": a["y"][:2]}, r"expected y and saved of .*got \[2, 3, 12\]"),
    "weights": (with_weight(0, 24, 7), r"weight_ih of shape \[24, 5\], got \[24, 7\]"),
    "samples": (lambda a: {"samples": 2}, "rows of each of 2 samples at every step, got a batch of 3"),
}


@pytest.mark.parametrize("change,message", BACKWARD_ERRORS.values(), ids=BACKWARD_ERRORS)
def test_backward_refuses(change, message, operators):
    arguments = backward_arguments(forward_arguments("lstm"), operators.layer_forward)
    with pytest.raises(RuntimeError, match=message):
        operators.layer_backward(**arguments | change(arguments))


# Threads


@pytest.mark.parametrize("kind", LAYERS)
def test_threads_may_change_between_forward_and_backward(kind):
    _, module = pair(LAYERS, kind, 4, 65, bidirectional=True, dtype=torch.float64)
    x = inputs(9, 32, 4)
    gradients = []
    for before, after in ((1, 1), (1, 3), (5, 2), (3, 1)):
        torch.set_num_threads(before)
        y, _ = module(x)
        torch.set_num_threads(after)
        gradients.append(dict(enumerate(torch.autograd.grad(y.square().sum(), list(module.parameters())))))
    for found in gradients[1:]:
        assert_same(found, gradients[0])


def test_calls_from_several_threads_at_once():
    cases = []
    for kind in LAYERS:
        for size in (3, 40):
            _, module = pair(LAYERS, kind, 4, size, bidirectional=True, dtype=torch.float64)
            x = inputs(20, 8, 4)
            cases.append((module, x, results(module, x)))
    with ThreadPoolExecutor(4) as pool:
        jobs = [(pool.submit(results, module, x), expected) for module, x, expected in cases * 5]
        for job, expected in jobs:
            assert_same(job.result(timeout=60), expected)
