"""Kernels compiled ahead of time, without a GPU: what they take, where the weights lie, and how they are shipped."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

pytest.importorskip("triton")

from fastrnn import __main__  # noqa: E402
from fastrnn.backends.triton import launch  # noqa: E402
from fastrnn.backends.triton.plans import DEVICES  # noqa: E402
from fastrnn.spec import CELLS  # noqa: E402

TARGETS = ("sm_80", "sm_90", "gfx942")
# Every cell, on chip and stepwise, tiles of 16 and 32 rows, sizes that fill them and sizes that do not; noise, norms.
# What takes longest comes first; test_kernels_of_today and benches/results/gpu-kernels.csv have other sizes.
LAYERS = {
    "lstm": ("lstm", "bfloat16", (64, 1024), (1,)),
    "gru": ("gru", "bfloat16", (512,), (1, 64)),
    "noise": ("lstm", "bfloat16", (512,), (1,), "--noise", "mask+zoneout"),
    "norm": ("cifg", "bfloat16", (36, 520), (1,), "--layer-norm"),
    "cifg": ("cifg", "float32", (128,), (1,)),
    "relu": ("rnn_relu", "float32", (1024,), (1,)),
    "short": ("gru", "float32", (17,), (1,)),
    "tanh": ("rnn_tanh", "bfloat16", (100,), (1,)),
}


def python(*arguments, **variables):
    """The Triton interpreter, which other tests may run under, compiles nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)


def compile_ahead(*arguments, **variables):
    return python("-m", "fastrnn", "compile", *map(str, arguments), **variables)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Rows of the reports, each with the folder that its files are in, the exit codes, and what each run printed."""
    folder = tmp_path_factory.mktemp("compiled")

    def compile_layer(name):
        cell, dtype, hidden, batches, *options = LAYERS[name]
        layers = ("--cell", cell, "--hidden", *hidden, "--dtype", dtype, "--batch", *batches, *options)
        files = ("--output", folder / name, "--json", folder / f"{name}.json")
        return compile_ahead("--target", *TARGETS, *layers, *files, "--jobs", 1)

    # Two commands of one process are as fast as it gets: one with two leaves a core idle while it starts and ends.
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(LAYERS, pool.map(compile_layer, LAYERS), strict=True))
    rows = []
    for name, process in done.items():
        report = folder / f"{name}.json"
        assert report.exists(), process.stderr
        rows += [{**row, "root": folder / name} for row in json.loads(report.read_text())["kernels"]]
    codes = [(process.returncode, process.stderr) for process in done.values()]
    return rows, codes, folder, {name: process.stdout for name, process in done.items()}


def persistent(compiled, target):
    """Rows of the kernels that keep the weights on chip."""
    rows = [row for row in compiled[0] if row["target"] == target and row["kernel"].startswith("persistent")]
    assert rows
    return rows


def assembly(row, kind):
    return (row["root"] / row["target"] / row["key"] / f"{row['kernel']}.{kind}").read_text()


def test_every_kernel_fits_its_target(compiled):
    rows, codes, _, printed = compiled
    assert codes == [(0, "")] * len(LAYERS)
    for row in rows:
        assert row["fault"] is None and row["spilled"] == 0, row["constants"]
        assert 0 < row["registers"] <= 512, row["constants"]
        assert row["shared"] <= row["shared_limit"] == DEVICES[row["target"]].shared_memory, row["constants"]
    assert {row["regime"] for row in rows} == {"resident", "cooperative", "stepwise"}
    plans, table, _ = printed["relu"].split("\n\n")
    assert "cooperative on H100 (sm_90): forward 16 rows" in plans
    assert re.search(r"^sm_90 +persistent_backward +rnn_relu +float32 +1024 +cooperative ", table, re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_the_plan_knows_the_shared_memory(compiled, target):
    for row in persistent(compiled, target):
        assert row["planned_shared"] >= row["shared"], row["constants"]


# In Triton's signature of both persistent kernels.
W_HH = 1


class Ptx:
    """The statements of a kernel in NVIDIA's assembly, and where addresses come from."""

    def __init__(self, text):
        blocks, targets, name = {"": []}, defaultdict(set), ""
        for line in text[text.index(".entry") :].splitlines():
            line = line.partition("//")[0].strip()
            if label := re.fullmatch(r"(\$L__BB\w+):", line):
                if not (blocks[name] and re.match(r"(bra|ret)\b", blocks[name][-1])):
                    targets[name].add(label[1])
                name = label[1]
                blocks[name] = []
            elif line.endswith(";"):
                blocks[name].append(line[:-1])
                if jump := re.search(r"\bbra(?:\.uni)?\s+(\S+);", line):
                    targets[name].add(jump[1])
        self._targets = targets
        looping = {name for name in blocks if name in self._reached(name)}
        self.inside = [s for name in blocks if name in looping for s in blocks[name]]
        self.outside = [s for name in blocks if name not in looping for s in blocks[name]]
        # Of every definition of a register, what it is made of: registers and parameters.
        self._sources = defaultdict(set)
        for statement in self.inside + self.outside:
            operands = re.sub(r"^@!?%p\d+\s+", "", statement).partition("\t" if "\t" in statement else " ")[2].strip()
            results, _, rest = operands.partition("}," if operands.startswith("{") else ",")
            for register in re.findall(r"%\w+", results):
                self._sources[register] |= set(re.findall(r"%\w+|\w+_param_\d+", rest))

    def _reached(self, block):
        reached, ahead = set(), [block]
        while ahead:
            new = self._targets[ahead.pop()] - reached
            reached |= new
            ahead += new
        return reached

    def parameters(self, statement):
        """Numbers of the parameters that a load's address is made of, through loads of tables of rows as well."""
        seen, ahead = set(), re.findall(r"\[\s*(%\w+)", statement)
        while ahead:
            new = self._sources[ahead.pop()] - seen
            seen |= new
            ahead += new
        return {int(name.rpartition("_")[2]) for name in seen if "_param_" in name}


