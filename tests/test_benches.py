"""The benchmarks: who is timed computes the same, and what is reported is what was measured."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrnn
from benches import limits, regularisation, resets, windows
from benches.cases import CASES, Case
from benches.results import Report, Result, groups
from benches.scale import Scaled, findings, points
from benches.table import HEADER, format_report, row
from fastrnn.bench.engines import ENGINES, OPENVINO
from fastrnn.bench.providers import OURS, PEERS, TORCH, make_runs
from fastrnn.bench.timing import Quartiles
from fastrnn.bench.workload import build, make_workload, run_inference, run_training

RESULTS = Path(__file__).resolve().parents[1] / "benches/results"
SMALL = [
    Case("small", "lstm", 3, 5, 7, 8),
    Case("small", "gru", 3, 5, 7, 8, layers=2, bidirectional=True, batch_first=True),
    Case("small", "rnn_relu", 3, 5, 7, 8),
    Case("small", "cifg", 3, 1, 7, 8),
    Case("small", "lstm", 3, 5, 7, 8, dtype="bfloat16"),
    Case("small", "gru", 3, 1, 7, 8, layers=2, dtype="bfloat16"),
    Case("small", "gru", 3, 5, 7, 8, fp32_precision="bf16"),
]


@pytest.fixture(params=ENGINES)
def engine(request):
    engine = ENGINES[request.param]
    for package in engine.packages:
        pytest.importorskip(package)
    return engine


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_engines_agree_with_torch(engine, case):
    assert engine.takes(case) or case.products == "bfloat16"
    if engine.takes(case):
        engine.run(make_workload(case), threads=1)()


@pytest.mark.parametrize("case", [SMALL[0], SMALL[4]], ids=lambda case: case.id)
def test_an_engine_with_other_weights_is_refused(engine, case, monkeypatch):
    model = importlib.import_module("fastrnn.bench.onnx_model")
    monkeypatch.setitem(model._OPERATORS, "lstm", model._Operator("LSTM", [0, 1, 2, 3]))
    if engine.takes(case):
        with pytest.raises(AssertionError, match=f"{engine.title} differs from torch.nn: error"):
            engine.run(make_workload(case), threads=1)


@pytest.mark.parametrize(
    "options", [{"ragged": True}, {"proj_size": 4}, {"dtype": "float64"}], ids=["ragged", "projected", "float64"]
)
def test_engines_are_not_asked_for_what_they_lack(engine, options):
    assert not engine.takes(replace(SMALL[0], **options))


def test_the_switch_is_set_while_a_case_runs():
    seen = []
    work = make_workload(SMALL[-1])
    module = build(nn, work.case, work.weights, torch.float32)
    switch = torch.backends.mkldnn.rnn
    for hook in (module.register_forward_hook, module.register_full_backward_hook):
        hook(lambda *_: seen.append(switch.fp32_precision))
    before = switch.fp32_precision
    run_training(module, work, [work.values.requires_grad_()])
    assert seen == ["bf16", "bf16"] and switch.fp32_precision == before
    with pytest.raises(RuntimeError):
        run_inference(module, replace(work, input=work.input[..., 1:]))
    assert switch.fp32_precision == before


def test_float32_in_full_runs_beside_what_the_switch_asks_for():
    assert list(make_runs(make_workload(SMALL[-1]), True, 1)) == ["float32", TORCH, OURS]
    assert list(make_runs(make_workload(SMALL[0]), True, 1)) == [TORCH, OURS]


# Layers too large for float64.


def _wrong_at(step: int, row: int) -> type[fastrnn.LSTM]:
    class Wrong(fastrnn.LSTM):
        def forward(self, input, hx=None):
            output, state = super().forward(input, hx)
            where = torch.zeros_like(output)
            where[step, row] = 1e-3
            return output + where, state

    return Wrong


@pytest.mark.parametrize("step, row", [(0, 0), (-1, -1), (63, 1), (-64, -2)])
def test_windows_find_what_is_wrong(step, row, monkeypatch):
    monkeypatch.setattr(windows, "_WHOLE", 0)
    monkeypatch.setattr(windows, "_STEPS", 64)
    work = make_workload(Case("long", "lstm", 8, 200, 4, 8))
    windows.check_large(work, training=True)
    monkeypatch.setattr(fastrnn, "LSTM", _wrong_at(step, row))
    with pytest.raises(AssertionError, match="output: error"):
        windows.check_large(work, training=False)


# Limits.


RATES = {"float64": 1e11, "float32": 2e11, "bfloat16": 2e12}


@pytest.mark.parametrize(
    "options, rate", [({}, 2e11), ({"dtype": "bfloat16"}, 2e12), ({"fp32_precision": "bf16"}, 2e12)]
)
def test_the_limit_is_the_tile_of_the_fastest_unit(options, rate, monkeypatch):
    measured = {dtype: {"multiply_adds": 1.2 * rate, "tile": rate} for dtype, rate in RATES.items()}
    monkeypatch.setattr(limits, "rates", lambda threads: measured)
    case = replace(Case("large", "lstm", 64, 10, 128, 128), **options)
    operations, _ = limits.work_of(case, 640, False)
    assert limits.bounds(case, 640, False, 1)["arithmetic"] == pytest.approx(operations / rate)


def test_without_a_dot_product_of_its_own_bfloat16_is_widened(monkeypatch):
    slow = {dtype: {"multiply_adds": rate, "tile": rate} for dtype, rate in (RATES | {"bfloat16": 1e11}).items()}
    monkeypatch.setattr(limits, "rates", lambda threads: slow)
    assert limits._product_rate("bfloat16", 1) == limits._product_rate("float16", 1) == RATES["float32"]


# Reports.


def _result(case: Case, mode: str, **ratios: float) -> Result:
    quartiles = {name: Quartiles(value, value, value) for name, value in ratios.items()}
    seconds = {name: Quartiles(value, value, value) for name, value in (ratios | {OURS: 1.0}).items()}
    return Result(case, mode, 5, {}, seconds, quartiles, 0.5)


def test_a_report_has_a_ratio_to_each_peer(tmp_path):
    case, asked = SMALL[0], SMALL[-1]
    results = [
        _result(case, "inference", torch=2.0, onnxrt=1.5, openvino=0.5),
        _result(asked, "training", torch=2.0, float32=4.0),
    ]
    report = Report({"cpu": "some", "threads": 2, "isa": "none", "commit": None, "dirty": None, "date": "today"})
    report.machine["versions"] = {"torch": "2"}
    report.results, report.rates = results, {"float32": {"multiply_adds": 5e11, "tile": 4e11}}
    report.save(tmp_path / "run.json")
    assert Report.load(tmp_path / "run.json") == report

    cells = dict(zip(HEADER, row(results[0], []), strict=True))
    assert [cells[f"vs {peer}"] for peer in PEERS] == ["2.00", "1.50", "0.50", ""]
    text = format_report(report)
    assert "float32 400 (500)" in text and "slower than openvino: 1 of 1" in text
    assert all(f"vs {peer}" in text for peer in PEERS)
    assert groups(results, "float32")[0].geometric_mean == pytest.approx(4)


def test_what_is_not_installed_is_absent_only_where_it_would_run():
    def cell(case: Case, mode: str) -> str:
        return dict(zip(HEADER, row(_result(case, mode, torch=1.0), [OPENVINO]), strict=True))["vs openvino"]

    assert cell(SMALL[0], "inference") == "absent"
    assert cell(SMALL[0], "training") == cell(replace(SMALL[0], ragged=True), "inference") == ""


# By their names: those of other benchmarks begin with its name.
LAYER_TIMES = [p for p in sorted(RESULTS.glob("*.json")) if p.stem.split("-")[0] in ("epyc", "xeon")]


@pytest.mark.parametrize("path", LAYER_TIMES, ids=lambda path: path.stem)
def test_earlier_results_are_still_read(path):
    assert "vs torch" in format_report(Report.load(path), markdown=True)


def test_cases_have_names_of_their_own():
    assert len({case.id for case in CASES}) == len(CASES)


# Scale.


def _scaled(point, seconds: float, peak: int = 1) -> Scaled:
    quartiles = {OURS: Quartiles(seconds, seconds, seconds)}
    bounds = {"arithmetic": seconds / 2, "weights": seconds / 4}
    return Scaled(point.axis, point.size, "inference", point.threads, point.case, quartiles, {OURS: peak}, bounds)


@pytest.mark.parametrize("axis", points("gru", 1, 1))
def test_what_grows_with_the_operations_is_linear(axis):
    line = points("gru", 1, 4)[axis]
    assert [point.size for point in line] == sorted({point.size for point in line})
    before, after = (_scaled(point, 1.0) for point in line[:2])
    factor = after.operations / before.operations
    assert not list(findings(before, replace(after, seconds=_scaled(line[1], factor).seconds)))
    [found] = findings(before, replace(after, seconds=_scaled(line[1], 1.5 * factor).seconds))
    assert "time grows 1.50 times" in found and "share of it 50%, then" in found


# Rows that begin anew or end early, states that are disturbed.


@pytest.mark.parametrize("part", resets.PARTS)
def test_resets_are_verified_and_timed(part, monkeypatch, capsys):
    if part == "torchrl":
        pytest.importorskip("torchrl", reason="needs torchrl: pip install torchrl")
    monkeypatch.setattr(sys, "argv", ["resets", part, "--quick"])
    monkeypatch.setattr(resets, "SIZES", {part: [resets.Size(3, 7, 8)]})
    monkeypatch.setattr(resets, "CHANCES", (0.1,))  # torchrl's scan is traced for each
    resets.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "| 3, 7, 8 | " in line]
    assert sum("training" in line for line in lines) == sum("inference" in line for line in lines) > 1


def test_regularisation_is_verified_and_timed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["regularisation", "--quick"])
    monkeypatch.setattr(regularisation, "SIZES", [resets.Size(3, 7, 8)])
    regularisation.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "| 3, 7, 8 | training" in line]
    assert len(lines) == len(regularisation.CELLS)


def test_a_layer_that_does_not_begin_anew_is_not_timed(monkeypatch):
    class Wrong(fastrnn.LSTM):
        def forward(self, input, hx=None, reset=None):
            return super().forward(input, hx)

    monkeypatch.setattr(fastrnn, "LSTM", Wrong)
    with pytest.raises(AssertionError, match="inference, reset: differs by"):
        list(resets.loops("LSTM", resets.Size(3, 7, 8), "inference", resets.Budget()))


def test_a_part_whose_package_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resets", "torchrl"])
    monkeypatch.setitem(sys.modules, "tensordict", None)
    resets.main()
    assert "skipped: torchrl, import of tensordict halted" in capsys.readouterr().out
