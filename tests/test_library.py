"""libfastrnn, the library for programs without Python, on what ``fastrnn.export`` writes: values, errors, real time.

Float32 keeps the accuracy rule with PyTorch on the same weights as its peer. Weights in 8 and 16 bits are held to the
values that they stand for; where a processor's products round activations too, single layers to the bits of
``fastrnn.freeze``.
"""

import copy
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arm
import library
import pytest
import torch
from comparison import build, inputs
from torch import Tensor, nn

import fastrnn
from benches.library import __main__ as benchmark
from fastrnn import _C
from fastrnn.exporting.describe import FORMATS
from fastrnn.exporting.load import load
from fastrnn.exporting.tensors import read, write
from fastrnn.models import Forecaster, LanguageModel, SequenceClassifier, SequenceTagger
from fastrnn.spec import CELLS
from fastrnn.testing import LAYERS, assert_accurate

ROOT = library.ROOT
EXAMPLES = ROOT / "examples/c"
ISAS = [isa for isa in _C.runnable_isas() if isa != "software_tiles"]  # which the library leaves out
# Where products round activations: twice the largest error of the models here.
ROUNDED_ISAS, ROUNDED = ("avx512bf16", "amx"), {"float32": 0.0, "bfloat16": 1.5e-2, "int8": 2e-4}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> library.Library:
    return library.here(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def on_arm(tmp_path_factory) -> library.Library:
    if arm.missing():
        pytest.skip(f"needs the packages {', '.join(arm.missing())}")
    return library.on_arm(tmp_path_factory.mktemp("library-arm"))


def layer(cell: str, inputs: int, hidden: int, **options: Any) -> nn.Module:
    return build(fastrnn, LAYERS, cell, inputs, hidden, batch_first=True, **options)


SIZES = {"embedding": 20, "hidden": 24}
MODELS: dict[str, Callable[[], Any]] = {
    **{cell: lambda cell=cell: layer(cell, 5, 17, num_layers=2) for cell in CELLS},
    "bidirectional": lambda: layer("gru", 5, 40, num_layers=2, bidirectional=True, bias=False),
    "projected": lambda: layer("lstm", 5, 17, num_layers=2, proj_size=6),
    "projected-both": lambda: layer("cifg", 5, 17, bidirectional=True, proj_size=6),
    "frames": lambda: [
        nn.Linear(40, 33), nn.ReLU(), layer("gru", 33, 64), nn.Tanh(), nn.Linear(64, 70, bias=False), nn.Sigmoid()
    ],
    "softmax": lambda: [nn.Embedding(9, 20), layer("lstm", 20, 24), nn.Linear(24, 5), nn.Softmax(-1)],
    "classifier-max": lambda: SequenceClassifier(9, 4, **SIZES, bidirectional=True, layers=2),
    "classifier-mean": lambda: SequenceClassifier(9, 4, **SIZES, pooling="mean"),
    "classifier-last": lambda: SequenceClassifier(9, 4, **SIZES, bidirectional=True, pooling="last"),
    "tagger": lambda: SequenceTagger(9, 4, **SIZES),
    "language": lambda: LanguageModel(9, tied=True, **SIZES),
    "forecaster": lambda: Forecaster(4, 3, targets=2, hidden=24, quantiles=(0.1, 0.5)),
    "forecaster-recursive": lambda: Forecaster(4, 3, targets=2, hidden=24, recursive=True),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)
every_format = pytest.mark.parametrize("weights", FORMATS)
PROJECTED = [name for name in MODELS if name.startswith("projected")]


def exported(name: str, weights: str, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}-{weights}.safetensors"
    fastrnn.export(MODELS[name](), path, weights)
    return path


def check(lib: library.Library, path: Path, weights: str, isa: str | None) -> None:
    """One row and some, in one call and in many."""
    chain = load(path)
    whole = any(link.bidirectional for link in chain.recurrent)
    for batch, steps in ((1, 1), (1, 12), (5, 40)):
        x = chain.example(batch, steps)
        exact = copy.deepcopy(chain).double()(x.double() if x.is_floating_point() else x)
        y, state = lib.drive(path, x, steps, chain, isa)
        for chunk in () if whole else (1, 7):
            again = lib.drive(path, x, chunk, chain, isa)
            assert torch.equal(again[0], y) and torch.equal(again[1], state), f"calls of {chunk} steps: other bits"
        wanted = {"y": exact[0]} | ({} if chain.pools else {"state": torch.cat([s.flatten() for s in exact[1:]])})
        got = {"y": y, "state": state} if "state" in wanted else {"y": y}
        if isa in ROUNDED_ISAS and weights != "float32":
            for key, value in got.items():
                assert (value - wanted[key]).abs().max() < ROUNDED[weights], key
        else:
            peer = chain(x)
            plain = {"y": peer[0], "state": torch.cat([s.flatten() for s in peer[1:]] or [y.new_empty(0)])}
            assert_accurate(got, {key: plain[key] for key in got}, wanted)


@every_format
@every_model
def test_models(name, weights, here, tmp_path):
    if name in PROJECTED and weights != "float32":
        with pytest.raises(ValueError, match=f"expected no projection with weights in {weights}, got 6"):
            exported(name, weights, tmp_path)
        return
    path = exported(name, weights, tmp_path)
    with torch.no_grad():
        for isa in ISAS:
            check(here, path, weights, isa)


@every_format
@every_model
def test_models_on_arm(name, weights, on_arm, tmp_path):
    if name in PROJECTED and weights != "float32":
        return
    with torch.no_grad():
        check(on_arm, exported(name, weights, tmp_path), weights, None)


@pytest.mark.parametrize("weights", FORMATS[1:])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
def test_frozen_layers_have_the_bits_of_python(cell, isa, weights, here, tmp_path, isa_as_before):
    torch.manual_seed(0)
    frozen = fastrnn.freeze(layer(cell, 13, 40, bidirectional=True), weights)
    fastrnn.export(frozen, tmp_path / "layer.safetensors")
    _C.force_isa(isa)
    x = inputs(3, 11, 13, dtype=torch.float32)
    with torch.no_grad():
        expected, _ = frozen(x)
        got, _ = here.drive(tmp_path / "layer.safetensors", x, 11, load(tmp_path / "layer.safetensors"), isa)
    assert torch.equal(got, expected)


# Real time


@every_format
def test_process_allocates_nothing_takes_no_lock_and_makes_no_system_call(weights, here, tmp_path):
    path = exported("frames", weights, tmp_path)
    for isa in ISAS:
        done = here.call(ROOT / "tests/library_realtime.c", path, 3, 1000, isa=isa)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode() == "2 1 1\n0 0 0\n", "what is on purpose first, then what 1000 calls do"


def test_streams_on_several_threads(here, tmp_path):
    done = here.call(ROOT / "tests/library_threads.c", exported("frames", "int8", tmp_path), 2000)
    assert done.returncode == 0, done.stderr.decode()


# Programs


def test_the_classifier_of_the_examples(here, tmp_path):
    path = exported("classifier-max", "int8", tmp_path)
    done = here.call(EXAMPLES / "classify.c", path, 3, 1, 4, 1)
    scores = load(path)(torch.tensor([[3, 1, 4, 1]]))[0][0]
    answer, score = re.fullmatch(r"class (\d+), score (\S+)\n", done.stdout.decode()).groups()
    assert int(answer) == scores.argmax() and float(score) == pytest.approx(scores.max().item(), abs=1e-3)


def test_the_stream_of_the_examples(here, tmp_path):
    path, x = exported("frames", "float32", tmp_path), inputs(1, 9, 40, dtype=torch.float32)
    done = here.call(EXAMPLES / "frames.c", path, given=x.numpy().tobytes())
    got = torch.tensor([[float(v) for v in line.split()] for line in done.stdout.decode().splitlines()])
    torch.testing.assert_close(got, load(path)(x)[0][0], rtol=0, atol=1e-5)


def test_the_installed_library(here, tmp_path):
    lib = here.prefix / "lib"
    assert (lib / "libfastrnn.so").stat().st_size < 3e6
    symbols = library.run("nm", "-D", "--defined-only", lib / "libfastrnn.so").split()[2::3]
    header = (here.prefix / "include/fastrnn.h").read_text()
    assert set(symbols) == set(re.findall(r"FASTRNN_API [^(]*?(fastrnn_\w+)\(", header))
    needed = re.findall(r"NEEDED.*\[(.*)\]", library.run("readelf", "-d", lib / "libfastrnn.so"))
    assert set(needed) <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert library.run("pkg-config", "--modversion", "fastrnn").strip() == version

    project = """cmake_minimum_required(VERSION 3.18)
        project(program C CXX)
        find_package(fastrnn 0.1 REQUIRED)
        foreach(kind fastrnn static)
          add_executable(with_${kind} %s)
          target_link_libraries(with_${kind} PRIVATE fastrnn::${kind})
        endforeach()"""
    (tmp_path / "CMakeLists.txt").write_text(project % (EXAMPLES / "classify.c"))
    library.run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={here.prefix}")
    library.run("cmake", "--build", tmp_path / "build")
    path = exported("classifier-max", "float32", tmp_path)
    answers = {library.run(tmp_path / f"build/with_{kind}", path, 3, 1) for kind in ("fastrnn", "static")}
    assert len(answers) == 1 and "class" in answers.pop()


def test_the_library_for_arm_is_small(on_arm):
    assert (on_arm.prefix / "lib/libfastrnn.so").stat().st_size < 1e6


def test_the_benchmark(capsys, monkeypatch):
    arguments = "--calls=10 --rounds=1 --cell=gru --eigen=/nowhere --only float32 bfloat16 int8"
    monkeypatch.setattr("sys.argv", ["benches.library", *re.split(" ", arguments)])
    benchmark.main()
    shown = capsys.readouterr().out
    assert len(re.findall(r"^gru +(?:64|128|256) +(?:float32|bfloat16|int8) ", shown, re.MULTILINE)) == 9
    assert "eigen: left out" in shown and "onnxrt: left out" in shown


# What is refused


def test_arguments_that_do_not_fit(here, tmp_path):
    bad_arguments = ROOT / "tests/library_errors.c"
    paths = [exported(name, "float32", tmp_path) for name in ("frames", "softmax", "tagger")]
    done = here.call(bad_arguments, *paths)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        "2 /nowhere: No such file or directory",
        "1 expected a path, got a null pointer",
        "1 expected rows and steps from 1 on with at most 2^40 features in all, got 0 rows and 4 steps of 70 features",
        "1 expected rows and steps from 1 on with at most 2^40 features in all, got 9223372036854775807 rows and "
        "9223372036854775807 steps of 70 features",
        "1 expected features, got tokens",
        "1 expected an input, got a null pointer",
        "1 expected a step at least, got 0",
        "1 expected tokens from 0 to 8, got 9",
        "1 expected tokens from 0 to 8, got -1",
        "1 expected at most the stream's 4 steps for a model of 2 directions, got 5",
        "5 expected fastrnn_reset before another sequence for a model of 2 directions",
        "0",
    ]