def loads(statements):
    return [s for s in statements if re.search(r"\bld\.global|\bcp\.async", s)]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_the_time_loop_multiplies_on_tensor_cores_and_does_not_load_the_weights(compiled, target):
    for row in persistent(compiled, target):
        ptx = Ptx(assembly(row, "ptx"))
        kind = "bf16" if row["dtype"] == "bfloat16" else "tf32"
        assert any(re.match(rf"wgmma\S*\.{kind}|mma\.sync\S*\.{kind}", s) for s in ptx.inside), row["constants"]
        read_inside = [ptx.parameters(load) for load in loads(ptx.inside)]
        assert all(read_inside) and not any(W_HH in parameters for parameters in read_inside), row["constants"]
        assert any(W_HH in ptx.parameters(load) for load in loads(ptx.outside)), row["constants"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_what_other_programs_computed_is_loaded_in_vectors(compiled, target):
    """All sizes here begin every row at a multiple of 16 bytes."""
    for row in persistent(compiled, target):
        if row["regime"] == "cooperative":
            gathered = [load for load in loads(Ptx(assembly(row, "ptx")).inside) if ".cg" in load]
            assert gathered and all(".v4.b32" in load for load in gathered), row["constants"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_the_barrier_is_as_in_its_model(compiled, target):
    """``barrier.pml``: an acquiring poll, a block-wide barrier, loads of h; stores, a barrier, a releasing addition."""
    for row in persistent(compiled, target):
        inside, text = Ptx(assembly(row, "ptx")).inside, row["constants"]
        kinds = {"poll": r"\.gpu\.acquire", "add": r"atom\.global\.gpu\.release\.add", "all": r"bar\.sync"}
        kinds |= {"load": r"ld\.global\.cg", "store": r"st\.global"}
        order = [kind for s in inside for kind, pattern in kinds.items() if re.search(pattern, s)]
        assert (order.count("poll"), order.count("add")) == (row["regime"] == "cooperative",) * 2, text
        if row["regime"] == "cooperative":
            poll, add = order.index("poll"), order.index("add")
            assert "load" not in order[:poll] and "all" in order[poll : order.index("load")], text
            published = add - 1 - order[:add][::-1].index("all")
            assert "store" in order[:published] and "store" not in order[published:add], text


def test_amd_matrix_instructions(compiled):
    for row in persistent(compiled, "gfx942"):
        assert "v_mfma_" in assembly(row, "amdgcn"), row["constants"]


LOAD = """
from pathlib import Path
from triton.compiler import CompiledKernel
from fastrnn.backends.triton import ahead, launch
found = launch._ahead_of_time("sm_90")
request = ahead.Request(["sm_90"], ["lstm"], [64, 1024], ["bfloat16"], [1], ["none"], None, None, 1, "")
kernels = {kernel for case in ahead.cases(request) for kernel, _ in ahead.kernels(case)}
assert {kernel.key() for kernel in kernels} == set(found)
for kernel in kernels:
    files = found[kernel.key()]
    compiled = CompiledKernel(kernel.source(), files, kernel.key())
    assert compiled.kernel == Path(files[kernel.name + ".cubin"]).read_bytes()
    assert compiled.metadata.num_warps == kernel.warps
"""


def test_a_moved_folder_is_loaded(compiled, tmp_path):
    folder, moved = compiled[2] / "lstm", tmp_path / "moved"
    folder.rename(moved)
    try:
        done = python("-W", "error", "-c", LOAD, FASTRNN_KERNELS=str(moved))
    finally:
        moved.rename(folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def kernels_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRNN_KERNELS", str(tmp_path))
    launch._ahead_of_time.cache_clear()
    yield tmp_path
    launch._ahead_of_time.cache_clear()


@pytest.mark.parametrize(
    "change, warning",
    [
        ({"triton": "3.0.0"}, "made for Triton 3.0.0, here is"),
        ({"sources": "another"}, "made for kernel sources another, here is"),
        ({"kernels": [{"target": "sm_80"}]}, "made for sm_80, here is sm_90"),
        ({"kernels": None}, "TypeError"),
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
    ],
    ids=["triton", "sources", "architecture", "entries", "missing", "broken"],
)
def test_a_folder_that_does_not_fit_is_left_alone(compiled, kernels_folder, change, warning):
    manifest = json.loads((compiled[2] / "gru" / launch.MANIFEST).read_text())
    if change is not None:
        text = change if isinstance(change, str) else json.dumps(manifest | change)
        (kernels_folder / launch.MANIFEST).write_text(text)
    with pytest.warns(UserWarning, match=warning) as caught:
        assert launch._ahead_of_time("sm_90") == {}
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


FAULTY = """
from dataclasses import replace
from fastrnn import __main__
from fastrnn.backends.triton import ahead
original = ahead.kernels
def kernels(case):
    yield from original(case)
    if case.plan.regime == "stepwise":
        return
    kernel, tile = next(original(case))
    for constants in {"UNITS": 24}, {"UNITS": 256, "HIDDEN": 256, "BLOCK_K": 256}:
        yield replace(kernel, constants=tuple((dict(kernel.constants) | constants).items()), warps=4), tile
ahead.kernels = kernels
__main__.main()
"""


def test_a_faulty_kernel_fails_the_command_and_not_the_others(tmp_path):
    sizes = ["--target", "sm_90", "--cell", "rnn_relu", "--hidden", "128", "--dtype", "float32", "--batch", "1"]
    output, report = tmp_path / "out", tmp_path / "report.json"
    done = python("-c", FAULTY, "compile", *sizes, "--output", str(output), "--json", str(report))
    rows = json.loads(report.read_text())["kernels"]
    faults = {row["key"]: row["fault"] for row in rows if row["fault"]}
    assert done.returncode == 1 and len(done.stderr.splitlines()) == len(faults) == 2, done.stderr
    assert any("does not compile: " in fault for fault in faults.values())
    assert any("spills " in fault and " bytes of shared memory, H100 has 232,448" in fault for fault in faults.values())
    shipped = {entry["key"] for entry in json.loads((output / launch.MANIFEST).read_text())["kernels"]}
    assert shipped == {row["key"] for row in rows} - set(faults)


GOOD = {"--target": "sm_90", "--cell": "lstm", "--hidden": "64", "--dtype": "bfloat16", "--batch": "1", "--jobs": "1"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--target": "sm_70"}, r"--target: .*'sm_70' .*sm_80.*sm_90.*gfx942"),
        ({"--cell": "elman"}, r"--cell: .*'elman' .*rnn_tanh.*lstm.*gru"),
        ({"--dtype": "int8"}, r"--dtype: .*'int8' .*bfloat16.*float16.*float32"),
        ({"--hidden": "0"}, r"--hidden: expected a positive integer, got '0'"),
        ({"--batch": "-1"}, r"--batch: expected a positive integer, got '-1'"),
        ({"--jobs": "two"}, r"--jobs: expected a positive integer, got 'two'"),
        ({"--target": None}, r"required: --target"),
        ({"--hidden": None}, r"required: --hidden"),
        ({"--output": "."}, r"--output: expected a new or an empty folder"),
        ({"--json": "missing/report.json"}, r"--json: expected a file in a folder that exists"),
    ],
    ids=lambda value: " ".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
def test_bad_arguments(change, message, monkeypatch, capsys):
    arguments = [text for name, value in (GOOD | change).items() if value is not None for text in (name, value)]
    monkeypatch.setattr(sys, "argv", ["fastrnn", "compile", *arguments])
    with pytest.raises(SystemExit) as exit:
        __main__.main()
    assert exit.value.code == 2 and re.search(message, capsys.readouterr().err)


SHORTER = """
import torch, triton
from fastrnn.backends.triton import persistent
from fastrnn.backends.triton.build import build
from fastrnn.backends.triton.plans import DEVICES, make_plan
from fastrnn.spec import LayerSpec
spec, device = LayerSpec("lstm"), DEVICES["sm_90"]
plan = make_plan(spec, 256, 384, torch.float32, True, device)
kernel = persistent.backward_kernel(spec, plan, 384, torch.float32, ragged=False, every_state=False)
built = build(kernel, device)
length, planned = (dict(k.constants)["BLOCK_K"] for k in (built.kernel, kernel))
assert built.usage.spilled == 0
assert length < planned if triton.__version__.startswith("3.6.") else length <= planned, (length, planned)
"""


def test_pieces_are_shorter_where_they_would_spill(tmp_path):
    """Triton 3.6 has 8 bytes of this kernel in memory, on 128 registers, whatever the assembler is told."""
    done = python("-c", SHORTER, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


TABLE = Path(__file__).parents[1] / "benches" / "results" / "gpu-kernels.csv"
DRAWS = 24


def test_kernels_of_today(tmp_path, capsys):
    """Other layers every day, on all targets. ``--draws`` of the command it prints draws more."""
    table, seed = tmp_path / "table.csv", date.today().strftime("%Y%m%d")
    command = ("--sweep", table, "--seed", seed, "--jobs", 2)
    with capsys.disabled():
        print(f"python -m fastrnn compile --sweep FILE --seed {seed} --draws {DRAWS}")
    for draws in (4, DRAWS):  # what is there is not compiled again
        done = compile_ahead(*command, "--draws", draws)
        assert done.returncode == 0, done.stderr
        assert f"{draws} kernels of" in done.stdout and f"from seed {seed}, 0 faulty" in done.stdout
    with table.open(newline="") as file:
        assert [row["draw"] for row in csv.DictReader(file)] == [str(n) for n in range(DRAWS)]
    refused = compile_ahead("--sweep", table, "--seed", 1)
    assert f"has a sweep of seed {seed}, here is 1" in refused.stderr and refused.stderr.count("\n") == 1


def test_the_table_of_random_kernels_has_no_fault():
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert (row["fault"], row["spilled"]) == ("", "0"), row
        assert int(row["shared"]) <= DEVICES[row["target"]].shared_memory, row
    assert {row["cell"] for row in rows} == set(CELLS)
    assert {row["target"] for row in rows} == set(DEVICES) - {"sm_110"}  # which Triton 3.6 does not know
    assert set(range(1, 65)) <= {int(row["hidden"]) for row in rows}
    for option in ("mask", "zoneout", "expected", "norm"):
        assert {row[option] for row in rows} == {"0", "1"}


UNKNOWN = """
from dataclasses import replace
from fastrnn import __main__
from fastrnn.backends.triton.plans import DEVICES
DEVICES["sm_999"] = replace(DEVICES["sm_90"], architecture="sm_999")
__main__.main()
"""


def test_a_target_that_triton_does_not_know_is_refused_in_one_line():
    done = python("-c", UNKNOWN, "compile", "--target", "sm_999", "--hidden", "64")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(r"Triton \S+, with the assembler of CUDA \S+, does not know sm_999", done.stderr)


WITHOUT_TRITON = "import sys; sys.modules['triton'] = None; from fastrnn.__main__ import main; main()"
ARGUMENTS = ["compile", "--target", "sm_90", "--hidden", "64"]


@pytest.mark.parametrize(
    "command, variables, message",
    [
        (["-c", WITHOUT_TRITON], {}, "Triton is not installed"),
        (["-m", "fastrnn"], {"TRITON_INTERPRET": "1"}, "TRITON_INTERPRET is set"),
    ],
    ids=["without Triton", "interpreted"],
)
def test_where_nothing_can_be_compiled(command, variables, message):
    done = python(*command, *ARGUMENTS, **variables)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_info_names_triton_and_the_folder(tmp_path):
    text = python("-m", "fastrnn", "info", FASTRNN_KERNELS=str(tmp_path)).stdout
    assert re.search(r"^Triton +\d+\.\d+", text, re.MULTILINE)
    assert f"{tmp_path}, no manifest.json in it" in text
