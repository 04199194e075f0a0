"""The command for a machine with a GPU, as far as it goes without one."""

import operator
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benches.cases import MODES, Case
from benches.gpu import facts, run, speed
from benches.gpu.barrier import Barrier, interpolated
from benches.gpu.cases import CASES, choose, label, plan_of
from benches.gpu.checks import REGIMES, Check, in_brief, layers, same_bits
from benches.gpu.child import Broken, Child, Failed, Hung
from benches.gpu.cudnn import PERSISTENT, SMALL_H, STANDARD, algorithm
from benches.gpu.floor import floors
from benches.gpu.precision import PRECISIONS
from benches.gpu.record import Record
from benches.gpu.report import format_record
from benches.gpu.speed import Measured
from benches.gpu.table import format_cases
from fastrnn.backends.triton.plans import DEVICES
from fastrnn.bench.timing import Quartiles
from fastrnn.spec import CELLS
from fastrnn.testing import Comparison, compare

ROOT = Path(__file__).resolve().parents[1]
H100 = DEVICES["sm_90"]
RATES = {"operations": {"bfloat16": 8e14, "float16": 8e14, "tf32": 4e14}, "copy": 3e12}
FACTS = {
    "date": "2030-01-01T00:00:00+00:00",
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"python": "3.12", "torch": "2.11", "cudnn": 91300},
    "device": "Made-up GPU",
    "capability": [9, 0],
    "multiprocessors": 132,
    "cudnn_takes": ["float16", "tf32"],
    "rates": RATES,
}


def made_up(case: Case, mode: str, ratio: float) -> Measured:
    ours = 1e-3 * (1 + MODES.index(mode))
    bounds = {"barrier": 4e-4, "arithmetic": 1e-4, "memory": 1e-5}
    return Measured(
        case,
        mode,
        rounds=5,
        calls={"torch": 1, "fastrnn": 2},
        seconds={"torch": Quartiles(*[ours * ratio] * 3), "fastrnn": Quartiles(*[ours] * 3)},
        ratios={"torch": Quartiles(ratio * 0.9, ratio, ratio * 1.1)},
        floor_seconds=max(bounds.values()),
        plan="a plan",
        regime="cooperative",
        algorithms=[STANDARD],
        floors=bounds,
    )


@pytest.fixture
def record() -> Record:
    chosen = choose(["lstm", "gru"], ["bfloat16", "tf32"], [512, 1024], [16, 64])
    results = [made_up(case, mode, 2.0 + n % 3) for n, case in enumerate(chosen) for mode in MODES]
    good = Check("lstm bfloat16", [], 0.5, "dw_hh[0]", {"y": [0.1, 0.2]})
    bad = Check("gru bfloat16", ["y: error 1.00e+00, allowed 1.00e-02"])
    return Record(FACTS, [good, bad], [Barrier(2, 1, 6e-7), Barrier(132, 1, 1.2e-6)], results, left_out=["2 cases"])


def test_without_a_device_the_command_shows_plans_and_succeeds():
    command = [sys.executable, "-m", "benches.gpu", "--only", "lstm", "--hidden", "512"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *plans, last = result.stdout.splitlines()
    assert last == "no CUDA device was found: checks, barrier and speed were not run"
    assert "lstm bf16 H512 B16: cooperative on H100" in "\n".join(plans)


def test_the_first_cases_are_the_most_telling():
    assert [label(case) for case in CASES[:2]] == ["lstm bf16 H512 B16", "gru bf16 H512 B16"]
    assert len(set(CASES)) == len(CASES)


def test_checks_reach_every_regime_where_it_exists():
    found = {(layer.cell, layer.precision, layer.regime) for layer in layers(H100, list(CELLS), list(PRECISIONS))}
    expected = {(c, p, "stepwise") for c in CELLS for p in PRECISIONS if p != "float16" or not in_brief(c)}
    expected |= {(c, p, r) for c in CELLS for p in ("bfloat16", "tf32") for r in REGIMES}
    assert expected <= found


class TestRule:
    exact = {"y": torch.tensor([1.0, 2.0], dtype=torch.float64)}

    def check(self, ours: list[float], peer: list[float]) -> Comparison:
        return compare({"y": torch.tensor(ours)}, {"y": torch.tensor(peer)}, self.exact, 4)[0]

    def test_twice_the_error_of_torch_nn_is_right(self):
        assert self.check([1.0, 2.0019], [1.001, 2.0]).ok

    def test_more_is_wrong(self):
        assert not self.check([1.0, 2.0021], [1.001, 2.0]).ok

    def test_nan_is_wrong(self):
        comparison = self.check([1.0, float("nan")], [1.0, 2.0])
        assert not comparison.ok
        check = Check.of("case", [], [comparison])
        assert check.problems and check.worst == float("inf")

    def test_bits_are_compared_not_values(self):
        assert same_bits(torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 1.0]))
        assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))


