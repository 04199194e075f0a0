"""Where a training runs, and in which precision. No test needs a GPU: what would run on one is asked of stand-ins."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

import fastrnn
from fastrnn.examples import checkpoint, devices
from fastrnn.examples.files import Refused

SMALL = ["--hidden", "8", "--epochs", "1", "--dropout", "0", "--word-dropout", "0"]


@pytest.fixture(autouse=True)
def folder(single_thread, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gpus(monkeypatch):
    """As if there were so many."""

    def gpus(number):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return gpus


def loss_of(folder):
    return float(next(csv.DictReader(Path(folder, "metrics.csv").open()))["loss"])


@pytest.mark.parametrize(
    "number, name, place, expected",
    [
        (0, "auto", None, "cpu"),
        (2, "auto", None, "cuda:0"),
        (2, "cuda:1", None, "cuda:1"),
        (2, "cpu", 1, "cpu"),
        (2, "cuda", 1, "cuda:1"),  # the second process of a machine
    ],
)
def test_devices_by_their_names(gpus, number, name, place, expected):
    gpus(number)
    assert devices.find(name, place) == torch.device(expected)


@pytest.mark.parametrize(
    "number, name, place, message",
    [
        (0, "cuda", None, "--device cuda: expected a GPU, but torch .* (finds none|is built without CUDA)"),
        (2, "cuda:2", None, "--device cuda:2: expected a GPU of number 2, got 2 of them, counted from 0"),
        (2, "auto", 2, "expected a GPU of number 2, got 2"),
        (2, "cuda:1", 0, "--device cuda:1: expected cuda, as each of several processes takes a GPU of its own"),
    ],
)
def test_devices_that_are_not_there(gpus, number, name, place, message):
    gpus(number)
    with pytest.raises(Refused, match=message):
        devices.find(name, place)


@pytest.mark.parametrize("command", [["train", "sentiment"], ["predict", "out", "text"], ["generate", "out"]])
def test_a_gpu_that_is_not_there_is_said_in_a_line(run, gpus, command):
    gpus(0)
    code, _, errors = run(*command, "--device", "cuda")
    assert code == 1 and errors.count("\n") == 1
    assert errors.startswith(f"python -m fastrnn {command[0]}: --device cuda: expected a GPU, but torch ")
    assert run(*command, "--device", "tpu")[0] == 2


class Elsewhere:
    """In place of a model: it gives what the model did on the CPU, as tensors of the device that it is asked on."""

    def __init__(self, model, parent=None):
        self._model = model
        self._results = parent._results if parent else []
        self.seen = parent.seen if parent else []

    def __getattr__(self, name):
        found = getattr(self._model, name)
        inner = isinstance(found, torch.nn.Module)
        return Elsewhere(found, self) if inner else lambda *given: self._call(found, given)

    def __call__(self, *given):
        return self._call(self._model, given)

    def _call(self, function, given):
        self.seen += [leaf.device.type for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        if self.seen[-1] == "cpu":
            self._results.append(function(*given))
            return self._results[-1]
        return tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf, self._results.pop(0))


@pytest.mark.parametrize("name", checkpoint.TASKS)
def test_what_a_task_makes_is_on_the_device_of_its_model(name, monkeypatch):
    kind = checkpoint.TASKS[name]
    task = kind(kind.Settings(hidden=8), {})
    training, _, _ = task.split(task.read(None))
    task.fit(training)
    batch = task.batches(training)[0]
    model = Elsewhere(task.build(fastrnn.LSTM))
    monkeypatch.setattr(torch.Tensor, "__int__", lambda _: 20)  # meta tensors have no values
    expected = task.loss(model, batch)
    model.seen.clear()
    with devices.running(torch.device("meta"), "float32"):
        loss = task.loss(model, batch)
    assert set(model.seen) == {"meta"} and loss.device.type == "meta" and loss.shape == expected.shape


def test_a_checkpoint_of_a_gpu_is_read_without_one(run, monkeypatch):
    def save(folder):
        assert run("train", "sentiment", *SMALL, "--epochs", "2", "--minutes", "0.00001", "--output", folder)[0] == 0

    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        save("out")
    assert b"cuda:0" in Path("out", checkpoint.NAME).read_bytes()
    for arguments in (["predict", "out", "very good"], ["train", "sentiment", "--resume", "out"]):
        code, _, errors = run(*arguments, "--device", "cpu")
        assert code == 0, errors


def test_bfloat16_is_asked_for_once(run):
    losses = {}
    for precision in ("float32", "bfloat16"):
        assert run("train", "sentiment", *SMALL, "--precision", precision, "--output", precision)[0] == 0
        losses[precision] = loss_of(precision)
    assert losses["bfloat16"] != losses["float32"] == pytest.approx(losses["bfloat16"], rel=1e-2)
    assert checkpoint.load_best(Path("bfloat16"), devices.CPU)[1].scores.weight.dtype == torch.float32
    probabilities = {
        options: run("predict", "bfloat16", "very good", *options)[1].split("\t")[1]
        for options in ((), ("--precision", "bfloat16"), ("--precision", "float32"))
    }
    assert probabilities[()] == probabilities["--precision", "bfloat16"]
    assert all(math.isclose(float(p), 0.5, abs_tol=0.3) for p in probabilities.values())
    message = "expected --precision bfloat16, got float32"
    assert message in run("train", "sentiment", "--resume", "bfloat16", "--precision", "float32")[2]


def test_bfloat16_computes_in_bfloat16():
    layer = fastrnn.LSTM(3, 4)
    for precision in ("float32", "bfloat16"):
        with devices.running(devices.CPU, precision):
            assert layer(torch.ones(2, 1, 3))[0].dtype == getattr(torch, precision)


def test_threads_are_those_asked_for(run):
    assert run("train", "forecast", "--hidden", "8", "--epochs", "1", "--threads", "2", "--output", "out")[0] == 0
    assert torch.get_num_threads() == 2
    Path("rows.csv").write_text("date,sunspots\n" + "1,2\n" * 300)
    run("predict", "out", "--data", "rows.csv", "--threads", "1")
    assert torch.get_num_threads() == 1
    assert run("train", "forecast", "--threads", "0")[0] == 2


def test_a_compiled_model_learns_the_same(run, monkeypatch):
    compile, compiled = torch.nn.Module.compile, []

    def without_code(module, **options):  # Inductor takes half a minute
        compiled.append(module)
        compile(module, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", without_code)
    for options in [], ["--compile"]:
        assert run("train", "sentiment", *SMALL, *options, "--output", f"out{options}")[0] == 0
    assert len(compiled) == 1
    assert loss_of("out['--compile']") == pytest.approx(loss_of("out[]"), rel=1e-5)
    assert run("predict", "out['--compile']", "very good")[0] == 0
