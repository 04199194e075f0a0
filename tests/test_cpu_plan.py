"""How a layer would run on a CPU: a pure function, so it is asked about machines that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machines import GRANITE_RAPIDS, GRAVITON, LAPTOP, SERVER, SKYLAKE, ZEN4

from benches.cases import CASES
from benches.results import Report
from fastrnn import _C
from fastrnn.bench.workload import lengths_of
from fastrnn.spec import CELLS
from fastrnn.testing import bfloat16_products_allowed

MACHINES = [ZEN4, GRANITE_RAPIDS, SKYLAKE, LAPTOP, GRAVITON, SERVER]
every_machine = pytest.mark.parametrize("of", MACHINES, ids=[m["name"].replace(" ", "-") for m in MACHINES])


@pytest.fixture(autouse=True)
def widest():
    """Plans depend on the instruction set too: the widest vectors that this processor has, as a Zen 4 has them."""
    before = _C.isa()
    _C.force_isa([isa for isa in _C.runnable_isas() if isa != "amx"][-1])
    yield
    _C.force_isa(before)


def plan(of, T, B, I, H, cell="lstm", D=1, threads=2, rows=None, element_bytes=4):  # noqa: E741
    return _C.plan(cell, T, B, I, H, H, D, rows or T * B, element_bytes, threads, of)


def split(found):
    return found["directions_at_once"], found["row_parts"], found["unit_parts"]


@every_machine
@pytest.mark.parametrize("cell", CELLS)
def test_every_plan_covers_the_layer_and_is_the_same_when_asked_again(cell, of):
    for T, B, H, D, threads in [(1, 1, 8, 1, 64), (3, 5, 17, 2, 3), (100, 64, 512, 2, 64), (50, 64, 1024, 1, 5)]:
        found = plan(of, T, B, H, H, cell, D, threads)
        directions, row_parts, unit_parts = split(found)
        assert found["threads"] == directions * row_parts * unit_parts <= threads
        assert directions in (1, D) and 1 <= row_parts <= B
        assert found == plan(of, T, B, H, H, cell, D, threads)


@every_machine
def test_whether_weights_are_packed_depends_on_nothing_but_rows(of):
    """Sums of products on weights as they lie add up in another order."""
    for threads in (1, 2, 64):
        for T, B, direct in [(1, 24, True), (1, 25, False), (8, 1, True), (9, 1, False)]:
            assert (plan(of, T, B, 40, 512, threads=threads)["products"] == "direct") is direct


@every_machine
def test_small_work_stays_on_one_thread(of):
    assert plan(of, 1, 1, 16, 16, threads=64)["threads"] == 1


@pytest.mark.parametrize(
    "isa,of,pays",
    [
        ("avx512bf16", ZEN4, True),
        ("avx512bf16", GRANITE_RAPIDS, False),  # vectors multiply pairs at half the rate of float32
        ("software_tiles", GRANITE_RAPIDS, True),
        ("avx512", ZEN4, False),
    ],
)
def test_bfloat16_is_widened_where_its_products_are_slower(isa, of, pays, isa_as_before):
    if isa not in _C.runnable_isas():
        pytest.skip(f"this processor does not run {isa}")
    _C.force_isa(isa)
    _C.force_machine(of)
    assert _C.products_of("bfloat16", 50, 1600) == ("bfloat16" if pays else "float32")
    with bfloat16_products_allowed():
        assert _C.products_of("float32", 50, 1600) == ("bfloat16" if pays else "float32")
    assert _C.products_of("float32", 50, 1600) == "float32"


needs_avx512 = pytest.mark.skipif("avx512" not in _C.runnable_isas(), reason="the expectations are for 512-bit vectors")


@needs_avx512
@pytest.mark.parametrize(
    "sizes,on_zen4,on_granite_rapids",
    [
        # 0.5 MB of weights are in either L2: rows, which need no barrier.
        ((100, 32, 128, 128), (1, 2, 1), (1, 2, 1)),
        # 2 MB leave both; Zen 4's L3 keeps up with its arithmetic, the other one's does not, but half of them fits L2.
        ((100, 32, 256, 256), (1, 2, 1), (1, 1, 2)),
        ((100, 64, 128, 512), (1, 2, 1), (1, 1, 2)),
        # 32 MB leave Zen 4's L3 as well.
        ((50, 64, 1024, 1024), (1, 1, 2), (1, 1, 2)),
    ],
    ids=lambda v: "-".join(map(str, v)),
)
def test_weights_beyond_a_slow_cache_are_divided(sizes, on_zen4, on_granite_rapids):
    assert split(plan(ZEN4, *sizes)) == on_zen4
    assert split(plan(GRANITE_RAPIDS, *sizes)) == on_granite_rapids


@needs_avx512
@pytest.mark.parametrize("rows", [None, 1600], ids=["dense", "ragged"])
def test_large_input_weights_are_hoisted_where_l3_is_slow(rows):
    """Of I = 1024 and H = 256 W_ih has 4 MB and W_hh 1 MB, which stays in 2 MB of L2 without the other."""
    for B in (8, 32):
        found = plan(GRANITE_RAPIDS, 100, B, 1024, 256, D=2, rows=rows and rows * B // 32)
        assert found["products"] == "hoisted" and split(found) == (2, 1, 1)
    assert plan(ZEN4, 100, 32, 1024, 256, D=2)["products"] == "fused"
    for of in MACHINES:
        assert plan(of, 100, 1, 256, 256)["products"] == "hoisted"  # a row a step


@needs_avx512
def test_panels_are_fetched_ahead_where_arithmetic_would_wait_for_l3():
    assert plan(GRANITE_RAPIDS, 100, 64, 128, 512)["fetch_panels"]
    assert plan(SKYLAKE, 100, 64, 128, 512)["fetch_panels"]
    assert not plan(ZEN4, 100, 64, 128, 512)["fetch_panels"]
    assert not plan(GRANITE_RAPIDS, 100, 32, 128, 128)["fetch_panels"]


@needs_avx512
def test_chunks_are_larger_where_gradients_leave_l2_slowly():
    assert plan(GRANITE_RAPIDS, 50, 64, 1024, 1024)["chunk_rows"] == 384
    assert plan(GRANITE_RAPIDS, 50, 64, 128, 128)["chunk_rows"] == 192
    assert plan(ZEN4, 50, 64, 1024, 1024)["chunk_rows"] == 192


@pytest.mark.skipif("software_tiles" not in _C.runnable_isas(), reason="needs a processor that multiplies int8")
def test_parts_of_the_rows_fill_tiles_where_int8_runs_on_a_matrix_unit():
    of = GRANITE_RAPIDS | {"matrix_int8": 7000e9}
    found = {}
    for isa in ("avx512bf16", "software_tiles"):
        _C.force_isa(isa)
        found[isa] = plan(of, 100, 24, 128, 128, element_bytes=1)
    assert found["avx512bf16"]["row_parts"] == 2 and not found["avx512bf16"]["matrix_steps"]
    assert found["software_tiles"]["row_parts"] == 1 and found["software_tiles"]["matrix_steps"]


@needs_avx512
def test_many_cores_share_rows_and_units():
    found = plan(SERVER, 100, 64, 512, 512, threads=64)
    assert found["threads"] > 16 and found["row_parts"] > 1
    # A barrier of 64 threads costs more than a step of a small layer.
    assert plan(SERVER, 100, 1, 64, 64, threads=64)["threads"] <= 2


def tuned_on_zen4(cell, sizes, B, threads, element_bytes):
    """The rules that were measured there, case by case: what the estimates have to come to on their own."""
    T, _, inputs, H, P, D, rows = sizes
    gates = len(CELLS[cell].gates)
    work = max(2 * rows * D * gates * H * (inputs + P), gates * H * (inputs + P * T) * D * element_bytes)
    threads = max(1, min(threads, int(work / 4e5)))
    directions = D if D > 1 and threads % D == 0 else 1
    each, row_parts = threads // directions, 1
    if gates * H * (inputs + P) * element_bytes < 12e6:
        row_parts = max(1, min(B // 4, rows // 64, each))
    unit_parts = min(each // row_parts, max(1, H * max(element_bytes, 4) // 256))
    direct = rows <= (24 if T == 1 else 8)
    hoist = not direct and T > 1 and -(-B // row_parts) < 4
    products = "direct" if direct else "hoisted" if hoist else "fused"
    return (directions, row_parts, unit_parts), products, 48 if hoist else 0, 384 if element_bytes == 2 else 192


_MEASURED = {
    r.case for r in Report.load(Path(__file__).parent.parent / "benches/results/epyc-zen4-2-threads.json").results
}
TUNED = [case for case in CASES if case in _MEASURED]


@needs_avx512
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", TUNED, ids=[case.id for case in TUNED])
def test_the_benchmark_runs_on_zen4_as_it_was_tuned_there(case, threads):
    element_bytes = {"float64": 8, "float32": 4, "bfloat16": 2 if _C.multiplies_bfloat16() else 4}[case.dtype]
    for inputs in {case.input_size} | ({case.directions * case.output_size} if case.layers > 1 else set()):
        rows = int(lengths_of(case).sum())
        sizes = (case.steps, case.batch, inputs, case.hidden_size, case.output_size, case.directions, rows)
        found = _C.plan(case.cell, *sizes, element_bytes, threads, ZEN4)
        got = split(found), found["products"], found["hoist_rows"], found["chunk_rows"]
        assert got == tuned_on_zen4(case.cell, sizes, case.batch, threads, element_bytes)
        assert not found["fetch_panels"]


@pytest.mark.parametrize(
    "line,expected", [("l2_rate 5e9", "5000000000.0"), ("l2_rat 5", "l2_rat 5"), ("l2_rate x", "x")]
)
def test_a_file_of_facts_is_read_or_refused_with_the_line(tmp_path, line, expected):
    path = tmp_path / "facts"
    path.write_text(f"# measured\n{line}\n")
    program = [sys.executable, "-c", "from fastrnn import _C; print(_C.machine()['l2_rate'])"]
    run = subprocess.run(program, env=os.environ | {"FASTRNN_MACHINE": str(path)}, capture_output=True, text=True)
    assert (run.returncode == 0) is (line == "l2_rate 5e9")
    assert expected in (run.stdout if run.returncode == 0 else run.stderr)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_rates_of_this_machine_can_be_measured(dtype):
    assert _C.peak_flops(dtype, 1) > 0
    assert _C.tile_flops(dtype, 1) > 0