class TestAlgorithm:
    """Of ATen/native/cudnn/RNN.cpp, at sizes on either side of each of its limits."""

    inside = Case("dense", "lstm", 128, 512, 512, 512, dtype="float16")

    def of(self, backward: bool = False, capability: tuple[int, int] = (9, 0), multiprocessors: int = 132, **changes):
        return algorithm(replace(self.inside, **changes), backward, capability, multiprocessors)

    def test_persistent(self):
        assert self.of() == self.of(backward=True) == self.of(hidden_size=1024) == PERSISTENT

    @pytest.mark.parametrize(
        "changes",
        [
            {"dtype": "bfloat16"},
            {"dtype": "float32"},
            {"cell": "gru"},
            {"batch": 136},
            {"batch": 20},
            {"hidden_size": 1152},
            {"hidden_size": 500},
            {"input_size": 500},
            {"layers": 2},
            {"bidirectional": True},
            {"ragged": True},
            {"proj_size": 128},
            {"capability": (8, 6)},
            {"multiprocessors": 97},
            {"cell": "rnn_tanh", "batch": 96, "hidden_size": 896},
        ],
        ids=str,
    )
    def test_standard_outside(self, changes):
        assert self.of(**changes) == STANDARD

    @pytest.mark.parametrize("cell,forward,backward", [("lstm", 192, 128), ("gru", 192, 128), ("rnn_relu", 384, 256)])
    def test_small_hidden_sizes(self, cell, forward, backward):
        for limit, is_backward in ((forward, False), (backward, True)):
            found = [self.of(is_backward, cell=cell, hidden_size=size, batch=5) for size in (limit, limit + 1)]
            assert found == [SMALL_H, STANDARD]
        assert self.of(cell=cell, hidden_size=64, dtype="float64") == STANDARD


def test_barriers_between_measured_sizes():
    barriers = [Barrier(2, 1, 1.0), Barrier(8, 16, 9.0), Barrier(10, 1, 3.0)]
    assert [interpolated(barriers, n) for n in (1, 2, 6, 10, 50)] == [0.0, 1.0, 2.0, 3.0, 3.0]
    assert interpolated([], 16) == 0.0


def test_the_floor_of_a_case():
    case = Case("dense", "lstm", 16, 512, 512, 512, dtype="bfloat16")
    rows, weights = 16 * 512, 4 * 512 * 1024
    plan = plan_of(case, H100)
    bounds = floors(case, rows, False, plan, RATES, [Barrier(2, 1, 1e-6)])
    assert bounds["barrier"] == pytest.approx(512e-6 * plan.forward.waves)
    assert bounds["arithmetic"] == pytest.approx(2 * rows * weights / 8e14)
    assert bounds["memory"] == pytest.approx(2 * (rows * 1024 + weights) / 3e12)


def test_a_record_survives_its_file(record, tmp_path):
    record.save(tmp_path / "gpu-made-up.json")
    loaded = Record.load(tmp_path / "gpu-made-up.json")
    assert asdict(loaded) == asdict(record)
    assert [file.name for file in tmp_path.iterdir()] == ["gpu-made-up.json"]


