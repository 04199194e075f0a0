"""Programs without fastrnn's Python package: what PyTorch traces, scripts, exports and compiles of its modules."""

import copy
import io
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from comparison import CELL_MODULES, LAYERS, assert_same, build, inputs, layers, tensors
from program import run
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.spec import CELLS

LIBRARY = Path(fastrnn.__file__).with_name("libfastrnn_torch.so")
INPUTS, HIDDEN = 5, 6
SIZES = ((3, 4), (1, 1), (5, 7))  # rows of the batch and steps: of the trace, and of other calls


class Model(nn.Module):
    """Each way to call a layer and a cell, with and without an initial state, of the types that TorchScript wants."""

    two: Final[bool]

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.two = len(CELLS[kind].states) == 2
        options = {"num_layers": 2, "bidirectional": True, "batch_first": True} | options
        self.layer = build(fastrnn, LAYERS, kind, INPUTS, HIDDEN, **options)
        self.cell = build(fastrnn, CELL_MODULES, kind, INPUTS, HIDDEN)
        self.bare = build(fastrnn, CELL_MODULES, kind, INPUTS, HIDDEN, bias=False)

    def forward(self, x: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        if self.two:
            y0, (h0, c0) = self.layer(x)
            y1, (h1, c1) = self.layer(x, (h, c))
            p2, (h2, c2) = self.layer(packed)
            p3, (h3, c3) = self.layer(packed, (h, c))
            y4, (h4, c4) = self.layer(x[0], (h[:, 0], c[:, 0]))
            h5, c5 = self.cell(x[:, 0])
            h6, c6 = self.bare(x[:, 0], (c[0], c[1]))
            h7, c7 = self.cell(x[0, 0], (c[0, 0], c[1, 0]))
            own = [c0, c1, c2, c3, c4, c5, c6, c7]
        else:
            y0, h0 = self.layer(x)
            y1, h1 = self.layer(x, h)
            p2, h2 = self.layer(packed)
            p3, h3 = self.layer(packed, h)
            y4, h4 = self.layer(x[0], h[:, 0])
            h5 = self.cell(x[:, 0])
            h6 = self.bare(x[:, 0], c[0])
            h7 = self.cell(x[0, 0], c[0, 0])
            own = []
        y2, y3 = pad_packed_sequence(p2)[0], pad_packed_sequence(p3)[0]
        return [y0, y1, y2, y3, y4, h0, h1, h2, h3, h4, h5, h6, h7] + own


class Tagger(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(2 * HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


def tagger(cls: Any = fastrnn.LSTM, **options: Any) -> Tagger:
    torch.manual_seed(0)
    return Tagger(cls(INPUTS, HIDDEN, 2, bidirectional=True, batch_first=True, **options))


def trace(model: nn.Module, call: tuple[Any, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        return torch.jit.trace(model, call, strict=False)  # a list of results


WAYS: dict[str, Callable[[nn.Module, tuple[Any, ...]], Any]] = {
    "traced": trace,
    "scripted": lambda model, call: torch.jit.script(model),
}
every_way = pytest.mark.parametrize("way", WAYS)


def calls_of(dtype: torch.dtype, outputs: int = HIDDEN) -> list[tuple[Tensor, ...]]:
    calls = []
    for batch, steps in SIZES:
        lengths = torch.arange(batch) % steps + 1
        lengths[0] = steps
        states = (inputs(4, batch, width, dtype=dtype) for width in (outputs, HIDDEN))
        calls.append((inputs(batch, steps, INPUTS, dtype=dtype), lengths, *states))
    return calls


def _models() -> dict[str, tuple[nn.Module, list[tuple[Tensor, ...]]]]:
    """And the calls. Frozen ones have no parameters."""
    torch.manual_seed(0)
    found = {kind: (Model(kind).double(), calls_of(torch.float64)) for kind in CELLS}
    found["projected"] = Model("lstm", proj_size=4).double(), calls_of(torch.float64, outputs=4)
    for kind, stored in (("lstm", "int8"), ("gru", "bfloat16")):
        found[stored] = fastrnn.freeze(Model(kind).requires_grad_(False), stored), calls_of(torch.float32)
    return found


MODELS = [*CELLS, "projected", "int8", "bfloat16"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, tuple[list[Any], list[Any]]]:
    """What the program without fastrnn computed, and what the modules do, by model and way."""
    folder = tmp_path_factory.mktemp("programs")
    expected = {}
    for name, (model, calls) in _models().items():
        for way, make in WAYS.items():
            torch.jit.save(make(model, calls[0]), folder / f"{name}-{way}.pt")
            torch.save(calls, folder / f"{name}-{way}.calls")
            expected[f"{name}-{way}"] = [run(model, call) for call in calls]
    run_program(folder)
    return {name: (torch.load(folder / f"{name}.pt.results"), results) for name, results in expected.items()}


def run_program(folder: Path) -> None:
    program = Path(__file__).with_name("program.py")
    subprocess.run([sys.executable, program, LIBRARY, folder], check=True, cwd=folder, timeout=120)


@every_way
@pytest.mark.parametrize("name", MODELS)
def test_a_program_computes_what_the_modules_do(name, way, ran):
    got, expected = ran[f"{name}-{way}"]
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other)


@every_way
def test_further_passes_of_torch_jit(way):
    model, call = tagger().eval(), (inputs(3, 4, INPUTS, dtype=torch.float32),)
    program = WAYS[way](model, call)
    with torch.no_grad():
        expected = model(*call)
        for made in (torch.jit.freeze(program), torch.jit.optimize_for_inference(program), copy.deepcopy(program)):
            torch.testing.assert_close(made(*call), expected)
        results = [torch.jit.wait(torch.jit.fork(program, *call)) for _ in range(2)]
    assert all(torch.equal(y, expected) for y in results)


@every_way
def test_autocast_of_a_program(way):
    model, call = tagger(), (inputs(3, 4, INPUTS, dtype=torch.float32),)
    program = WAYS[way](model, call)
    with torch.autocast("cpu"):
        expected, got = run(model, call), run(program, call)
    assert got["output[0]"].dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


# TorchScript


def test_a_scripted_model_shares_and_converts_its_weights():
    model, x = tagger(), inputs(3, 4, INPUTS, dtype=torch.float32)
    scripted = torch.jit.script(model)
    assert scripted.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        model.layer.weight_hh_l0.mul_(2)
    torch.testing.assert_close(scripted(x), model(x), rtol=0, atol=0)

    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    other = tagger().double()
    for program in (scripted, torch.jit.load(file)):
        program.double()
        program.load_state_dict(other.state_dict())
        torch.testing.assert_close(program(x.double()), other(x.double()), rtol=0, atol=0)


def test_a_scripted_model_drops_out_as_the_module():
    model, x = tagger(dropout=0.5), inputs(3, 4, INPUTS, dtype=torch.float32)
    scripted = torch.jit.script(model)
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    torch.testing.assert_close(scripted(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(scripted.eval()(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda x, h: (x.double(), h), "expected weight_ih as Double"),
        (lambda x, h: (x[..., 1:], h), r"expected weight_ih of shape \[18, 4\]"),
        (lambda x, h: (x, h[:3]), r"sizes \[2, 2\] don't multiply up to the size of dim 0 \(3\)"),
        (lambda x, h: (x, h[:, :2]), r"expected h_0 of shape \[2, 3, 6\]"),
        (lambda x, h: (x[None], h), "expected 3 dimensions, got 4"),
    ],
    ids=["dtype", "inputs", "rows", "batch", "dimensions"],
)
def test_wrong_arguments_of_a_scripted_layer(change, message):
    layer = torch.jit.script(tagger(fastrnn.GRU).layer)
    x, h = (inputs(*sizes, dtype=torch.float32) for sizes in ((3, 4, INPUTS), (4, 3, HIDDEN)))
    layer.forward_tensor(x, h)
    with pytest.raises(RuntimeError, match=message):
        layer.forward_tensor(*change(x, h))


class OtherForward(fastrnn.GRU):
    def forward(self, input, hx=None):
        return super().forward(input, hx)


def _parametrized() -> nn.Module:
    layer = fastrnn.GRU(INPUTS, HIDDEN)
    parametrize.register_parametrization(layer, "weight_hh_l0", nn.Tanh())
    return layer


def _pruned() -> nn.Module:
    return prune.l1_unstructured(fastrnn.GRU(INPUTS, HIDDEN), "weight_hh_l0", amount=0.5)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: OtherForward(INPUTS, HIDDEN), "expected the forward of fastrnn's own class, got another"),
        (_parametrized, "expected the weights of ParametrizedGRU to be Parameters"),
        (_pruned, "expected the weights of GRU to be Parameters"),
    ],
    ids=["forward", "parametrized", "pruned"],
)
def test_what_torchscript_cannot_have(make, message):
    """And a trace can."""
    model, x = nn.ModuleList([make()]), inputs(4, 3, INPUTS, dtype=torch.float32)
    with pytest.raises(RuntimeError, match=rf"^torch.jit.script: {message}.*fastrnn.restore"):
        torch.jit.script(model)
    layer = model[0]
    torch.testing.assert_close(trace(layer, (x,))(x), layer(x))


class Derived(nn.LSTM):
    pass


@pytest.mark.parametrize("cls", [nn.LSTM, Derived], ids=["torch", "derived"])
def test_scripting_and_swapping_leave_nothing_to_each_other(cls):
    model, x = tagger(cls), inputs(3, 4, INPUTS, dtype=torch.float32)
    before = set(vars(model.layer))
    expected = model(x)
    fastrnn.accelerate(model)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    assert isinstance(model.layer, fastrnn.LSTM)
    fastrnn.restore(model)
    assert set(vars(model.layer)) == before
    if cls is nn.LSTM:  # torch.jit.script takes no subclass of it
        torch.testing.assert_close(torch.jit.script(model)(x), expected)
        torch.testing.assert_close(torch.jit.script(fastrnn.accelerate(model))(x), expected)


@layers
def test_the_function_is_traced_without_warnings(kind):
    layer, call = build(fastrnn, LAYERS, kind, INPUTS, HIDDEN), calls_of(torch.float32)[0]
    weights = [w.detach() for w in layer.parameters()]

    def function(x: Tensor) -> Any:
        return fastrnn.functional.rnn(kind, x, (), weights)

    for y, expected in zip(tensors(trace(function, call[:1])(call[0])), tensors(layer(call[0])), strict=True):
        torch.testing.assert_close(y, expected)


# torch.export


class Two(nn.Module):
    """An LSTM on given states, a GRU on zeros."""

    def __init__(self) -> None:
        super().__init__()
        options = {"num_layers": 2, "batch_first": True}
        self.lstm = fastrnn.LSTM(INPUTS, HIDDEN, bidirectional=True, **options)
        self.gru = fastrnn.GRU(2 * HIDDEN, HIDDEN, **options)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        y, last = self.gru(y)
        return [y, last, h, c]


def export(model: nn.Module, call: tuple[Tensor, ...], *free: dict[int, str]) -> torch.export.ExportedProgram:
    sizes = {name: torch.export.Dim(name, max=1024) for name in ("batch", "steps")}
    shapes = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in free)
    return torch.export.export(model, call, dynamic_shapes=shapes)


def test_exported_and_compiled_programs(tmp_path):
    torch.manual_seed(0)
    model = Two().double()
    calls = [(call[0], *call[2:]) for call in calls_of(torch.float64)]
    exported = export(model, calls[0], {0: "batch", 1: "steps"}, {1: "batch"}, {1: "batch"})
    torch.export.save(exported, tmp_path / "two.ep")
    torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "two.pt2"))
    torch.save(calls, tmp_path / "two.calls")
    run_program(tmp_path)
    for k, call in enumerate(calls):
        expected = run(model, call)
        assert_same(torch.load(tmp_path / "two.ep.results")[k], expected)
        assert_same(torch.load(tmp_path / "two.pt2.results")[k], {n: y for n, y in expected.items() if n[0] != "d"})


