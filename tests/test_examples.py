"""Training, predicting and generating on the command line, with the data that is here and with small files."""

import csv
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastrnn
from fastrnn.examples import checkpoint, poems
from fastrnn.examples.batches import bucket
from fastrnn.examples.poems import has_form
from fastrnn.examples.sentiment import Sentiment
from fastrnn.examples.text import SPECIALS, UNKNOWN, Vocabulary, literal, words

SMALL = ["--hidden", "8", "--epochs", "1"]
METRICS = {"sentiment": "accuracy", "tagging": "accuracy", "poems": "form", "forecast": "least squares"}
METRICS["translate"] = "exact"


@pytest.fixture(autouse=True)
def quick(single_thread, monkeypatch, tmp_path):
    monkeypatch.setattr(poems, "SAMPLES", 2)
    monkeypatch.setattr(poems, "SAMPLE_LENGTH", 20)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(run, tmp_path):
    """The folder of a small model for a task."""

    def train(task, *options):
        code, _, errors = run("train", task, *SMALL, *options, "--output", tmp_path / task)
        assert code == 0, errors
        return tmp_path / task

    return train


def metrics(folder):
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [{name: float(value) for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("task", METRICS)
def test_a_task_learns_alike_on_both_backends(run, task, tmp_path):
    results = []
    for backend in ("torch", "fastrnn"):
        # The output of torch.nn lies in another order in memory, in which dropout draws its numbers.
        options = ["--backend", backend, "--rnn", "gru", "--dropout", "0", "--output", tmp_path / backend]
        code, out, errors = run("train", task, *SMALL, *options)
        assert code == 0, errors
        assert re.search(rf"best, of epoch 1: .*\b{METRICS[task]} [\d.]+", out), out
        assert (tmp_path / backend / "curves.png").stat().st_size > 1000
        results += metrics(tmp_path / backend)
    theirs, ours = results
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    # One answer more or less on the verge.
    assert ours == pytest.approx(theirs, rel=1e-2, abs=2e-2)


@pytest.mark.parametrize(
    "task, optimizer, step",
    [
        ("sentiment", "adam", 1),
        ("sentiment", "adam", 8),
        ("sentiment", "adam", 12),  # as an epoch of 6 batches ends
        ("forecast", "sgd", 8),
        ("tagging", "adam", 8),
        ("poems", "adam", 8),
        ("translate", "sgd", 8),
    ],
)
def test_a_training_goes_on_bit_for_bit(run, task, optimizer, step, tmp_path, monkeypatch):
    options = ["--hidden", "8", "--epochs", "4", "--layers", "2", "--dropout", "0.3", "--optimizer", optimizer]
    assert run("train", task, *options, "--output", "whole")[0] == 0

    kind, steps = checkpoint.TASKS[task], iter(range(1, 100))
    loss = kind.loss

    def interrupt(*arguments):
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return loss(*arguments)

    monkeypatch.setattr(kind, "loss", interrupt)
    code, out, _ = run("train", task, *options, "--output", "parts")
    assert code == 130 and f"train {task} --resume parts" in out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, _, errors = run("train", task, "--resume", "parts")
    assert code == 0, errors

    assert metrics(Path("parts")) == metrics(Path("whole"))
    states = [torch.load(Path(folder, checkpoint.NAME)) for folder in ("parts", "whole")]
    for key in ("model", "best"):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=0)


def test_a_training_that_is_interrupted_at_its_end_is_finished(run, monkeypatch):
    evaluate = Sentiment.evaluate

    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(Sentiment, "evaluate", interrupt)
    monkeypatch.setattr(Sentiment, "report", evaluate)
    code, out, _ = run("train", "sentiment", *SMALL)
    assert code == 0 and "best, of epoch 1" in out and "Stopped" not in out


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    arguments = ["train", "tagging", "--hidden", "8", "--epochs", "1000", "--patience", "1000", "--output", "out put"]
    environment = os.environ | {"PYTHONPATH": str(Path(fastrnn.__file__).parent.parent), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fastrnn", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        assert process.stdout
        while "epoch 1/" not in (line := process.stdout.readline()):
            assert line, "it ended before the first epoch"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert re.search(r"interrupted. Saved in out put.*train tagging --resume 'out put'", rest), rest
    _, state = checkpoint.load(tmp_path / "out put")
    assert state["progress"]["epoch"] >= 1


def test_time_that_is_up_keeps_what_there_is(run):
    code, out, _ = run("train", "sentiment", "--hidden", "8", "--minutes", "0.00001", "--output", "out")
    assert code == 0 and "time is up" in out and "--resume out" in out
    assert run("predict", "out", "very good")[0] == 0


def test_a_training_stops_that_gets_no_better(run, monkeypatch):
    monkeypatch.setattr(Sentiment, "evaluate", lambda *_: {"accuracy": 0.5})
    _, out, _ = run("train", "sentiment", "--hidden", "8", "--epochs", "9", "--patience", "2", "--output", "out")
    assert "epoch 3/9" in out and "epoch 4/9" not in out and "best, of epoch 1" in out


def test_the_folder_is_new_each_time(run):
    for _ in range(2):
        assert run("train", "forecast", *SMALL)[0] == 0
    assert {path.name for path in Path("runs").iterdir()} == {"forecast", "forecast-2"}


FILES = {
    "good.tsv": "good film\tpos\nbad film\tneg\ngood food\tpos\n",
    "one.tsv": "good\tpos\nfine\tpos\nwell\tpos\n",
    "empty.tsv": "\n",
    "no-tab.tsv": "good\tpos\nno tab here\n",
    "other.tsv": "good\tpos\nbad\tawful\n",
    "table.csv": 'label,review\n1,"good,\nreally"\n0,bad\n1\n',
    "headless.csv": "1,good\n0,bad\n",
    "long.tsv": "good\tpos\n" + "word " * 2001 + "\tneg\n",
    "long.txt": "short\n" + "word " * 500 + "\n",
    "tags.tsv": "a dog\tDET NOUN\na dog barks\tDET NOUN\n",
    "numbers.csv": "date,load\n1,2\n2,much\n",
    "short.csv": "date,load\n" + "".join(f"{t},{t % 2}\n" for t in range(20)),
    "ids.csv": "id,review,label\n1,good,pos\n2,bad,neg\n",
    "quote.csv": 'date,load\n1,2\n2,"3\n3,4\n',
    "twice.csv": "date,load,load\n1,2,3\n",
    "still.csv": "date,load\n" + "".join(f"{t},{2 + max(0, t - 63)}\n" for t in range(90)),
    "huge.csv": "date,load\n1,2\n2,1e39\n",
    "once.tsv": "good film\tbon film\nbad food\tmauvais plat\n",
}
BROKEN = [
    (["sentiment", "--data", "absent.tsv"], "cannot read absent.tsv: No such file"),
    (["sentiment", "--data", "latin.tsv"], "latin.tsv, line 2: expected UTF-8, got the byte 0xe9"),
    (["sentiment", "--data", "empty.tsv"], "empty.tsv is empty"),
    (["sentiment", "--data", "no-tab.tsv"], "no-tab.tsv, line 2: expected text TAB label, got 'no tab here'"),
    (["sentiment", "--data", "one.tsv"], "at least two labels to learn from, got only 'pos'"),
    (
        ["sentiment", "--data", "good.tsv", "--valid", "other.tsv"],
        "line 2: expected a label among neg, pos, got 'awful'",
    ),
    (["sentiment", "--data", "table.csv"], "table.csv, line 5: expected 2 columns, got 1"),
    (["sentiment", "--data", "headless.csv"], "line 1: expected a header with the columns label and text, got 1,good"),
    (["sentiment", "--data", "long.tsv"], r"line 2: expected at most 2000 symbols \(--longest N cuts.*got 2001"),
    (["tagging", "--data", "tags.tsv"], "tags.tsv, line 2: expected a tag for each of 3 words, got 2 tags"),
    (["forecast", "--data", "numbers.csv"], "numbers.csv, line 3: expected a number in column load, got 'much'"),
    (["forecast", "--data", "numbers.csv", "--target", "OT"], "line 1: expected a column 'OT' after the first"),
    (["forecast", "--data", "short.csv", "--window", "30"], "at least 31 rows in each part .*got 14"),
    (
        ["sentiment", "--data", "ids.csv"],
        "line 1: expected a header with the columns label and text, got id,review,label",
    ),
    (["forecast", "--data", "quote.csv"], "quote.csv, line 3: expected a row of CSV"),
    (["forecast", "--data", "twice.csv"], "line 1: expected columns of different names, got date,load,load"),
    (
        ["forecast", "--data", "still.csv"],
        "a column 'load' that changes in the 63 rows to learn from, got 2",
    ),
    (["forecast", "--data", "huge.csv"], "line 3: expected a number in column load, got '1e39'"),
    (["translate", "--data", "once.tsv"], "expected words that occur at least 2 times in the source"),
    (["poems", "--data", "long.txt", "--longest", "0"], "line 2: expected at most 2000 symbols"),
    (["sentiment", "--output", "good.tsv"], "good.tsv: File exists"),
    (["sentiment", "--resume", "nowhere"], "nowhere is not the folder of a training"),
    (["sentiment", "--resume", "."], r"checkpoint.pt is not a checkpoint"),
    (["sentiment", "--output", "."], "expected a new folder, got ., which --resume would continue"),
]


@pytest.mark.parametrize("arguments, message", BROKEN, ids=[message[:30] for _, message in BROKEN])
def test_what_is_wrong_is_said_in_a_line(run, arguments, message):
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("latin.tsv").write_bytes(b"good\tpos\ncaf\xe9\tneg\n")
    Path("checkpoint.pt").write_bytes(b"no checkpoint")
    code, _, errors = run("train", *arguments, *SMALL)
    assert code == 1 and errors.count("\n") == 1
    assert re.match(rf"python -m fastrnn train: .*{message}", errors), errors


@pytest.mark.parametrize("task, tags", [("translate", "<stop> a b"), ("tagging", "X Y Z")])
def test_special_symbols_in_a_text_are_unknown_words(run, trained, task, tags):
    Path("special.tsv").write_text(f"a <start> b\t{tags}\n" * 9)
    fitted, _ = checkpoint.load(trained(task, "--data", "special.tsv"))
    for vocabulary in fitted.vocabularies.values():
        assert len(set(vocabulary.symbols)) == len(vocabulary)
    assert literal(["a", "<start>"]) == ["a", SPECIALS[UNKNOWN]]


def test_lines_may_end_as_on_any_system(run):
    text = "good film\tpos\nbad film\tneg\n" * 9
    for end in "\n", "\r\n", "\r":
        Path("data.tsv").write_bytes(text.replace("\n", end).encode())
        code, out, _ = run("train", "sentiment", "--data", "data.tsv", *SMALL)
        assert code == 0 and "17 examples to learn from, 1 held out" in out


def test_longest_cuts(run):
    Path("long.tsv").write_text(FILES["long.tsv"] + "good bad\tneg\n")
    assert run("train", "sentiment", "--data", "long.tsv", "--longest", "20", *SMALL)[0] == 0


def test_memory_that_does_not_suffice_is_said_in_a_line(run, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Sentiment, "loss", fail)
    code, _, errors = run("train", "sentiment", *SMALL)
    assert code == 1 and re.search(r"out of memory with a batch of \d+, its longest sequence of \d+; ", errors)


def test_a_loss_that_is_not_a_number_is_said_in_a_line(run, monkeypatch):
    monkeypatch.setattr(Sentiment, "loss", lambda _, model, batch: next(model.parameters()).sum() * math.nan)
    code, _, errors = run("train", "sentiment", *SMALL)
    assert (code, errors) == (1, "python -m fastrnn train: the loss is nan in epoch 1; a lower --rate may help\n")


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "is finished, after 1 epochs"),
        (["--hidden", "9"], "expected --hidden 8, got 9"),
        (["--output", "other"], "--output: expected nothing beside --resume"),
    ],
)
def test_a_training_goes_on_only_as_it_began(run, trained, options, message):
    code, _, errors = run("train", "forecast", "--resume", trained("forecast"), *options)
    assert code == 1 and message in errors