def test_the_report(record):
    text = format_record(record, cases=True)
    assert "2 results checked against the oracle, 1 of them wrong" in text
    assert "1 x 2: 0.60, 1 x 132: 1.20" in text
    assert "| torch.nn / fastrnn | inference geo. mean |" in text
    line = next(line for line in text.splitlines() if line.startswith("| lstm bf16 H512 B16 "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["lstm bf16 H512 B16", "coop", "2", "1", "2.00", "2.0", "40", "4", "2", "2.00", "3.9", "20"]
    assert "- gru bfloat16: y: error 1.00e+00" in text


def test_a_long_table_is_cut_and_says_so(record):
    whole = format_cases(record.speed)
    cut = format_cases(record.speed, longest=600)
    assert len(cut) < 700 and whole.startswith(cut.rpartition("\n...")[0])
    assert cut.endswith("more lines in the file")


def test_the_picture(record, tmp_path):
    pytest.importorskip("matplotlib")
    from benches.gpu.picture import draw

    draw(record, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_child_that_hangs_or_dies_is_replaced():
    child = Child()
    try:
        assert child.ask(operator.add, 1, 2, seconds=5) == 3
        with pytest.raises(Failed, match="ZeroDivisionError"):
            child.ask(operator.truediv, 1, 0, seconds=5)
        with pytest.raises(Hung):
            child.ask(time.sleep, 60, seconds=0.2)
        with pytest.raises(Broken, match="code 3"):
            child.ask(os._exit, 3, seconds=5)
    finally:
        child.close()


class OnThisMachine:
    """A child that is this process, and answers for a GPU."""

    def __init__(self, answers):
        self.answers = answers

    def ask(self, function, *arguments, seconds):
        answer = self.answers[function]
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    def close(self):
        pass


class NothingCompiled:
    """A precompiler that does nothing."""

    def __init__(self, device):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, kernels):
        assert kernels

    def wait(self, kernels, seconds):
        return True

    def stop(self):
        pass

    def errors(self):
        return {}


@pytest.fixture
def answers():
    return {
        facts.device_of_plans: H100,
        facts.describe: {key: value for key, value in FACTS.items() if key != "rates"},
        run.measure_rates: RATES,
        run.measure_barrier: lambda programs, groups: Barrier(programs, groups, 1e-6),
        run.checks.check: lambda layer: Check(str(layer), [], 0.5, "y", {"y": (0.1, 0.1)}),
        run.public.check: lambda name: Check(name, [], 0.5, "y", {"y": (0.1, 0.1)}),
        speed.measure: lambda case, *_: [made_up(case, mode, 2.0) for mode in MODES],
    }


def run_here(answers, path, **options):
    return run.run(run.Options(save=path, **options), OnThisMachine(answers), NothingCompiled)


def test_a_run(answers, tmp_path, capsys):
    path = tmp_path / "gpu.json"
    everything = {"cells": list(CELLS), "precisions": list(PRECISIONS)}
    assert run_here(answers, path, **everything) == 0
    record = Record.load(path)
    assert {result.case for result in record.speed} == set(CASES)
    assert len(record.barriers) == 11 and len(record.checks) > 150
    assert not record.left_out and record.facts["rates"] == RATES
    output = capsys.readouterr().out
    assert len(output[output.rindex("Made-up GPU") :]) < 12_000


def test_a_run_with_something_wrong(answers, tmp_path, capsys):
    answers[run.checks.check] = lambda layer: Check(str(layer), ["y: error 1, allowed 0.1"] * (layer.cell == "gru"))
    answers[speed.measure] = Failed("AssertionError: output: error 1")
    path = tmp_path / "gpu.json"
    assert run_here(answers, path, cells=["gru"], precisions=["tf32"], hidden=[64], batches=[1]) == 1
    record = Record.load(path)
    assert "WRONG gru tf32 resident" in capsys.readouterr().out
    assert record.wrong == ["gru tf32 H64 B1: AssertionError: output: error 1"]


def test_a_regime_that_hangs_is_given_up(answers, tmp_path):
    answers[run.checks.check] = Hung("no answer in 40 s, killed")
    path = tmp_path / "gpu.json"
    assert run_here(answers, path, parts=["checks"], cells=["gru"], precisions=["tf32"]) == 1
    record = Record.load(path)
    assert len(record.checks) == 6 and len(record.left_out) == 3


def test_a_run_without_time(answers, tmp_path):
    path = tmp_path / "gpu.json"
    assert run_here(answers, path, cells=["gru"], precisions=["tf32"], budget=-1.0) == 0
    record = Record.load(path)
    assert not record.speed and len(record.left_out) == 2


def test_a_case_is_verified_and_timed(single_thread):
    case = Case("dense", "gru", 2, 8, 16, 16)
    found = speed.measure(case, H100, FACTS, [Barrier(2, 1, 1e-6)], device="cpu")
    assert [result.mode for result in found] == list(MODES)
    assert all(result.rounds >= 5 and result.floor_seconds > 0 for result in found)
    assert [result.algorithms for result in found] == [[SMALL_H], [SMALL_H, SMALL_H]]
    assert found[0].regime == "resident"