def test_an_instruction_set_that_is_not_there(here, tmp_path):
    done = here.call(EXAMPLES / "classify.c", exported("softmax", "float32", tmp_path), 1, isa="sse9")
    assert done.returncode == 1 and b"instruction set 'sse9' was asked for" in done.stderr


Change = Callable[[dict[str, Tensor], dict[str, str]], Any]
BAD_FILES: dict[str, tuple[Change, str]] = {
    "version": (lambda t, m: m.update(fastrnn="2"), r'expected "fastrnn": "1" in __metadata__, got \'2\''),
    "no-version": (lambda t, m: m.pop("fastrnn"), r'expected "fastrnn": "1" in __metadata__, got none'),
    "empty": (lambda t, m: m.pop("0"), r'expected operation "0" in __metadata__, got none'),
    "unknown": (lambda t, m: m.update({"3": "gelu"}), "operation 3, gelu: expected an operation of this library"),
    "directions": (lambda t, m: m.update({"1": "lstm directions=3"}), "operation 1: expected directions=1 or"),
    "one-direction": (lambda t, m: m.update({"1": "lstm directions=2"}), "expected a tensor 1.weight_ih_reverse"),
    "gates": (lambda t, m: t.update({"1.weight_ih": t["1.weight_ih"][:-1]}), "expected a multiple of 4 rows"),
    "missing": (lambda t, m: t.pop("1.bias_hh"), "expected a tensor 1.bias_hh, there is none"),
    "inputs": (lambda t, m: t.update({"2.weight": t["2.weight"][:, 1:]}), r"expected F32 \[5, 24\], got F32 \[5, 23\]"),
    "type": (lambda t, m: t.update({"1.bias_ih": t["1.bias_ih"].bfloat16()}), r"expected F32 \[96\], got BF16 \[96\]"),
    "mixed": (lambda t, m: t.update({"1.weight_ih": t["1.weight_ih"].bfloat16()}), "expected F32 .*, got BF16"),
    "int8": (lambda t, m: t.update({"2.weight": t["2.weight"].char()}), "expected a tensor 2.scale, there is none"),
    "more": (
        lambda t, m: t.update({"2.other": t["2.bias"]}),
        "expected the tensors of its operations alone, got 2",
    ),
    "order": (lambda t, m: m.update({"3": "max", "4": "mean"}), "expected no such operation behind max, mean or last"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_of_other_contents(name, here, tmp_path):
    path, (change, message) = exported("softmax", "float32", tmp_path), BAD_FILES[name]
    tensors, metadata = read(path)
    change(tensors, metadata)
    write(path, tensors, metadata)
    assert re.search(message, refusal(here, path))


def refusal(lib: library.Library, path: Path) -> str:
    done = lib.call(EXAMPLES / "classify.c", path, 1)
    assert done.returncode == 1, done
    return done.stderr.decode()


@pytest.mark.parametrize(
    "header,message",
    [
        ("", "expected '{' at byte 0"),
        ("[]", "expected '{' at byte 0"),
        ('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 17]}}', "expected a place in the 16 bytes of data"),
        ('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}', "expected a place in the 16 bytes of data"),
        ('{"a": {"dtype": "F32", "shape": [3], "data_offsets": [2, 14]}}', "expected a place in the 16 bytes of data"),
        ('{"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}', "expected sizes above 0 that fill its 16"),
        ('{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}', "expected sizes above 0 that fill its 0"),
        (
            '{"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}',
            "the type F32, BF16 or I8, got F64",
        ),
        ('{"a": {"dtype": "F32", "shape": [2]}}', "expected dtype, shape and data_offsets before this"),
        ('{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', "expected a number of 1 to 18 digits"),
        ('{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 16]}}', "1 to 18 digits"),
        ('{"a": {"dtype": "F32", "shape": [900000000000000000, 80], "data_offsets": [0, 16]}}', "expected sizes above"),
        ('{"__metadata__": {"a": "1", "a": "2"}}', "expected each name once"),
        ('{"__metadata__": {"a": "\\u0041"}}', "expected one of"),
        ('{"__metadata__": {"a": "', "expected '\"' at byte 24"),
        ('{"__metadata__": {"a": {"b": "c"}}}', "expected '\"'"),
        ("{} {}", "expected the end at byte 3"),
    ],
)
def test_headers(header, message, here, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(16))
    assert message in refusal(here, path)


def test_files_that_end_early(here, tmp_path):
    whole = exported("softmax", "int8", tmp_path).read_bytes()
    path = tmp_path / "short.safetensors"
    for size in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "expected" in refusal(here, path)


# What fastrnn.export refuses, and the other formats


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y) + y


class Final(nn.Module):
    """Takes the final hidden state, as many classifiers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(9, 5), nn.LSTM(5, 6, 2), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, state: Any = None) -> Tensor:
        _, (h, _) = self.rnn(self.embedding(tokens), state)
        return torch.softmax(self.head(torch.relu(h[-1])), -1)


class Frames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        y, state = self.rnn(x, state)
        return self.head(y[:, -1]).sigmoid(), state


@pytest.mark.parametrize("model", [Final, Frames])
def test_what_forward_does_is_traced(model, tmp_path):
    torch.manual_seed(0)
    made = fastrnn.export(model(), tmp_path / "model.safetensors")
    assert made.error == 0 and made.bytes == (tmp_path / "model.safetensors").stat().st_size


class CellState(Final):
    def forward(self, tokens: Tensor, state: Any = None) -> Tensor:
        _, (_, c) = self.rnn(self.embedding(tokens), state)
        return self.head(c[-1])


@pytest.mark.parametrize(
    "model,message",
    [
        (CellState, "expected a chain, .* got 'output'"),
        (Branches, "expected a chain, .* got 'add', call function add"),
        (lambda: [nn.LSTM(5, 6), nn.LayerNorm(6)], "LayerNorm: expected one of Embedding, Linear"),
        (lambda: nn.LSTMCell(5, 6), "LSTMCell: expected layers, which take sequences, got a cell"),
        (lambda: SequenceTagger(9, 4, characters=9), "expected one that reads no characters"),
        (lambda: [], "expected a model of a module at least, got none"),
    ],
)
def test_what_is_no_chain_is_named(model, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        fastrnn.export(model(), tmp_path / "model.safetensors")


def test_wrong_options_of_export(tmp_path):
    layers = nn.GRU(5, 6)
    with pytest.raises(ValueError, match="weights: expected one of float32, bfloat16, int8, got 'int4'"):
        fastrnn.export(layers, tmp_path / "a", "int4")
    with pytest.raises(ValueError, match="format: expected one of c, onnx, pt2, got 'tflite'"):
        fastrnn.export(layers, tmp_path / "a", format="tflite")
    with pytest.raises(ValueError, match="0.weight_ih_l0: expected torch.float32 on the CPU, got torch.float64"):
        fastrnn.export(layers.double(), tmp_path / "a")


@pytest.mark.parametrize(
    "format,weights", [("c", "float32"), ("c", "int8"), ("onnx", "float32"), ("onnx", "int8"), ("pt2", "bfloat16")]
)
def test_the_command(format, weights, run, tmp_path):
    torch.manual_seed(0)
    torch.save(Frames(), tmp_path / "model.pt")
    path = tmp_path / f"model.{format}"
    code, out, err = run("export", tmp_path / "model.pt", path, "--format", format, "--weights", weights)
    assert code == 0, err
    assert re.fullmatch(rf"{path}: \d+ bytes, largest difference from the model \S+ beside \S+\n", out)


def test_the_command_says_what_cannot_be_exported(run, tmp_path):
    torch.save(Branches(), tmp_path / "model.pt")
    code, _, err = run("export", tmp_path / "model.pt", tmp_path / "model.safetensors")
    assert code == 1 and "Branches: expected a chain" in err


def test_a_check_that_finds_something(tmp_path, monkeypatch):
    def damage(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        write(path, {name: t + 1 if "bias" in name else t for name, t in tensors.items()}, metadata)

    monkeypatch.setattr("fastrnn.exporting.exporter.write", damage)
    with pytest.raises(RuntimeError, match="expected the model's output to 1.0e-04, got it with an error of"):
        fastrnn.export(nn.GRU(5, 6), tmp_path / "model.safetensors")


def test_the_header_is_plain(tmp_path):
    """That the file is one of safetensors, by the format's own words."""
    content = exported("softmax", "int8", tmp_path).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    assert header.pop("__metadata__") == {
        "fastrnn": "1",
        "0": "embedding",
        "1": "lstm directions=1",
        "2": "linear",
        "3": "softmax",
    }
    assert (header["1.weight_hh"]["dtype"], header["1.weight_hh"]["shape"]) == ("I8", [96, 24])
    offsets = sorted(info["data_offsets"] for info in header.values())
    assert offsets[0][0] == 0 and offsets[-1][1] == len(content) - 8 - size
    assert all(one[1] == other[0] for one, other in zip(offsets, offsets[1:], strict=False))
