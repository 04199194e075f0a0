"""Files that are read once, in a stream, into a map: what is kept, when it is made again, the memory it takes."""

import os
import random
import re
import shutil
from collections import namedtuple
from pathlib import Path

import processes
import pytest
import torch

from fastrnn.examples import batches, checkpoint, forecast, maps, records, steps, translate
from fastrnn.examples.batches import bucket, shuffled
from fastrnn.examples.checkpoint import TASKS
from fastrnn.examples.files import Refused, decoded

FILES = {
    "sentiment": "text\tlabel\ngood film\tpos\nbad film\tneg\ngood food\tpos\nbad food\tneg\n",
    "tagging": "a\tDET\ndog\tNOUN\n\nit\tPRON\nbarks\tVERB\n",
    "poems": "床前明月光\n疑是地上霜\ntitle\t\n" + "long " * 50 + "\n",
    "translate": "a dog\tun chien\na red cat\tun chat roux\n",
    "forecast": "date;load\n" + "".join(f"2024-01-{day:02};{day % 5},5\n" for day in range(1, 29) if day != 7),
}


@pytest.fixture(autouse=True)
def quick(single_thread, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder in which all maps are kept, whatever the size of their source."""
    monkeypatch.setenv(maps.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(maps, "KEPT", 0)
    return tmp_path / "cache"


def read(task, path, **options):
    kind = TASKS[task]
    found = kind(kind.Settings(**options), {}).read(path)
    return found.values.tolist() if task == "forecast" else list(found)


@pytest.mark.parametrize("task", FILES)
def test_a_map_has_what_the_file_has_and_says_what_was_said(task, cache, monkeypatch, capsys):
    path = Path("data.tsv" if task != "forecast" else "data.csv")
    path.write_text(FILES[task])
    options = {"fill": True} if task == "forecast" else {}
    monkeypatch.setattr(maps, "KEPT", 1 << 20)
    expected, said = read(task, path, **options), capsys.readouterr().err
    assert not cache.exists()
    monkeypatch.setattr(maps, "KEPT", 0)
    assert read(task, path, **options) == expected
    (kept,) = cache.glob("*.map")
    size = f"{kept.stat().st_size / 1e6:.0f} MB"
    where = f"{path}: read into {kept}, {size}, for the next time; FASTRNN_CACHE names another folder\n"
    assert sorted(capsys.readouterr().err.splitlines()) == sorted((said + where).splitlines())
    monkeypatch.setattr(maps, "_made", None)
    assert read(task, path, **options) == expected
    unchanged = f"{path}: has not changed since it was read into {kept}\n"
    assert sorted(capsys.readouterr().err.splitlines()) == sorted((said + unchanged).splitlines())


def rewrite(text):
    return lambda path, kept: path.write_text(text)


def cut(path, kept):
    os.truncate(kept, kept.stat().st_size - 1)


def leave(path, kept):
    """As a process does that is killed while it reads a file that has changed."""
    path.write_text("one\nfour\n")
    kept.with_suffix(".unfinished").write_bytes(bytes(100))


def age(path, kept):
    os.utime(path, (0, 0))


@pytest.mark.parametrize(
    "change, made",
    [
        (lambda path, kept: None, 1),
        (age, 1),
        (rewrite("one\ntwo\n"), 1),  # the same again
        (rewrite("one\nTWO\n"), 2),
        (rewrite("one\ntwo\nthree\n"), 2),
        (leave, 2),
        (cut, 2),
        (lambda path, kept: kept.write_bytes(b""), 2),
        (lambda path, kept: kept.write_bytes(b"{}" + bytes(8) + b"fastrnn0"), 2),
    ],
)
def test_a_map_is_made_again_if_the_source_has_changed_or_it_is_broken(change, made, cache, monkeypatch):
    path, times = Path("a.txt"), []
    make = maps._made
    monkeypatch.setattr(maps, "_made", lambda *arguments: times.append(1) or make(*arguments))
    path.write_text("one\ntwo\n")
    read("poems", path)
    change(path, next(cache.glob("*.map")))
    lines = path.read_text().split()
    for _ in range(2):
        assert ["".join(poem.symbols[1:-1]) for poem in read("poems", path)] == lines
    assert len(times) == made and len(list(cache.iterdir())) == 1


def test_a_source_of_unchanged_size_and_time_is_not_read_again(cache, monkeypatch):
    path = Path("a.txt")
    path.write_text("one\ntwo\n")
    os.utime(path, (1, 1))  # long ago
    expected = read("poems", path)
    monkeypatch.setattr("fastrnn.examples.files.os.pread", None)
    assert read("poems", path) == expected


def test_what_fails_leaves_nothing(cache, monkeypatch):
    Path("a.tsv").write_text("good\tpos\nno tab\n")
    for _ in range(2):
        with pytest.raises(Refused, match="line 2"):
            read("sentiment", Path("a.tsv"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(7))
    with pytest.raises(Refused, match=r"a.tsv: expected 0.0 GB free in .*, which FASTRNN_CACHE names, got 0.0"):
        read("sentiment", Path("a.tsv"))
    assert list(cache.iterdir()) == []


def _read_at_once(barrier, folder, name):
    os.chdir(folder)
    os.environ[maps.CACHE] = str(folder / "cache")
    os.dup2(os.open(f"{name}.err", os.O_CREAT | os.O_WRONLY), 2)
    maps.KEPT = 0
    barrier.wait()
    found = read("poems", Path("a.txt"))
    Path(name).write_text("\n".join("".join(poem.symbols[1:-1]) for poem in found))


def test_several_processes_make_a_map_once(tmp_path):
    text = "\n".join(f"line {number}" for number in range(20_000))
    Path("a.txt").write_text(text)
    barrier = processes.CONTEXT.Barrier(3)
    started = [processes.CONTEXT.Process(target=_read_at_once, args=(barrier, tmp_path, str(n))) for n in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [Path(str(n)).read_text() for n in range(3)] == [text] * 3
    said = "".join(Path(f"{n}.err").read_text() for n in range(3))
    assert (said.count("read into"), said.count("has not changed")) == (3, 2) and len(os.listdir("cache")) == 1


def _memory(path, cache, results):
    """By how many bytes the memory of this process grew at most."""

    def status(name):
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    os.environ[maps.CACHE] = str(cache)
    torch.set_num_threads(1)
    task = TASKS["poems"](TASKS["poems"].Settings(), {})
    torch.randperm(10).sort()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark, VmHWM, begins anew
    before = status("VmRSS")
    training, _, _ = task.split(task.read(path))
    task.fit(training)
    order = task.batches(training, torch.Generator().manual_seed(0))
    for place in range(0, len(order), 50):
        order[place]
    results.put(status("VmHWM") - before)


def test_a_large_text_takes_little_memory(tmp_path):
    draw = random.Random(0)
    lines = ["".join(draw.choices("abcdefgh ", k=80)) for _ in range(1000)]
    size = Path("a.txt").write_text("\n".join(lines * 400))
    results = processes.CONTEXT.Queue()
    process = processes.CONTEXT.Process(target=_memory, args=(tmp_path / "a.txt", tmp_path / "cache", results))
    process.start()
    grown = results.get(timeout=60)
    process.join()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert grown < 4 * size  # symbols in lists take ten times as much


# Batches


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 200)
    monkeypatch.setattr(batches, "BLOCK", 10)


def test_a_large_file_is_mixed_in_windows_of_blocks(small_windows):
    order = shuffled(1000, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(1000))
    assert order.equal(shuffled(1000, torch.Generator().manual_seed(0)))
    assert not order.equal(shuffled(1000, torch.Generator().manual_seed(1)))
    for window in order.split(200):
        assert len((window // 10).unique()) <= 21  # blocks that are read for it
        assert window.float().std() > 200  # and they come from the whole file
    assert (order[:200].diff() == 1).sum() < 10


def test_batches_are_made_when_they_are_asked_for(small_windows, cache, monkeypatch):
    Path("a.txt").write_text("".join("x" * (1 + number % 37) + "\n" for number in range(1003)))
    task = TASKS["poems"](TASKS["poems"].Settings(batch=2), {})
    training, _, _ = task.split(task.read(Path("a.txt")))
    found = task.batches(training, torch.Generator().manual_seed(3))
    made = []
    example = records.Examples.__getitem__
    monkeypatch.setattr(records.Examples, "__getitem__", lambda *it: made.append(1) or example(*it))
    late = [found[place] for place in range(400, 410)]
    assert len(made) == 20
    again = list(task.batches(training, torch.Generator().manual_seed(3)))
    assert late == again[400:410] and len(again) == len(found) == 452
    assert sorted(len(e.symbols) for batch in again for e in batch) == sorted(training.lengths.tolist())
    padding = sum(max(len(e.symbols) for e in batch) * len(batch) for batch in again) / int(training.lengths.sum())
    assert padding < 1.1


def test_an_epoch_goes_on_in_the_middle_of_its_windows(run, small_windows, cache):
    Path("a.txt").write_text("".join(f"{number} {number * number}\n" for number in range(400)))
    options = ["--data", "a.txt", "--hidden", "8", "--batch", "2", "--dropout", "0", "--epochs", "1"]
    code, out, errors = run("train", "poems", *options, "--output", "whole")
    assert code == 0 and re.search(r"^first step after \d+\.\d s$", out, re.MULTILINE), errors
    while "Stopped" in out or not Path("parts").exists():
        begin = ["--resume", "parts"] if Path("parts").exists() else [*options, "--output", "parts"]
        code, out, errors = run("train", "poems", *begin, "--minutes", "0.003")
        assert code == 0, errors
    parts, whole = (torch.load(Path(folder, checkpoint.NAME)) for folder in ("parts", "whole"))
    torch.testing.assert_close(parts["model"], whole["model"], rtol=0, atol=0)


def test_what_was_fitted_is_kept_with_the_map(run, cache, monkeypatch):
    Path("a.tsv").write_text(FILES["translate"] * 4)
    monkeypatch.setattr(translate, "MOST", 3)
    options = ["--data", "a.tsv", "--hidden", "8", "--epochs", "1"]
    said = "vocabulary: the most frequent 3 of 4 symbols are known\n"
    code, _, errors = run("train", "translate", *options, "--output", "one")
    assert code == 0 and errors.count(said) == 2
    monkeypatch.setattr(translate.Translate, "fit", None)
    code, _, errors = run("train", "translate", *options, "--output", "two")
    assert code == 0 and errors.count(said) == 2
    one, two = (torch.load(Path(folder, checkpoint.NAME)) for folder in ("one", "two"))
    assert one["vocabularies"] == two["vocabularies"]


# Streams


def chunks(raw, size):
    return [raw[first : first + size] for first in range(0, len(raw), size)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("size", [4, 5, 1000])
def test_a_text_is_the_same_in_chunks_of_any_size(encoding, size):
    lines = ["one\r\n", "two\r", "three\n", "\n", "vie\u0301r\u2028fünf 味道\n", "\r", "\r\n", "last 😀\r\n"]
    raw = "".join(lines).encode(encoding)
    assert list(decoded("a", chunks(raw, size), say=False)) == lines
    with pytest.raises(Refused, match="a, line 9: expected UTF-.*, got the byte 0xff"):
        list(decoded("a", chunks(raw + b"\xff", size), say=False))
    with pytest.raises(Refused, match="a, line 3: expected UTF-8, got the byte 0x00"):
        list(decoded("a", chunks("one\r\ntwo\rthr\0ee\n".encode(encoding), size), say=False))


def test_a_pipe_is_read_to_its_end():
    os.mkfifo("pipe.csv")
    if not os.fork():
        Path("pipe.csv").write_text(FILES["forecast"])
        os._exit(0)
    assert len(read("forecast", Path("pipe.csv"), fill=True)) == 28


@pytest.mark.parametrize("options", [{"fill": True}, {"sort": True, "fill": True}, {"sort": False}])
def test_a_series_is_the_same_in_pieces_of_any_size(options, monkeypatch):
    head, *rows = FILES["forecast"].splitlines(keepends=True)
    if options.get("sort"):
        rows = [*rows[20:], *rows[:21]]
    Path("a.csv").write_text(head + "".join(rows))
    whole = read("forecast", Path("a.csv"), **options)
    monkeypatch.setattr(steps, "PIECE", 5)
    monkeypatch.setattr(forecast, "READ", 4)
    assert read("forecast", Path("a.csv"), **options) == whole and len(whole) == 27 + (options.get("fill") or 0)


def test_figures_of_a_long_series_are_of_some_windows(run, monkeypatch):
    monkeypatch.setattr(forecast, "JUDGED", 10)
    Path("a.csv").write_text("date,x\n" + "".join(f"{t},{t * t % 17}\n" for t in range(400)))
    code, out, errors = run("train", "forecast", "--data", "a.csv", "--hidden", "8", "--epochs", "1")
    assert code == 0 and errors == "a.csv: figures are of 10 windows, drawn at random among 75\n"
    assert "35 held out" in out


def test_buckets_of_one_batch():
    (batch,) = bucket("abc", torch.tensor([3, 1, 2]), 5, None)
    assert batch == ["b", "c", "a"]