def test_a_training_does_not_go_on_with_other_data_or_another_task(run, trained):
    Path("data.tsv").write_text(FILES["good.tsv"])
    folder = trained("sentiment", "--data", "data.tsv")
    assert "expected a training of tagging, got one of sentiment" in run("train", "tagging", "--resume", folder)[2]
    Path("data.tsv").write_text(FILES["good.tsv"] + "fine food\tpos\n")
    assert "the data have changed" in run("train", "sentiment", "--resume", folder)[2]


@pytest.mark.parametrize(
    "option", ["--dropout=1", "--epochs=0.5", "--rate=0", "--layers=0", "--rnn=qrnn", "--seed=-1", f"--batch={10**400}"]
)
def test_an_impossible_option_is_refused(run, option):
    code, _, errors = run("train", "sentiment", option)
    assert code == 2 and option.split("=")[0] in errors


def test_predict_says_labels_and_what_it_cannot_read(run, trained):
    folder = trained("sentiment")
    code, out, errors = run("predict", folder, stdin="very good\nxyzzy\n味道很好\n")
    assert code == 1 and errors == "python -m fastrnn predict: line 2: no word is known of 'xyzzy'\n"
    labels, probabilities, texts = zip(*(line.split("\t") for line in out.splitlines() if line), strict=True)
    assert set(labels) <= {"positive", "negative"} and texts == ("very good", "味道很好")
    assert all(0.5 <= float(p) <= 1 for p in probabilities)
    assert run("predict", folder, "very good") == (0, out.splitlines(keepends=True)[0], "")
    assert run("predict", folder, stdin="")[::2] == (1, "python -m fastrnn predict: expected text, got nothing\n")


