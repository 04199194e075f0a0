"""The demo and the comparison, which train several models side by side."""

import re
import sys
from pathlib import Path

import pytest
import torch

from fastrnn.bench import Case
from fastrnn.examples import compare, demo, gains, recall
from fastrnn.examples.files import Refused
from fastrnn.examples.transformer import Transformer

SMALL = ["--hidden", "8", "--epochs", "1"]


@pytest.fixture(autouse=True)
def folder(single_thread, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_gains(monkeypatch):
    cases = {"GRU": Case("gains", "gru", 2, 3, 4, 8), "ragged LSTM": Case("gains", "lstm", 2, 3, 4, 8, ragged=True)}
    monkeypatch.setattr(gains, "CASES", cases)
    monkeypatch.setattr(gains, "FROZEN", (1, 3, 16))


def test_both_layers_race_on_a_text(small_gains, monkeypatch, capsys):
    lines = [f"title\tauthor\tthe {n} men went to mow a meadow\n" for n in range(30)]
    Path("text.txt").write_text("".join(["I\n", *lines]))
    monkeypatch.setattr(sys, "argv", ["demo", "--data", "text.txt", *SMALL, "--output", "a/b.png"])
    demo.main()
    out = capsys.readouterr().out
    assert "The losses agree to 0.001 in every epoch." in out and re.search(r"is [\d.]+ times as fast", out)
    for name in (
        "GRU, inference",
        "GRU, training",
        "ragged LSTM, training",
        "LSTM, one step",
        "LSTM frozen to int8, one row",
    ):
        assert re.search(rf"^  {name} +[\d.]+$", out, re.MULTILINE), name
    assert Path("a/b.png").exists() and Path("a/b-gains.png").exists()


def test_gains_of_wrong_results_are_refused(small_gains, monkeypatch):
    monkeypatch.setattr(gains, "ALLOWED_WHEN_FROZEN", 0.0)
    with pytest.raises(Refused, match="a frozen layer differs from torch.nn's by"):
        gains.show_gains(Path("gains.png"))

    def differ(*_):
        raise AssertionError("output: error 1")

    monkeypatch.setattr(gains, "measure", differ)
    with pytest.raises(Refused, match="a layer differs from torch.nn's: output: error 1"):
        gains.show_gains(Path("gains.png"))


def test_the_race_stops_where_losses_differ(monkeypatch):
    monkeypatch.setattr(demo, "LOSS_TOLERANCE", -1.0)
    monkeypatch.setattr(sys, "argv", ["demo", "--epochs", "1", "--hidden", "8"])
    with pytest.raises(SystemExit, match="the losses differ by"):
        demo.main()


@pytest.fixture
def compared(monkeypatch, capsys):
    """What the comparison prints."""

    def compared(*arguments):
        monkeypatch.setattr(recall, "NUMBER", 40)
        monkeypatch.setattr(recall, "LENGTHS", (2, 30))
        monkeypatch.setattr(compare, "LENGTHS", (2, 30))
        monkeypatch.setattr(sys, "argv", ["compare", *SMALL, *arguments])
        compare.main()
        return capsys.readouterr().out

    return compared


def test_kinds_of_layers_are_compared(compared):
    out = compared("--output", "a/b.png")
    for task in compare.COMPARED:
        rows = re.search(rf"^{task} .*\n((?:.+\n){{4}})", out, re.MULTILINE)[1].split("\n")
        figures = {name: list(map(float, row)) for name, *row in (row.replace(",", "").split() for row in rows if row)}
        assert list(figures) == ["RNN", "GRU", "LSTM", "Transformer"]
        parameters, seconds, kept, _ = zip(*figures.values(), strict=True)
        assert sorted(parameters[:3]) == list(parameters[:3]) and max(seconds) > 0 and kept[3] > 0
    # Untrained, tanh layers forget within 30 steps, attention does not.
    before = re.search(r"before training\n.*\n((?:.+\n){4})", out)[1]
    ratios = [float(row.split()[-1]) for row in before.splitlines()]
    assert ratios[0] < 1e-3 < ratios[3]
    assert "LSTM, layer 0: " in out and Path("a/b.png").exists() and Path("a/b-gradients.png").exists()


def test_kinds_of_layers_are_compared_on_a_file(compared):
    Path("good.tsv").write_text("good film\tpos\nbad film\tneg\n" * 9)
    assert "Transformer" in compared("--tasks", "sentiment", "--data", "sentiment=good.tsv")
    with pytest.raises(SystemExit, match=r"examples.compare: cannot read absent.tsv"):
        compared("--tasks", "sentiment", "--data", "sentiment=absent.tsv")
    for wrong in (["recall=good.tsv"], ["forecast=good.tsv", "--tasks", "sentiment"]):
        with pytest.raises(SystemExit):
            compared("--data", *wrong)
    with pytest.raises(SystemExit):
        compared("--output", "picture.txt")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("hidden", [8, 5])
def test_a_transformer_reads_as_a_recurrent_layer_does(hidden, bidirectional):
    torch.manual_seed(0)
    module = Transformer(3, hidden, num_layers=2, bidirectional=bidirectional).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    y, final = module(x)
    directions = 2 if bidirectional else 1
    assert y.shape == (2, 9, directions * hidden) and final.shape == (directions, 2, hidden)
    torch.testing.assert_close(final[0], y[:, -1, :hidden])
    if bidirectional:
        torch.testing.assert_close(final[1], y[:, 0, hidden:])
    else:
        torch.testing.assert_close(module(x[:, :5])[0], y[:, :5])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 9]), batch_first=True, enforce_sorted=False)
    y, final = module(packed)
    alone, alone_final = module(x[:1, :4])
    torch.testing.assert_close(torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0][:1, :4], alone)
    torch.testing.assert_close(final[:, :1], alone_final)