# C++


def build_cpp(folder: Path) -> Path:
    options = {"CMAKE_PREFIX_PATH": torch.utils.cmake_prefix_path, "FASTRNN_LIBRARY": LIBRARY}
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    for command in (["-S", Path(__file__).with_name("cpp_program"), "-B", folder, *arguments], ["--build", folder]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True, timeout=300)
        if torch.version.cuda and "cannot find the CUDA libraries" in " ".join(done.stderr.split()):
            pytest.skip("needs the CUDA that torch was built with: torch's CMake files do not configure without")
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "program"


@pytest.fixture
def cpp_program(tmp_path_factory) -> Iterator[Future[Path]]:
    """Built while the test prepares what it runs, which takes as long."""
    for tool in ("cmake", "c++"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(build_cpp, tmp_path_factory.mktemp("cpp_program"))


def test_a_program_in_cpp(cpp_program, tmp_path):
    model = tagger().double()
    x = torch.arange(4 * 7 * 5, dtype=torch.float64).sin().view(4, 7, 5)
    example = (inputs(3, 4, INPUTS),)
    for way, make in WAYS.items():
        torch.jit.save(make(model, example), tmp_path / f"{way}.pt")
    exported = export(model, example, {0: "batch", 1: "steps"})
    torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "compiled.pt2"))

    forward = {"y": float(model(x).detach().square().sum())}
    both = {name.removeprefix("d "): float(t.square().sum()) for name, t in run(model, (x,)).items()}
    both["y"] = both.pop("output[0]")
    for file, expected in (("traced.pt", both), ("scripted.pt", both), ("compiled.pt2", forward)):
        done = subprocess.run([cpp_program.result(), tmp_path / file], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        got = {name: float(value) for name, value in re.findall(r"(\S+) (\S+)\n", done.stdout)}
        assert got == pytest.approx(expected, rel=1e-10)


def test_info_names_the_library():
    done = subprocess.run([sys.executable, "-m", "fastrnn", "info"], capture_output=True, text=True, check=True)
    (path,) = re.findall(r"^library +(\S+)$", done.stdout, re.MULTILINE)
    assert Path(path).samefile(LIBRARY)