def test_predict_judges_a_file(run, trained):
    folder = trained("sentiment")
    Path("data.tsv").write_text("very good\tpositive\nvery good\tnegative\n")
    assert run("predict", folder, "--data", "data.tsv") == (0, "accuracy 0.5\n", "")
    assert "is not the folder of a training" in run("predict", "nowhere", "text")[2]


def test_weights_must_fit_the_model(run, trained):
    folder = trained("sentiment")
    state = torch.load(folder / checkpoint.NAME)
    torch.save(state | {"options": state["options"] | {"hidden": 9}}, folder / checkpoint.NAME)
    for arguments in (["predict", folder, "very good"], ["train", "sentiment", "--resume", folder]):
        assert "is not a checkpoint of this version of fastrnn" in run(*arguments)[2]


def test_predict_tags_every_word_and_translates(run, trained):
    assert re.fullmatch(r"they/[A-Z]+ xyzzy/[A-Z]+\n", run("predict", trained("tagging"), "they xyzzy")[1])
    assert run("predict", trained("translate"), "3 March 1987")[0] == 0


def test_predict_continues_a_table(run):
    # A sum of sines obeys a linear recurrence, so least squares finds it exactly.
    values = [math.sin(0.3 * t) + 0.5 * math.sin(0.8 * t) for t in range(400)]
    table = "date,x,noise\n" + "".join(f"{t},{x},{t % 7}\n" for t, x in enumerate(values))
    Path("sines.csv").write_text(table)
    options = ["--target", "x", "--window", "12", "--horizon", "3", "--output", "out"]
    _, out, _ = run("train", "forecast", "--data", "sines.csv", *SMALL, *options)
    persistence, least_squares = re.search(r"persistence (\S+)  least squares (\S+)", out).groups()
    assert float(least_squares) < 1e-6 < float(persistence)
    code, out, errors = run("predict", "out", stdin=table)
    assert code == 0 and len([float(line) for line in out.split()]) == 3, errors
    assert "at least 12 rows, got 1 rows" in run("predict", "out", stdin="date,x\n1,2\n")[2]
    broken = "\n\ndate,x,noise\n\n" + "1,2,3\n" * 12 + "1,?,3\n"
    assert "input, line 17: expected a number in column x, got '?'" in run("predict", "out", stdin=broken)[2]


