"""What explain says is what would run, and the command line says what this build can do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparison import LAYERS, build
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import explain
from fastrnn.backends import cpu
from fastrnn.spec import CELLS
from fastrnn.testing import bfloat16_products_allowed

compiled = pytest.mark.skipif(cpu.extension is None, reason="needs the compiled extension")


@pytest.fixture(autouse=True)
def threads(single_thread):
    pass


def packed(*lengths, size=4):
    return pack_sequence([torch.zeros(length, size) for length in lengths], enforce_sorted=False)


def saved_bytes(text):
    return [int(n.replace(",", "")) for n in re.findall(r"saved for backward: ([\d,]+) bytes", text)]


@compiled
def test_the_plan_names_instruction_set_and_threads():
    rnn, x = fastrnn.LSTM(128, 128), torch.zeros(50, 32, 128)
    assert f"plan: {cpu.extension.isa()} on 1 thread;" in explain(rnn, x)
    if cpu.extension.openmp_library():
        torch.set_num_threads(2)
        assert "on 2 threads (" in explain(rnn, x)


@compiled
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if CELLS[kind].saved])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("x", [torch.zeros(3, 5, 4), packed(2, 7, 1)], ids=["dense", "packed"])
def test_the_bytes_are_those_that_forward_saves(kind, dtype, x):
    rnn = build(fastrnn, LAYERS, kind, 4, 6, num_layers=2, bidirectional=True, dtype=dtype)
    x = x.to(dtype)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rnn(x)
    values = 6 * len(CELLS[kind].saved)
    expected = {t.nbytes for t in kept if t.dim() == 3 and t.shape[0] == 2 and t.shape[2] == values}
    assert set(saved_bytes(explain(rnn, x))) == expected


@compiled
def test_nothing_is_saved_below_the_first_tensor_that_requires_grad():
    rnn, x = fastrnn.LSTM(4, 6, num_layers=3), torch.zeros(5, 2, 4)
    rnn.requires_grad_(False)
    rnn.weight_hh_l1.requires_grad_()
    text = explain(rnn, x)
    assert "layer 0:" in text and "layers 1 to 2:" in text
    assert "saved for backward: nothing, no input or parameter requires grad" in text.split("layers 1")[0]
    assert saved_bytes(text) == [5 * 2 * 5 * 6 * 4]
    assert "layers 0 to 2:" in explain(rnn, x, (torch.zeros(3, 2, 6, requires_grad=True), torch.zeros(3, 2, 6)))
    with torch.no_grad():
        assert not saved_bytes(explain(rnn, x))


@compiled
def test_ragged_rows_are_counted():
    assert "T=5, B=2, 8 rows in all" in explain(fastrnn.GRU(4, 6), packed(3, 5))


@compiled
@pytest.mark.parametrize("x", [torch.zeros(2, 4), torch.zeros(4)], ids=["batch", "row"])
def test_a_cell_is_one_step(x):
    text = explain(fastrnn.RNNCell(4, 6), x)
    assert f"T=1, B={len(x) if x.dim() == 2 else 1}," in text
    assert "nothing besides input and output" in text


@compiled
def test_autocast_decides_the_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text = explain(fastrnn.GRU(4, 6), torch.zeros(3, 2, 4))
    assert "torch.bfloat16 on cpu" in text and "computed in float32" in text
    native = "products of torch.bfloat16 summed in float32" in text
    assert native == cpu.extension.multiplies_bfloat16()


@compiled
def test_rounding_is_said_where_it_is_allowed_and_pays():
    def says_so(steps: int) -> bool:
        return "products of torch.float32 rounded to bfloat16" in explain(fastrnn.GRU(4, 6), torch.zeros(steps, 2, 4))

    assert not says_so(10)
    with bfloat16_products_allowed():
        assert says_so(10) == cpu.extension.multiplies_bfloat16()
        assert not says_so(2)  # nothing is packed


def test_a_dtype_without_kernels_has_its_reasons():
    text = explain(fastrnn.LSTM(4, 6).to(torch.float8_e4m3fn), torch.zeros(3, 2, 4).to(torch.float8_e4m3fn))
    assert "backend: none" in text and "plan" not in text
    assert "it takes torch.float32" in text and "the input is torch.float8_e4m3fn" in text


def test_a_missing_extension_is_a_reason(monkeypatch):
    monkeypatch.setattr(cpu, "missing", "it is not there")
    assert "not cpu: it is not there" in explain(fastrnn.LSTM(4, 6), torch.zeros(3, 2, 4))


def test_a_model_is_explained_module_by_module():
    class Own(nn.GRU):
        def forward(self, input, hx=None):
            return input, hx

    model = nn.ModuleDict(
        {"ours": fastrnn.LSTM(4, 6), "theirs": nn.LSTM(4, 6), "own": Own(4, 6), "no": nn.Linear(4, 4)}
    )
    blocks = explain(model).split("\n")
    titles = [line.partition("(")[0] for line in blocks if not line.startswith(" ")]
    assert titles[:2] == ["ours: fastrnn.LSTM", "theirs: torch.nn.LSTM"] and len(titles) == 3
    text = explain(model)
    assert "accelerate() would swap it" in text
    assert "accelerate() would leave it: it is of " in text and "does not call super().forward()" in text
    assert "no recurrent layer or cell inside" in explain(model["no"])
    fastrnn.accelerate(model["theirs"])
    assert "would swap it" not in explain(model)


def test_accelerated_modules_have_the_names_that_users_know():
    class Own(nn.GRU):
        pass

    model = fastrnn.accelerate(nn.ModuleDict({"theirs": nn.LSTM(4, 6), "own": Own(4, 6)}))
    assert explain(model["theirs"]).startswith("fastrnn.LSTM(4, 6), torch.float32 on cpu\n  backend: cpu")
    assert explain(model["own"]).startswith(
        f"{__name__}.{Own.__qualname__}(4, 6), torch.float32 on cpu\n  backend: cpu"
    )


@pytest.mark.parametrize(
    "module,arguments,error,message",
    [
        (3, (), TypeError, "module: expected a torch.nn.Module, got int"),
        (fastrnn.GRU(4, 6), ([0.0],), TypeError, "x: expected a Tensor or a PackedSequence, got list"),
        (fastrnn.GRUCell(4, 6), (packed(2),), TypeError, "x: expected a Tensor, got PackedSequence"),
        (fastrnn.GRU(4, 6), (torch.zeros(4),), ValueError, "x: expected 2 or 3 dimensions, got 1"),
        (fastrnn.GRU(4, 6), (torch.zeros(0, 2, 4),), ValueError, "x: expected at least one time step"),
        (fastrnn.GRU(4, 6), (torch.zeros(3, 2, 5),), ValueError, "x: expected 4 in the last dimension, got 5"),
        (
            fastrnn.GRU(4, 6),
            (torch.zeros(3, 2, 4).double(),),
            ValueError,
            "x: expected torch.float32 .* got torch.float64",
        ),
        (fastrnn.GRU(4, 6), (torch.zeros(3, 2, 4, device="meta"),), ValueError, "x: expected it on cpu .* got meta"),
        (
            fastrnn.LSTM(4, 6),
            (torch.zeros(3, 2, 4), torch.zeros(1, 2, 6)),
            TypeError,
            "hx: expected h and c, 2 tensors",
        ),
        (fastrnn.LSTM(4, 6), (None, torch.zeros(1, 2, 6)), ValueError, "hx: expected none without x"),
        (nn.Sequential(fastrnn.GRU(4, 6)), (torch.zeros(3, 2, 4),), ValueError, "expected none with .*Sequential"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(module, arguments, error, message):
    with pytest.raises(error, match=message):
        explain(module, *arguments)


def command(*arguments, **environment):
    root = Path(fastrnn.__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)} | environment
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", *arguments], capture_output=True, text=True, env=environment
    )


@compiled
def test_info_names_the_instruction_set_in_use():
    result = command("info", FASTRNN_CPU_ISA="baseline")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^instruction set +baseline, chosen by FASTRNN_CPU_ISA", result.stdout, re.M)
    assert ", ".join(cpu.extension.runnable_isas()) in result.stdout


WITHOUT_EXTENSION = """
import runpy, sys, warnings
sys.modules["fastrnn._C"] = None  # importing it raises ImportError
import torch, fastrnn
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fastrnn.LSTM(3, 4)(torch.zeros(2, 1, 3))
assert "cannot be loaded" in str(caught[0].message), caught
sys.argv[1:] = ["info"]
runpy.run_module("fastrnn", run_name="__main__")
"""


def test_without_the_extension_layers_run_and_info_says_why_it_is_missing():
    result = subprocess.run([sys.executable, "-c", WITHOUT_EXTENSION], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^extension +no: .*cannot be loaded", result.stdout, re.M)


# What an extension leaves that is loaded by another torch than it was built for: it has registered nothing.
ANOTHER_TORCH = """
import runpy, sys, types, warnings
import torch
sys.modules["fastrnn._C"] = types.SimpleNamespace(built_for_torch="2.99.1")
import fastrnn
with warnings.catch_warnings(record=True) as told:
    assert fastrnn.GRU(3, 4)(torch.ones(2, 1, 3))[0].shape == (2, 1, 4)
assert "built for torch" in str(told[0].message)
sys.argv[1:] = ["info"]
runpy.run_module("fastrnn", run_name="__main__")
"""


def test_an_extension_built_for_another_torch_is_not_used():
    result = subprocess.run([sys.executable, "-c", ANOTHER_TORCH], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    this = re.escape(torch.__version__)
    expected = rf"^extension +no: .*built for torch 2\.99\.1, this is {this}; pip install .* builds it again$"
    assert re.search(expected, result.stdout, re.M)


def test_an_unknown_command_is_refused():
    result = command("fly")
    assert result.returncode == 2 and "invalid choice: 'fly'" in result.stderr


@compiled
@pytest.mark.parametrize("recompute,parts", [(True, ""), (5, ", 5 steps at a time")], ids=["whole", "parts"])
def test_what_is_formed_again_is_not_saved(recompute, parts):
    text = str(fastrnn.explain(fastrnn.GRU(3, 4, recompute=recompute), torch.randn(7, 2, 3)))
    assert f"nothing besides input and output: r, z, n, gh_n are formed again{parts}\n" in text
