"""A training on several processes: what it learns, how it stops, what it leaves."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import torch

import fastrnn
from fastrnn.examples import checkpoint
from fastrnn.examples.translate import write_dates
from fastrnn.examples.workers import Workers

ENDLESS = ["--epochs", "100000", "--patience", "100000"]


@pytest.fixture
def train(tmp_path):
    """Runs ``train`` on so many processes in the test's folder: what each has printed, and its exit code."""

    def train(number, *arguments, interrupt=0):
        return processes.run(number, "train", *arguments, folder=tmp_path, interrupt=interrupt)

    return train


def small(task):
    """Options of a training without chance, in which the last batch is smaller than the number of processes."""
    rest = {
        "sentiment": ["--word-dropout", "0", "--batch", "34"],
        "tagging": ["--word-dropout", "0", "--batch", "49"],
        "translate": ["--data", "dates.tsv", "--level", "char", "--batch", "16"],
    }
    return [task, "--hidden", "8", "--epochs", "2", "--dropout", "0", *rest.get(task, [])]


def metrics(folder):
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [{name: float(value) for name, value in row.items() if name != "seconds"} for row in rows]


def state_of(folder):
    return torch.load(folder / checkpoint.NAME)


@pytest.mark.parametrize(
    "task, runs",
    [
        ("sentiment", [(2, []), (3, [])]),
        ("tagging", [(2, []), (2, ["--shard"])]),
        ("poems", [(2, []), (2, ["--shard"])]),
        ("forecast", [(2, [])]),
        ("translate", [(2, []), (2, ["--shard"])]),
    ],
)
def test_several_processes_learn_what_one_does(train, task, runs, tmp_path):
    dates = "".join(f"{source}\t{target}\n" for source, target in write_dates(54))
    (tmp_path / "dates.tsv").write_text(dates)
    train(1, *small(task), "--output", "one")
    for number, options in runs:
        folder = f"{number} {options}"
        first, *others = train(number, *small(task), *options, "--output", folder)
        assert first.code == 0 and "best, of epoch" in first.out, first.errors
        assert all((other.code, other.out, other.errors) == (0, "", "") for other in others)
        for row, expected in zip(metrics(tmp_path / folder), metrics(tmp_path / "one"), strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6)
            assert row == pytest.approx(expected, rel=1e-2, abs=2e-2)  # one answer more or less on the verge


@pytest.mark.parametrize("number, options", [(3, []), (2, ["--shard"])])
def test_a_training_goes_on_bit_for_bit_on_as_many_processes(train, tmp_path, number, options):
    arguments = ["sentiment", "--hidden", "8", "--epochs", "2", "--layers", "2"]  # it has dropout
    train(number, *arguments, *options, "--output", "whole")
    ended = train(number, *arguments, *options, "--output", "parts", interrupt=8)
    assert [process.code for process in ended] == [130] * number and "--resume parts" in ended[0].out
    assert train(number, "sentiment", "--resume", "parts", *options)[0].code == 0
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    parts, whole = (state_of(tmp_path / name) for name in ("parts", "whole"))
    for name in ("model", "best", "generators"):
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=0)
    draws = {tuple(generators["torch"].tolist()) for generators in whole["generators"]}
    assert len(draws) == number  # dropout differs


@pytest.mark.parametrize("before, after", [((1, []), (3, [])), ((3, []), (1, [])), ((2, ["--shard"]), (3, []))])
def test_a_training_goes_on_with_another_number_of_processes(train, tmp_path, before, after):
    arguments = small("sentiment")
    train(1, *arguments, "--output", "whole")
    train(before[0], *arguments, *before[1], "--output", "parts", interrupt=8)
    first = train(after[0], "sentiment", *after[1], "--resume", "parts")[0]
    assert first.code == 0, first.errors
    losses = [[row["loss"] for row in metrics(tmp_path / name)] for name in ("parts", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_all_stop_early_together(train):
    ended = train(2, "sentiment", "--hidden", "8", "--rate", "1e-9", "--epochs", "9", "--patience", "2")
    assert [process.code for process in ended] == [0, 0]
    assert "epoch 3/9" in ended[0].out and "epoch 4/9" not in ended[0].out


def test_a_process_that_is_killed_ends_all_and_leaves_what_was_learned(tmp_path):
    running = processes.start(2, ["train", "sentiment", "--hidden", "8", *ENDLESS, "--output", "out"], tmp_path)
    while "epoch 3/" not in (tmp_path / "0.out").read_text() if (tmp_path / "0.out").exists() else True:
        assert running[0].is_alive()
        time.sleep(0.05)
    os.kill(running[1].pid, signal.SIGKILL)
    killed = time.monotonic()
    first, _ = processes.end(running, tmp_path)
    assert time.monotonic() - killed < 5 and first.code == 1
    assert first.errors.endswith("train, process 0 of 2: has lost another one; --resume goes on from what is saved\n")
    assert checkpoint.load(tmp_path / "out")[1]["progress"]["epoch"] >= 2


def test_ctrl_c_reaches_what_torchrun_has_started(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fastrnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fastrnn"]
    command += ["train", "sentiment", "--hidden", "8", *ENDLESS, "--output", "out"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path, start_new_session=True
    ) as process:
        while "epoch 1/" not in (line := process.stdout.readline()):
            assert line, "it ended before the first epoch"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest = process.stdout.read()
    assert process.returncode != 0
    assert len(re.findall("interrupted. Saved in out. To go on: torchrun ... -m fastrnn train", rest)) == 1
    assert checkpoint.load(tmp_path / "out")[1]["progress"]["epoch"] >= 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--data", "absent.tsv"], "cannot read absent.tsv: No such file or directory"),
        (["--rate", "1e18"], "the loss is nan in epoch 1; a lower --rate may help"),
        (["--resume", "nowhere"], "nowhere is not the folder of a training: checkpoint.pt in it: No such file"),
    ],
)
def test_what_is_wrong_is_said_once(train, options, message):
    ended = train(2, "sentiment", "--hidden", "8", "--optimizer", "sgd", *options)
    assert [process.code for process in ended] == [1, 1]
    assert ended[0].errors.startswith(f"python -m fastrnn train: {message}") and ended[0].errors.count("\n") == 1
    assert ended[1].errors == ""


def test_a_batch_is_divided_without_rest():
    batch = ["one", "three", "five", "seven"]
    parts = [Workers(rank, 3).part(batch, lambda part: sum(map(len, part))) for rank in range(3)]
    assert parts == [(["one", "seven"], 8 / 17), (["three"], 5 / 17), (["five"], 4 / 17)]
    assert Workers(2, 3).part(batch[:2], len) == (["one"], 0.0)