def test_a_high_level_is_no_noise(run):
    Path("level.csv").write_text("date,load\n" + "".join(f"{t},{1.6e9 + t % 7}\n" for t in range(300)))
    _, out, _ = run("train", "forecast", "--data", "level.csv", *SMALL, "--output", "out")
    error, persistence, least_squares = map(float, re.findall(r"(?:error|persistence|squares) (\S+)", out)[-3:])
    assert least_squares < 1e-6 and 0.1 < error < 10 and 0.1 < persistence < 10
    _, out, _ = run("predict", "out", stdin=Path("level.csv").read_text())
    assert all(abs(float(line) - 1.6e9) < 20 and float(line) % 1 for line in out.split())


def test_generate_repeats_itself_with_a_seed(run, trained):
    folder = trained("poems")
    texts = [run("generate", folder, "春", "--length", 8, "--seed", seed, "--top-k", 50)[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("春") and len(texts[0].strip()) <= 9
    assert "has never seen 'Q'" in run("generate", folder, "Q")[2]
    assert "does not generate text" in run("generate", trained("forecast"), "Q")[2]


@pytest.mark.filterwarnings("ignore:fastrnn. .* with layer_norm:UserWarning")
def test_words_with_what_torch_lacks(run):
    Path("words.txt").write_text("a man runs fast\ntwo men run\n" * 9)
    own = ["--weight-dropout", 0.1, "--recurrent-dropout", 0.1, "--zoneout", 0.1, "--layer-norm"]
    data = ["--data", "words.txt", "--level", "word", "--embedding", 16]
    assert run("train", "poems", *data, *SMALL, *own, "--output", "out")[0] == 0
    text = run("generate", "out", "two men", "--length", 3, "--seed", 1)[1]
    assert text.startswith("two men") and set(text.split()) <= {"a", "man", "runs", "fast", "two", "men", "run"}
    errors = run("train", "poems", *SMALL, *own, "--backend", "torch")[2]
    assert (
        "--weight-dropout and --recurrent-dropout and --zoneout and --layer-norm: expected --backend fastrnn" in errors
    )


def test_ctrl_c_ends_what_has_nothing_to_save(run, trained, monkeypatch):
    folder = trained("poems")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
    monkeypatch.setattr(poems.Poems, "generate", lambda *_, **__: (signal.raise_signal(signal.SIGINT) for _ in "a"))
    code, _, errors = run("generate", folder)
    assert (code, errors) == (130, "python -m fastrnn generate: interrupted\n")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("It's GOOD, very!", ["it's", "good", ",", "very", "!"]),
        ("味道很好，ok", ["味", "道", "很", "好", "，", "ok"]),
        ("cafe\u0301 हिन्दी", ["caf\u00e9", "हिन्दी"]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_vocabulary_leaves_out_the_rare():
    vocabulary = Vocabulary.of(["aab", "ac"], minimum=2)
    assert len(vocabulary) == 5 and vocabulary.encode("ab") == [4, UNKNOWN]


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_every_example_once_and_neighbours_in_length(seed):
    lengths = torch.randint(1, 100, (1000,), generator=torch.Generator().manual_seed(1))
    batches = bucket(range(1000), lengths, 16, None if seed is None else torch.Generator().manual_seed(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    padding = sum(max(lengths[i] for i in batch) - lengths[i] for batch in batches for i in batch)
    assert padding < 0.05 * sum(lengths)


@pytest.mark.parametrize(
    "poem, expected",
    [
        ("床前明月光，疑是地上霜。", True),
        ("朝辞白帝彩云间，千里江陵一日还。", True),
        ("床前明月光，疑是霜。", False),
        ("", False),
    ],
)
def test_form(poem, expected):
    assert has_form(poem) is expected


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), checkpoint.atomically(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
