"""The fused operators against the oracle: every cell, instruction set, plan and kind of batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from comparison import assert_accurate
from torch import Tensor

import fastrnn
from fastrnn import _C, reference
from fastrnn.function import layer
from fastrnn.ops import layer_backward, layer_forward
from fastrnn.spec import CELLS

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

every_cell = pytest.mark.parametrize("cell", CELLS)
every_isa = pytest.mark.parametrize("isa", _C.runnable_isas(), indirect=True)


@pytest.fixture
def isa(request) -> Iterator[str]:
    before = _C.isa()
    _C.force_isa(request.param)
    yield request.param
    _C.force_isa(before)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# Cases


@dataclass(frozen=True)
class Case:
    """One layer and its batch. ``P`` is the size of a projection, ``lengths`` makes the batch ragged."""

    T: int
    B: int
    H: int
    I: int  # noqa: E741
    threads: int = 1
    directions: int = 1
    P: int | None = None
    lengths: tuple[int, ...] | None = None
    batch_first: bool = False
    bias: bool = True
    state: bool = True

    @property
    def batch_sizes(self) -> Tensor | None:
        if self.lengths is None:
            return None
        return torch.tensor([sum(length > t for length in self.lengths) for t in range(self.T)])

    @property
    def rows(self) -> int:
        return sum(self.lengths) if self.lengths else self.T * self.B

    def plan(self, cell: str, element_bytes: int) -> dict:
        P = self.P or self.H
        sizes = (self.T, self.B, self.I, self.H, P, self.directions, self.rows)
        return _C.plan(cell, *sizes, element_bytes, self.threads)


CASES = {
    # few rows
    "T1-B1-H1-I1": Case(1, 1, 1, 1),
    "T1-B1-H130-I40-3-threads": Case(1, 1, 130, 40, threads=3),
    "T2-B1-H17-I1-no-state": Case(2, 1, 17, 1, state=False),
    "T2-B1-H64-I40-bidirectional-no-bias": Case(2, 1, 64, 40, directions=2, bias=False),
    "T2-B2-H64-I40-ragged-batch": Case(2, 2, 64, 40, directions=2, lengths=(2, 1), threads=2),
    # one row after another
    "T63-B1-H1-I1": Case(63, 1, 1, 1),
    "T63-B1-H17-I40-batch-first": Case(63, 1, 17, 40, batch_first=True, bias=False),
    "T63-B1-H130-I40-2-threads": Case(63, 1, 130, 40, threads=2, state=False),
    "T63-B1-H130-I40-bidirectional-4-threads": Case(63, 1, 130, 40, threads=4, directions=2),
    # small batches
    "T1-B5-H17-I1": Case(1, 5, 17, 1, state=False),
    "T2-B5-H64-I40-2-threads": Case(2, 5, 64, 40, threads=2),
    "T63-B5-H1-I40-no-bias": Case(63, 5, 1, 40, bias=False),
    "T63-B5-H64-I1-batch-first-bidirectional-2-threads": Case(63, 5, 64, 1, threads=2, directions=2, batch_first=True),
    "T63-B5-H130-I40-5-threads": Case(63, 5, 130, 40, threads=5),
    # large batches
    "T1-B32-H64-I40-2-threads": Case(1, 32, 64, 40, threads=2, directions=2),
    "T2-B32-H17-I40": Case(2, 32, 17, 40, directions=2, state=False),
    "T63-B32-H17-I1-3-threads": Case(63, 32, 17, 1, threads=3),
    "T63-B32-H130-I40-batch-first-bidirectional-3-threads": Case(
        63, 32, 130, 40, threads=3, directions=2, batch_first=True, state=False
    ),
    "T20-B9-H130-I40-rows-and-units-5-threads": Case(20, 9, 130, 40, threads=5),
    # ragged batches
    "equal-lengths": Case(6, 5, 17, 40, directions=2, lengths=(6,) * 5),
    "decreasing-lengths-3-threads": Case(9, 8, 130, 40, threads=3, lengths=tuple(range(9, 1, -1))),
    "decreasing-lengths-bidirectional": Case(9, 9, 17, 1, directions=2, lengths=tuple(range(9, 0, -1)), bias=False),
    "some-of-length-one-2-threads": Case(63, 32, 64, 40, threads=2, directions=2, lengths=(63, 20, 2) + (1,) * 29),
    "long-tail-of-one-row": Case(63, 5, 64, 40, threads=2, lengths=(63, 3, 1, 1, 1)),
    # projections
    "projected-T1-B1": Case(1, 1, 17, 1, P=3),
    "projected-square": Case(2, 3, 17, 1, P=17),
    "projected-T63-B5-3-threads": Case(63, 5, 130, 40, threads=3, P=17, state=False),
    "projected-T2-B32-bidirectional": Case(2, 32, 64, 40, threads=2, directions=2, P=63, batch_first=True, bias=False),
    "projected-ragged": Case(9, 9, 64, 40, threads=5, directions=2, P=20, lengths=(9, 9, 5, 4, 4, 3, 1, 1, 1)),
}


def cases_of(cell: str) -> dict[str, Case]:
    return {name: case for name, case in CASES.items() if cell == "lstm" or case.P is None}


every_case = pytest.mark.parametrize(
    "cell,case",
    [pytest.param(cell, case, id=f"{cell}-{name}") for cell in CELLS for name, case in cases_of(cell).items()],
)


@dataclass(frozen=True)
class Problem:
    """The tensors of a case: inputs of the forward and gradients of its outputs, as float64 values of some dtype."""

    cell: str
    case: Case
    x: Tensor
    state: list[Tensor]
    weights: list[Tensor]
    dy: Tensor
    dstate: list[Tensor]

    @property
    def options(self) -> dict:
        case = self.case
        return {
            "directions": case.directions,
            "has_bias": case.bias,
            "batch_first": case.batch_first,
            "batch_sizes": case.batch_sizes,
        }

    def to(self, dtype: torch.dtype) -> "Problem":
        def cast(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(dtype) for t in tensors]

        return replace(
            self,
            x=self.x.to(dtype),
            state=cast(self.state),
            weights=cast(self.weights),
            dy=self.dy.to(dtype),
            dstate=cast(self.dstate),
        )


@lru_cache
def problem(cell: str, case: Case) -> Problem:
    T, B, H, P, D = case.T, case.B, case.H, case.P or case.H, case.directions
    G = len(CELLS[cell].gates)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    leading = (case.rows,) if case.lengths else (B, T) if case.batch_first else (T, B)
    shapes = [(G * H, case.I), (G * H, P)] + [(G * H,)] * (2 * case.bias) + [(P, H)] * bool(case.P)
    weights = [(2 * torch.rand(s, generator=generator, dtype=torch.float64) - 1) / H**0.5 for s in shapes * D]
    widths = [P, H][: len(CELLS[cell].states)]
    # A packed batch has explicit states, as the operators demand; zeros stand for their absence.
    given = case.state or case.lengths is not None
    return Problem(
        cell,
        case,
        x=normal(*leading, case.I),
        state=[normal(D, B, width) * case.state for width in widths] if given else [],
        weights=weights,
        dy=normal(*leading, D * P),
        dstate=[normal(D, B, width) for width in widths],
    )


# Three ways to compute one layer and its gradients, all as a dictionary of named tensors


def names(p: Problem) -> list[str]:
    of_direction = ["w_ih", "w_hh"] + ["b_ih", "b_hh"] * p.case.bias + ["w_hr"] * bool(p.case.P)
    weights = [f"{name}[{d}]" for d in range(p.case.directions) for name in of_direction]
    return ["x", *(f"{s}_0" for s in CELLS[p.cell].states[: len(p.state)]), *weights]


def named(p: Problem, y: Tensor, final: list[Tensor], gradients: list[Tensor]) -> dict[str, Tensor]:
    outputs = {"y": y, **{f"{s}_T": f for s, f in zip(CELLS[p.cell].states, final, strict=True)}}
    gradient_names = [f"d{name}" for name in names(p)]
    return {k: v.detach() for k, v in (outputs | dict(zip(gradient_names, gradients, strict=True))).items()}


def fused(p: Problem) -> dict[str, Tensor]:
    """By the operators, in memory full of NaN."""
    torch.set_num_threads(p.case.threads)
    with poisoned(p.x.dtype):
        y, final, saved = forward(p, save=True)
        gradients = backward(p, y, saved, [True] * len(names(p)))
    return named(p, y, final, gradients)


def forward(p: Problem, save: bool) -> tuple[Tensor, list[Tensor], Tensor]:
    case = p.case
    options = (case.batch_sizes, p.cell, case.directions, case.bias, case.batch_first)
    return layer_forward(p.x, p.state, p.weights, *options, save)


def backward(p: Problem, y: Tensor, saved: Tensor, needed: list[bool]) -> list[Tensor]:
    case = p.case
    options = (case.batch_sizes, p.cell, case.directions, case.bias, case.batch_first)
    return layer_backward(p.dy, p.dstate, p.x, p.state, p.weights, y, saved, *options, needed)


def differentiated(p: Problem, compute: Callable) -> dict[str, Tensor]:
    """By ``compute(x, state, weights)`` and autograd."""
    leaves = [t.clone().requires_grad_() for t in (p.x, *p.state, *p.weights)]
    states = len(p.state)
    y, final = compute(leaves[0], leaves[1 : 1 + states], leaves[1 + states :])
    gradients = torch.autograd.grad([y, *final], leaves, [p.dy, *p.dstate])
    return named(p, y, final, gradients)


@lru_cache
def oracle(cell: str, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """In float64, on inputs rounded to ``dtype``."""
    p = problem(cell, case).to(dtype).to(torch.float64)
    torch.set_num_threads(1)
    return differentiated(p, lambda x, state, weights: reference.layer(cell, x, state, weights, **p.options))


@lru_cache
def torch_nn(cell: str, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """By the function under torch.nn's layer of this cell."""
    p = problem(cell, case).to(dtype)
    torch.set_num_threads(1)

    def compute(x: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        state = state or [torch.zeros_like(s) for s in p.dstate]
        hx = state if cell == "lstm" else state[0]
        batch = () if case.batch_sizes is None else (case.batch_sizes,)
        layout = (case.batch_first,) if case.batch_sizes is None else ()
        options = (case.bias, 1, 0.0, True, case.directions == 2, *layout)
        y, *final = getattr(torch._VF, cell)(x, *batch, hx, weights, *options)
        return y, tuple(final)

    return differentiated(p, compute)


@contextmanager
def poisoned(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that nobody has written hold NaN, and so does the memory that the kernels keep between calls."""
    spoil_workspace(torch.float64 if dtype == torch.float64 else torch.float32, torch.get_num_threads())
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def spoil_workspace(dtype: torch.dtype, threads: int) -> None:
    """A layer made of NaN, larger than most cases, leaves NaN wherever it computes."""
    p = nan_problem(dtype)
    torch.set_num_threads(1)
    y, _, saved = forward(p, save=True)
    backward(p, y, saved, [True] * len(names(p)))
    torch.set_num_threads(threads)


@lru_cache
def nan_problem(dtype: torch.dtype) -> Problem:
    p = problem("lstm", Case(2, 32, 128, 128)).to(dtype)
    for tensor in (p.x, *p.state, *p.weights, p.dy, *p.dstate):
        tensor.fill_(torch.nan)
    return p


# Values


@every_isa
@every_case
def test_float64_agrees_with_the_oracle(cell, case, isa):
    got, expected = fused(problem(cell, case)), oracle(cell, case, torch.float64)
    assert got.keys() == expected.keys()
    for name, exact in expected.items():
        error, limit = (got[name] - exact).abs().max(), 1e-12 * exact.abs().max()
        assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g}"


@every_isa
@every_case
def test_float32_is_as_accurate_as_torch(cell, case, isa):
    if case.P == case.H:
        pytest.skip("torch.nn, the measure here, refuses a projection to as many outputs as hidden units")
    got = fused(problem(cell, case).to(torch.float32))
    assert_accurate(got, torch_nn(cell, case, torch.float32), oracle(cell, case, torch.float32))


SHORT_CASES = {
    name: CASES[name]
    for name in (
        "T2-B2-H64-I40-ragged-batch",
        "T63-B1-H17-I40-batch-first",
        "T63-B5-H64-I1-batch-first-bidirectional-2-threads",
        "T2-B32-H17-I40",
        "some-of-length-one-2-threads",
        "projected-ragged",
    )
}


@every_isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize(
    "cell,case",
    [
        pytest.param(cell, case, id=f"{cell}-{name}")
        for cell in CELLS
        for name, case in SHORT_CASES.items()
        if name in cases_of(cell)
    ],
)
def test_half_precision_is_as_accurate_as_torch(cell, case, dtype, isa):
    got = fused(problem(cell, case).to(dtype))
    assert_accurate(got, torch_nn(cell, case, dtype), oracle(cell, case, dtype))


@every_isa
@pytest.mark.parametrize("element_bytes", [4, 8], ids=["float32", "float64"])
@every_cell
def test_the_cases_meet_every_plan(cell, element_bytes, isa):
    plans = [case.plan(cell, element_bytes) for case in cases_of(cell).values()]
    assert {plan["products"] for plan in plans} == {"direct", "hoisted", "fused"}
    for products in ("hoisted", "fused"):
        threads = {plan["threads"] for plan in plans if plan["products"] == products}
        assert {1, 2} <= threads and max(threads) > 2, products
    splits = {tuple(plan[key] > 1 for key in ("directions_at_once", "row_parts", "unit_parts")) for plan in plans}
    missing = {
        "nothing": (False, False, False),
        "directions": (True, False, False),
        "rows": (False, True, False),
        "units": (False, False, True),
        "rows and units": (False, True, True),
    }
    assert not [name for name, split in missing.items() if split not in splits]


# Bit for bit


# Above the few rows where products are taken on the weights as they lie: those add up in another order.
BITWISE_CASES = {
    name: CASES[name]
    for name in (
        "T63-B1-H130-I40-bidirectional-4-threads",
        "T63-B5-H130-I40-5-threads",
        "T20-B9-H130-I40-rows-and-units-5-threads",
        "T63-B32-H130-I40-batch-first-bidirectional-3-threads",
        "some-of-length-one-2-threads",
        "projected-ragged",
    )
}
bitwise = pytest.mark.parametrize(
    "cell,case",
    [
        pytest.param(cell, case, id=f"{cell}-{name}")
        for cell in CELLS
        for name, case in BITWISE_CASES.items()
        if name in cases_of(cell)
    ],
)


def assert_identical(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), f"{name}: {(got[name] != tensor).sum()} of {tensor.numel()} values"


@every_isa
@bitwise
def test_forward_does_not_depend_on_the_number_of_threads(cell, case, isa):
    p, found = problem(cell, case).to(torch.float32), []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        y, final, saved = forward(p, save=True)
        found.append(dict(enumerate((y, *final, saved))))
    for other in found[1:]:
        assert_identical(other, found[0])


@every_isa
@bitwise
@pytest.mark.parametrize("threads", [1, 3, 5], ids=lambda n: f"on-{n}")
def test_backward_repeats_itself(cell, case, threads, isa):
    p = problem(cell, replace(case, threads=threads)).to(torch.float32)
    first = fused(p)
    for _ in range(2):
        assert_identical(fused(p), first)


@every_isa
@every_case
@torch.no_grad()
def test_inference_gives_the_same_bits(cell, case, isa):
    """Operator without and with saved values, and the layer function, which may take a shorter way."""
    p = problem(cell, case).to(torch.float32)
    torch.set_num_threads(case.threads)
    with poisoned(torch.float32):
        y, final, _ = forward(p, save=True)
        expected = dict(enumerate((y, *final)))
        y, final, saved = forward(p, save=False)
        assert_identical(dict(enumerate((y, *final))), expected)
        assert saved.numel() == 0
        y, final = layer(cell, p.x, p.state, p.weights, **p.options)
        assert_identical(dict(enumerate((y, *final))), expected)


def row_of(tensors: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """What belongs to one row of a dense batch, batch second."""
    return {name: t[:, row] for name, t in tensors.items() if name in ("y", "h_T", "c_T", "dx", "dh_0", "dc_0")}


@every_isa
@every_cell
@pytest.mark.parametrize("threads", [1, 3], ids=["1-thread", "3-threads"])
def test_rows_do_not_depend_on_the_rows_beside_them(cell, threads, isa):
    # Long enough that no part is so small as to be computed another way ("direct").
    p = problem(cell, Case(9, 19, 65, 200, threads=threads, directions=2)).to(torch.float32)
    whole = fused(p)
    for rows in ([0], [18], [3, 4], list(range(5, 16))):
        part = fused(
            replace(
                p,
                case=replace(p.case, B=len(rows)),
                x=p.x[:, rows],
                state=[s[:, rows] for s in p.state],
                dy=p.dy[:, rows],
                dstate=[s[:, rows] for s in p.dstate],
            )
        )
        for i, row in enumerate(rows):
            got, expected = row_of(part, i), row_of(whole, row)
            for name in ("y", "h_T", "c_T"):
                assert name not in got or torch.equal(got[name], expected[name]), f"{name} of row {row}"


@every_isa
@every_cell
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("T,B", [(2, 2), (7, 2), (7, 19)], ids=["direct", "hoisted", "fused"])
def test_a_bad_row_leaves_the_others_alone(cell, value, T, B, isa):
    p = problem(cell, Case(T, B, 17, 9, directions=2)).to(torch.float32)
    clean = fused(p)
    bad = B // 2
    x = p.x.clone()
    x[0, bad] = value
    spoiled = fused(replace(p, x=x))
    assert not torch.equal(spoiled["y"][:, bad], clean["y"][:, bad])
    for row in set(range(B)) - {bad}:
        assert_identical(row_of(spoiled, row), row_of(clean, row))


@every_cell
@pytest.mark.parametrize("isa", _C.runnable_isas()[-1:], indirect=True)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(2, 2, 17, 9), id="direct"),
        pytest.param(Case(2, 2, 17, 9, state=False, bias=False), id="direct-no-state-no-bias"),
        pytest.param(Case(9, 1, 65, 9, directions=2, threads=2), id="hoisted-bidirectional-2-threads"),
        pytest.param(Case(9, 9, 65, 9, threads=2), id="fused-2-threads"),
        pytest.param(Case(5, 5, 17, 9, directions=2, lengths=(5, 4, 4, 1, 1)), id="ragged"),
        pytest.param(Case(5, 5, 17, 9, directions=2, P=3), id="projected"),
    ],
)
def test_any_subset_of_gradients_has_the_values_of_all(cell, case, isa):
    if case.P and cell != "lstm":
        case = replace(case, P=None)
    p = problem(cell, case)
    torch.set_num_threads(case.threads)
    y, _, saved = forward(p, save=True)
    wanted = names(p)
    everything = dict(zip(wanted, backward(p, y, saved, [True] * len(wanted)), strict=True))
    singles = [{name} for name in wanted]
    groups = [{n for n in wanted if n.startswith(letter)} for letter in "xhcwb"]
    for subset in singles + [set(wanted) - s for s in singles + groups] + groups:
        chosen = [name for name in wanted if name in subset]
        with poisoned(torch.float64):
            gradients = backward(p, y, saved, [name in subset for name in wanted])
        assert_identical(dict(zip(chosen, gradients, strict=True)), {name: everything[name] for name in chosen})


# The activations over their whole range


def sampled(dtype: torch.dtype) -> Tensor:
    """Dense over the range where the activations are not constant, every magnitude down to denormals, zeros and NaN."""
    limits = torch.finfo(dtype)
    widest, exponents = (110, 45.5) if dtype == torch.float32 else (750, 324)
    magnitudes = 10 ** -torch.linspace(0, exponents, 20_001, dtype=torch.float64)
    edges = [0.0, limits.tiny, limits.tiny / 4, limits.max]
    positive = torch.cat([magnitudes, torch.tensor(edges, dtype=torch.float64)])
    dense = torch.linspace(-widest, widest, 100_001, dtype=torch.float64)
    narrow = torch.linspace(-9, 9, 50_001, dtype=torch.float64)
    return torch.cat([dense, narrow, positive, -positive, torch.tensor([torch.nan])]).to(dtype)


def constant(module: torch.nn.RNNBase, **gates: tuple[float, float]) -> torch.nn.RNNBase:
    """No recurrence; gate ``name=(weight, bias)`` sees weight x + bias, the others nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        blocks = CELLS[module.mode.lower()].gates
        for name, (weight, bias) in gates.items():
            module.weight_ih_l0.view(len(blocks), -1)[blocks.index(name)] = weight
            module.bias_ih_l0.view(len(blocks), -1)[blocks.index(name)] = bias
    return module


# 17 equal units: whole vectors and a part of one, on every instruction set
UNITS = 17


def tanh_by_rnn(x: Tensor) -> Tensor:
    return constant(fastrnn.RNN(1, UNITS, dtype=x.dtype), h=(1, 0))(x.view(1, -1, 1))[0][0]


def tanh_by_gru(x: Tensor) -> Tensor:
    return constant(fastrnn.GRU(1, UNITS, dtype=x.dtype), n=(1, 0), z=(0, -1e4))(x.view(1, -1, 1))[0][0]


def tanh_by_lstm(x: Tensor) -> Tensor:
    """Of its cell state, kept as it is: forget and output gate open, input gate closed, and c = x - 0 keeps -0."""
    lstm = constant(fastrnn.LSTM(1, UNITS, dtype=x.dtype), i=(0, -1e4), f=(0, 1e4), g=(0, -1), o=(0, 1e4))
    c = x.view(1, -1, 1).expand(1, -1, UNITS)
    return lstm(x.new_zeros(1, len(x), 1), (torch.zeros_like(c), c))[0][0]


def sigmoid_by_lstm(x: Tensor) -> Tensor:
    """Of its forget gate, times a cell state of one."""
    ones = x.new_ones(1, len(x), UNITS)
    return constant(fastrnn.LSTM(1, UNITS, dtype=x.dtype), f=(1, 0))(x.view(1, -1, 1), (ones, ones))[1][1][0]


def sigmoid_by_gru(x: Tensor) -> Tensor:
    """Of its update gate, times a state of one."""
    ones = x.new_ones(1, len(x), UNITS)
    return constant(fastrnn.GRU(1, UNITS, dtype=x.dtype), z=(1, 0))(x.view(1, -1, 1), ones)[0][0]


def wider(x: Tensor) -> np.ndarray:
    if x.dtype == torch.float32:
        return x.double().numpy()
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("numpy's longdouble is no wider than float64 on this platform")
    return x.numpy().astype(np.longdouble)


def exact_sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


@every_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "compute,exact",
    [
        (tanh_by_rnn, np.tanh),
        (tanh_by_gru, np.tanh),
        (tanh_by_lstm, np.tanh),
        (sigmoid_by_lstm, exact_sigmoid),
        (sigmoid_by_gru, exact_sigmoid),
    ],
    ids=lambda f: f.__name__,
)
@torch.no_grad()
def test_activations_are_within_four_ulps_everywhere(compute, exact, dtype, isa):
    x = sampled(dtype)
    got, expected = compute(x), exact(wider(x))
    column = got[:, :1]
    assert torch.equal(got.isnan(), x.isnan().unsqueeze(1).expand_as(got))
    assert ((got == column) | got.isnan()).all(), "equal units give equal results"
    here = ~x.isnan().numpy()
    got, expected = column[:, 0].numpy()[here], expected[here]
    ulp = np.spacing(np.abs(expected).astype(got.dtype)).astype(expected.dtype)
    worst = np.argmax(np.abs(got.astype(expected.dtype) - expected) / ulp)
    error = abs(got[worst].astype(expected.dtype) - expected[worst]) / ulp[worst]
    assert error <= 4, f"{error:.1f} ulps at {x.numpy()[here][worst]!r}"


@every_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@torch.no_grad()
def test_activations_at_infinity(dtype, isa):
    """Brought in by the bias: as an input, infinity times the weight 0 of the other gates is NaN."""
    for infinity in (torch.inf, -torch.inf):
        x, ones = torch.zeros(1, 5, 1, dtype=dtype), torch.ones(1, 5, UNITS, dtype=dtype)
        rnn = constant(fastrnn.RNN(1, UNITS, dtype=dtype), h=(0, infinity))
        assert (rnn(x)[0] == (1 if infinity > 0 else -1)).all()
        gru = constant(fastrnn.GRU(1, UNITS, dtype=dtype), z=(0, infinity))
        assert (gru(x, ones)[0] == (1 if infinity > 0 else 0)).all()
        lstm = constant(fastrnn.LSTM(1, UNITS, dtype=dtype), f=(0, infinity))
        assert (lstm(x, (ones, ones))[1][1] == (1 if infinity > 0 else 0)).all()


@every_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@torch.no_grad()
def test_tanh_is_odd_to_the_last_bit(dtype, isa):
    x = sampled(dtype)
    x = torch.cat([x[~x.isnan()], torch.tensor([torch.inf, -torch.inf], dtype=dtype)])
    y = tanh_by_lstm(x)[:, 0]
    assert torch.equal(y.signbit(), x.signbit())
    assert torch.equal(tanh_by_lstm(-x)[:, 0], -y)
