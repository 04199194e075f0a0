"""The Triton kernels against the oracle, in Triton's interpreter, which plays an H100.

Programs of a cooperative group take turns there, one step a launch. No values are tested in bfloat16: the interpreter
computes garbage.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from problems import Case, Problem, backward, every_cell, forward, fused, names, oracle, peer, problem
from torch import Tensor

from fastrnn.spec import CELLS, CellSpec, LayerSpec, reference
from fastrnn.testing import assert_accurate

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from fastrnn.backends.triton import operators, persistent, stepwise  # noqa: E402
from fastrnn.backends.triton.kernel import Kernel  # noqa: E402
from fastrnn.backends.triton.launch import interpreted  # noqa: E402
from fastrnn.backends.triton.plans import DEVICES, Device, Plan, make_plan  # noqa: E402
from fastrnn.kernels import CELLS as WITH_KERNELS  # noqa: E402
from fastrnn.kernels import cells  # noqa: E402
from fastrnn.kernels.barrier import arrive, wait  # noqa: E402
from fastrnn.kernels.math import d_sigmoid, d_tanh, sigmoid, tanh  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not interpreted, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

_TYPES = {
    "*fp64": torch.float64,
    "*fp32": torch.float32,
    "*fp16": torch.float16,
    "*i64": torch.int64,
    "*i32": torch.int32,
}


@pytest.fixture(autouse=True)
def launched(monkeypatch) -> list[str]:
    """Names of the kernels launched. Each launch is checked for what compiled kernels take for granted of tensors."""
    kernels: list[str] = []

    def checked(launch: Callable) -> Callable:
        def launch_checked(kernel: Kernel, grid: tuple[int, int], arguments: dict, device: torch.device) -> None:
            kernels.append(kernel.name)
            for name, types in kernel.source().signature.items():
                given = arguments.get(name)
                pairs = zip(given, types, strict=True) if isinstance(given, tuple) else [(given, types)]
                for tensor, expected in pairs:
                    if isinstance(tensor, Tensor):
                        assert tensor.dtype == _TYPES[expected], f"{kernel.name}: {name} is {tensor.dtype}"
                        assert tensor.is_contiguous() and tensor.data_ptr() % 16 == 0, f"{kernel.name}: {name}"
            launch(kernel, grid, arguments, device)

        return launch_checked

    for regime in (persistent, stepwise):
        monkeypatch.setattr(regime, "launch", checked(regime.launch))
    return kernels


@pytest.fixture
def products() -> Iterator[Callable[[str], None]]:
    """Sets how float32 products of recurrent layers are rounded: ``"tf32"`` or ``"ieee"``."""
    before = torch.backends.cudnn.rnn.fp32_precision

    def choose(precision: str) -> None:
        torch.backends.cudnn.rnn.fp32_precision = precision

    yield choose
    choose(before)


def plan_of(p: Problem) -> Plan:
    return operators.plan_for(p.spec, p.case.B, p.case.H, p.x.dtype, p.x.device)


def cooperative_size(cell: str) -> int:
    """Just more hidden units than one program holds."""
    plans = {H: make_plan(LayerSpec(cell), 1, H, torch.float32, True, DEVICES["sm_90"]) for H in (70, 130)}
    return next(H for H, plan in plans.items() if plan.regime == "cooperative")


# By regime; sizes of the cooperative one are those of the cell.
CASES = {
    "resident": {
        "one-of-each": Case(1, 1, 1, 1),
        "two-tiles-of-rows": Case(3, 18, 17, 4, state=False, bias=False),
        "batch-first": Case(4, 5, 50, 3, directions=2, batch_first=True),
        "ragged": Case(5, 18, 17, 4, directions=2, lengths=(5, 4, 4, 2) + (1,) * 14),
    },
    "cooperative": {
        "two-tiles-of-rows": Case(2, 18, 0, 4, state=False, bias=False),
        "batch-first": Case(2, 5, 0, 3, batch_first=True),
        "ragged": Case(3, 4, 0, 1, directions=2, lengths=(3, 2, 2, 1)),
    },
    "stepwise": {
        "one-of-each": Case(1, 1, 1, 1, state=False),
        "dense": Case(3, 18, 17, 4, bias=False),
        "batch-first": Case(4, 5, 150, 3, directions=2, batch_first=True),
        "ragged": Case(5, 5, 300, 4, directions=2, lengths=(5, 4, 4, 2, 1)),
        "projected": Case(4, 5, 100, 3, directions=2, P=17, batch_first=True),
        "projected-ragged": Case(4, 4, 17, 3, directions=2, P=5, lengths=(4, 3, 3, 1), bias=False),
    },
}
HALF_CASES = {
    "resident": Case(4, 5, 100, 3, directions=2, lengths=(4, 3, 3, 1, 1)),
    "cooperative": Case(2, 2, 133, 3, lengths=(2, 1)),
    "stepwise": Case(4, 5, 17, 3, directions=2, P=5, lengths=(4, 3, 3, 1, 1)),
}
every_regime_and_case = pytest.mark.parametrize(
    "cell,regime,case",
    [
        pytest.param(cell, regime, replace(case, H=case.H or cooperative_size(cell)), id=f"{cell}-{regime}-{name}")
        for cell in CELLS
        for regime, cases in CASES.items()
        for name, case in cases.items()
        if not case.P or CELLS[cell].projectable
    ],
)


@every_regime_and_case
def test_float32_is_as_accurate_as_torch(cell, regime, case, products, launched):
    products("ieee" if regime == "stepwise" else "tf32")
    p = problem(cell, case).to(torch.float32)
    assert plan_of(p).regime == regime
    got = fused(p, operators)
    assert_accurate(got, peer(cell, case, torch.float32), oracle(cell, case, torch.float32))
    kind = "pointwise" if regime == "stepwise" else "persistent"
    assert set(launched) == {f"{kind}_forward", f"{kind}_backward"}


@pytest.mark.parametrize(
    "cell,case",
    [
        pytest.param(*param.values[::2], id=param.id)
        for param in every_regime_and_case.args[1]
        if "stepwise" in param.id
    ],
)
def test_float64_agrees_with_the_oracle(cell, case):
    p = problem(cell, case)
    assert plan_of(p).regime == "stepwise"
    got, expected = fused(p, operators), oracle(cell, case, torch.float64)
    for name, exact in expected.items():
        torch.testing.assert_close(got[name], exact, rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "cell,regime,case",
    [
        pytest.param(cell, regime, case, id=f"{cell}-{regime}")
        for cell in CELLS
        for regime, case in HALF_CASES.items()
        if not case.P or CELLS[cell].projectable
    ],
)
def test_float16_is_as_accurate_as_torch(cell, regime, case):
    p = problem(cell, case).to(torch.float16)
    assert plan_of(p).regime == regime
    assert_accurate(fused(p, operators), peer(cell, case, torch.float16), oracle(cell, case, torch.float16))


# Other numbers of gates


@triton.jit
def mgu_forward(gx, gh, state, norms):
    f = sigmoid(gx[0] + gh[0])
    n = tanh(gx[1] + f * gh[1])
    return (state[0] + f * (n - state[0]),), (f, n, gh[1])


@triton.jit
def mgu_backward(kept, new, old, dstate, norms):
    f, n, gh_n = kept
    dh = dstate[0]
    dn = dh * f * d_tanh(n)
    df = (dh * (n - old[0]) + dn * gh_n) * d_sigmoid(f)
    return (df, dn), (df, dn * f), (dh * (1 - f),), ()


def mgu(gx: Tensor, gh: Tensor, state: tuple[Tensor, ...], _: object) -> tuple[Tensor, ...]:
    """Zhou et al. (2016), the gate after the product."""
    (gx_f, gx_n), (gh_f, gh_n) = gx.chunk(2, -1), gh.chunk(2, -1)
    f = torch.sigmoid(gx_f + gh_f)
    return ((1 - f) * state[0] + f * torch.tanh(gx_n + f * gh_n),)


@pytest.fixture
def two_gates(monkeypatch) -> str:
    """A cell that fastrnn does not have."""
    spec = CellSpec("mgu", ("f", "n"), ("h",), ("f", "n", "gh_n"), "", apart=("n",))
    monkeypatch.setitem(CELLS, "mgu", spec)
    monkeypatch.setitem(reference._CELL_FUNCTIONS, "mgu", mgu)
    monkeypatch.setitem(cells.FORWARD, "mgu", mgu_forward)
    monkeypatch.setitem(cells.BACKWARD, "mgu", mgu_backward)
    return "mgu"


@pytest.mark.parametrize(
    "regime,case",
    [
        ("resident", Case(3, 5, 17, 4, state=False, bias=False)),
        ("resident", Case(3, 5, 17, 4, directions=2, lengths=(3, 2, 2, 1, 1))),
        ("cooperative", Case(2, 5, 133, 3, batch_first=True)),
        ("cooperative", Case(2, 2, 133, 3, directions=2, lengths=(2, 1))),
        ("stepwise", Case(3, 18, 17, 4, bias=False)),
        ("stepwise", Case(3, 4, 17, 4, directions=2, lengths=(3, 2, 2, 1))),
    ],
    ids=["resident", "resident-ragged", "cooperative", "cooperative-ragged", "stepwise", "stepwise-ragged"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_two_gates(two_gates, regime, case, dtype, products, launched, monkeypatch):
    products("ieee" if regime == "stepwise" else "tf32")
    if dtype == torch.float16 and regime == "stepwise":
        on(monkeypatch, Device("tiny", "sm_75", 1, 0))
    p = problem(two_gates, case).to(dtype)
    assert plan_of(p).regime == regime
    assert_accurate(fused(p, operators), peer(two_gates, case, dtype), oracle(two_gates, case, dtype))


def test_every_cell_with_kernels_is_named():
    functions = {name for name in vars(cells) if name.endswith(("_forward", "_backward"))}
    assert functions == {f"{cell}_{way}" for cell in WITH_KERNELS for way in ("forward", "backward")}
    assert set(WITH_KERNELS) <= set(CELLS)


def test_a_cell_without_kernels_is_no_other_cell():
    kernel = stepwise.forward_kernel(LayerSpec("gru"), 17, torch.float32, False, False)
    assert "cell=gru" in str(kernel)
    unknown = replace(kernel, constants=tuple({**dict(kernel.constants), "CELL": "elman"}.items()))
    with pytest.raises(ValueError, match="kernels for the cells .* not elman"):
        unknown.source()


# Results that must be the same bit for bit

SMALL = {
    "resident": ("lstm", Case(3, 5, 17, 4, directions=2), "tf32"),
    "resident-ragged": ("gru", Case(3, 5, 17, 4, directions=2, lengths=(3, 2, 2, 1, 1)), "tf32"),
    "cooperative": ("gru", Case(1, 3, 70, 4), "tf32"),
    "stepwise": ("gru", Case(3, 5, 17, 4, directions=2, batch_first=True), "ieee"),
    "stepwise-projected": ("lstm", Case(3, 5, 17, 4, directions=2, P=3), "ieee"),
    "resident-normalised": ("lstm", Case(2, 5, 17, 1, directions=2, layer_norm=True), "tf32"),
    "stepwise-normalised": ("gru", Case(2, 5, 17, 1, batch_first=True, layer_norm=True), "ieee"),
}
in_every_regime = pytest.mark.parametrize("cell,case,precision", SMALL.values(), ids=SMALL)


def assert_identical(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), f"{name}: {(got[name] != tensor).sum()} of {tensor.numel()} values"


@in_every_regime
def test_inference_gives_the_same_bits(cell, case, precision, products):
    products(precision)
    p = problem(cell, case).to(torch.float32)
    y, final, _ = forward(p, True, operators)
    inferred, inferred_final, saved = forward(p, False, operators)
    assert saved.numel() == 0
    assert_identical(dict(enumerate((inferred, *inferred_final))), dict(enumerate((y, *final))))


@in_every_regime
def test_any_subset_of_gradients_has_the_values_of_all(cell, case, precision, products):
    products(precision)
    p = problem(cell, case).to(torch.float32)
    y, _, saved = forward(p, True, operators)
    wanted = names(p)
    everything = dict(zip(wanted, backward(p, y, saved, [True] * len(wanted), operators), strict=True))
    few = [name for name in ("x", "h_0", "w_ih[0]", "w_hh[0]", wanted[-1]) if name in wanted]
    for chosen in ([few] if "70" in str(case) else [[name] for name in few]) + [[n for n in wanted if "[" not in n]]:
        gradients = backward(p, y, saved, [name in chosen for name in wanted], operators)
        assert_identical(dict(zip(chosen, gradients, strict=True)), {name: everything[name] for name in chosen})


@in_every_regime
def test_a_missing_gradient_is_zero(cell, case, precision, products):
    products(precision)
    p = problem(cell, case).to(torch.float32)
    y, _, saved = forward(p, True, operators)
    everything = [True] * len(names(p))
    outputs = [p.dy, *p.dstate]
    for present in range(len(outputs)):
        some = [g if i == present else None for i, g in enumerate(outputs)]
        zeros = [g if i == present else torch.zeros_like(g) for i, g in enumerate(outputs)]
        got, expected = (
            backward(replace(p, dy=dy, dstate=dstate), y, saved, everything, operators) for dy, *dstate in (some, zeros)
        )
        assert_identical(dict(zip(names(p), got, strict=True)), dict(zip(names(p), expected, strict=True)))


def strided(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else torch.stack((tensor, tensor), 1)[:, 0]


def misaligned(tensor: Tensor) -> Tensor:
    buffer = tensor.new_empty(tensor.numel() + 1)
    return buffer[1:].view_as(tensor).copy_(tensor)


def expanded(tensor: Tensor) -> Tensor:
    return tensor.flatten()[0].expand_as(tensor)


@in_every_regime
@pytest.mark.parametrize("change", [strided, misaligned, expanded])
def test_strides_and_alignment_of_arguments_do_not_matter(cell, case, precision, change, products):
    products(precision)
    p = problem(cell, case).to(torch.float32)

    def each(p: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
        lists = {name: [change(t) for t in getattr(p, name)] for name in ("state", "weights", "dstate")}
        return replace(p, x=change(p.x), dy=change(p.dy), **lists)

    def results(p: Problem, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        y, final, saved = forward(p, True, operators)
        gradients = backward(p, change(y), change(saved), [True] * len(names(p)), operators)
        return dict(enumerate((y, *final, *gradients)))

    p = each(p, change)
    plain = each(p, lambda t: t.clone(memory_format=torch.contiguous_format))
    kept = (lambda t: t) if change is expanded else change
    got, expected = results(p, kept), results(plain, lambda t: t)
    # Not to the bit: PyTorch's own products may be formed in another way.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@every_cell
@pytest.mark.parametrize("precision", ["tf32", "ieee"], ids=["resident", "stepwise"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_a_bad_row_leaves_the_others_alone(cell, value, precision, products):
    products(precision)
    p = problem(cell, Case(3, 5, 17, 4, directions=2)).to(torch.float32)
    x = p.x.clone()
    x[1, 2] = value
    clean, spoiled = fused(p, operators), fused(replace(p, x=x), operators)
    assert not torch.equal(spoiled["y"][:, 2], clean["y"][:, 2])
    if value != value:
        assert spoiled["y"][1, 2].isnan().all()
    others = [0, 1, 3, 4]
    for name in ("y", "h_T", "c_T", "dx", "dh_0", "dc_0"):
        if name in clean:
            assert torch.equal(spoiled[name][:, others], clean[name][:, others]), name


@every_cell
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch-first"])
def test_no_rows(cell, batch_first):
    case = Case(3, 0, 17, 4, directions=2, batch_first=batch_first)
    got, expected = fused(problem(cell, case), operators), oracle(cell, case, torch.float64)
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape and torch.equal(got[name], tensor), name


# Groups and tiles


def on(monkeypatch, device: Device) -> None:
    monkeypatch.setattr(operators, "current_device", lambda _: device)


def test_waves_change_no_bit(monkeypatch, products):
    products("tf32")
    p = problem("gru", Case(2, 3, 70, 4, directions=2, lengths=(2, 1, 1))).to(torch.float32)
    one = plan_of(p)
    at_once = fused(p, operators)
    on(monkeypatch, replace(one.device, multiprocessors=one.forward.programs))
    several = plan_of(p)
    assert (one.forward.waves, several.forward.waves, several.backward.waves) == (1, 2, 2)
    assert (several.forward.rows, several.forward.units) == (one.forward.rows, one.forward.units)
    assert_identical(fused(p, operators), at_once)


@pytest.mark.parametrize(
    "batch,rows,units,scarce",
    [
        pytest.param(17, 32, 16, lambda plan: {"multiprocessors": plan.forward.programs}, id="32-rows"),
        pytest.param(
            5, 16, 8, lambda plan: {"shared_memory": min(plan.forward.shared, plan.backward.shared) - 1}, id="8-units"
        ),
    ],
)
def test_other_tilings_agree_with_the_oracle(batch, rows, units, scarce, monkeypatch):
    case = Case(2, batch, 132, 4)
    p = problem("gru", case).to(torch.float16)
    usual = plan_of(p)
    on(monkeypatch, replace(usual.device, **scarce(usual)))
    plan = plan_of(p)
    assert (usual.forward.rows, usual.forward.units) == (16, 16)
    assert all((tile.rows, tile.units) == (rows, units) for tile in (plan.forward, plan.backward)), plan
    assert_accurate(fused(p, operators), peer("gru", case, torch.float16), oracle("gru", case, torch.float16))


# Graphs, of which the interpreter has none: what would be captured is done again instead.


@pytest.mark.parametrize(
    "case",
    [Case(7, 3, 17, 4, directions=2), Case(7, 3, 17, 4, directions=2, lengths=(7, 4, 1))],
    ids=["dense", "ragged"],
)
def test_steps_in_a_graph_change_no_bit(case, monkeypatch, products):
    products("ieee")
    p = problem("gru", case).to(torch.float32)
    one_by_one = fused(p, operators)
    replays = []

    def capture(warm_up: Callable, work: Callable, device: torch.device) -> Callable[[], None]:
        warm_up()
        return lambda: (replays.append(work), work())

    monkeypatch.setattr(stepwise, "_GRAPH_STEPS", 2)
    monkeypatch.setattr(stepwise, "can_capture", lambda device: True)
    monkeypatch.setattr(stepwise, "capture", capture)
    assert_identical(fused(p, operators), one_by_one)
    assert len(replays) == 4  # two each way, after three steps one by one


# The barrier. Programs in the interpreter run one after another, so only one that waits for itself can be shown.


@triton.jit
def take_turns(counter, seen, TURNS: tl.constexpr):
    for turn in range(TURNS):
        arrive(counter)
        wait(counter, turn + 1)
        tl.store(seen + turn, tl.load(counter))


def test_a_barrier_opens_once_all_have_arrived():
    counter, seen = torch.zeros(1, dtype=torch.int32), torch.zeros(5, dtype=torch.int32)
    take_turns[(1,)](counter, seen, TURNS=5)
    assert seen.tolist() == [1, 2, 3, 4, 5] and counter.item() == 5


@triton.jit
def wait_once(counter, arrivals):
    wait(counter, arrivals)


def test_a_count_beyond_the_range_of_32_bits_opens_a_barrier():
    """2^31 arrivals are 16 million steps of 128 programs. Another program has arrived for the next step already."""
    counter = torch.tensor([-(2**31)], dtype=torch.int32)
    wait_once[(1,)](counter, 2**31 - 1)  # or would wait for ever
