"""Files as other people write them: read as they are meant, or refused in a line; what is guessed is said."""

from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch

from fastrnn.examples.checkpoint import TASKS
from fastrnn.examples.dates import read_times
from fastrnn.examples.files import Refused

SMALL = ["--hidden", "8", "--epochs", "1"]
PAIRS = "good film\tpos\nbad film\tneg\ngood food\tpos\nbad food\tneg\n"


@pytest.fixture(autouse=True)
def quick(single_thread, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def read(capsys):
    """What a task makes of a file, and what it says of it."""

    def read(task, name, content, **options):
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        kind = TASKS[task]
        found = kind(kind.Settings(**options), {}).read(Path(name))
        return found if task == "forecast" else list(found), capsys.readouterr().err

    return read


# Headers


@pytest.mark.parametrize(
    "task, first, rest",
    [
        ("sentiment", "sentence\tlabel", PAIRS),
        ("sentiment", "text\tlabel", "good\tpos\nbad\tneg\n"),
        ("sentiment", "Kommentar\tStimmung", PAIRS),
        ("sentiment", "comment text\tis_toxic", "good\t1\nbad\t0\n"),
        ("translate", "English\tFrench", "a dog\tun chien\n"),
        ("tagging", "words\ttags", "a dog\tDET NOUN\n"),
        ("tagging", "token\tpos", "a\tDET\ndog\tNOUN\n"),
    ],
)
def test_a_header_is_no_example(read, task, first, rest):
    headed, said = read(task, "headed.tsv", f"{first}\n{rest}")
    assert headed == read(task, "plain.tsv", rest)[0]
    assert f"headed.tsv, line 1: taken as the names of the columns: {first.replace(chr(9), ' TAB ')}" in said


@pytest.mark.parametrize(
    "content",
    [
        PAIRS,
        "good\tpos\nbad\tneg\nso\tnone\n",  # every label occurs once
        "a dull and endless film\tawful\n" + PAIRS,  # a text, not a name
        "label\tpos\n" + PAIRS,  # a label that others have
    ],
)
def test_a_first_example_is_no_header(read, content):
    examples, said = read("sentiment", "data.tsv", content)
    assert (len(examples), said) == (content.count("\n"), "")


# CSV


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("REVIEWS.CSV", "label,text\npos,good\nneg,bad\n", ""),
        ("a.csv", '\ufefflabel,text\npos,"good"\nneg, "bad"\n', ""),
        ("a.csv", "Text;Label\ngood;pos\nbad;neg\n", "separated by semicolons"),
        ("a.csv", "label\ttext\r\npos\tgood\r\nneg\tbad\r\n", "separated by TABs"),
    ],
)
def test_dialects_of_csv(read, name, content, said):
    examples, heard = read("sentiment", name, content)
    assert examples == [(["good"], "pos"), (["bad"], "neg")]
    assert said in heard and heard.count("\n") == bool(said)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quoted_fields_hold_anything(read, separator):
    text = 'He; she,\tthey said "so"\n\nand left'
    quoted = text.replace('"', '""')
    (example, _), _ = read("sentiment", "a.csv", f'label{separator}text\npos{separator}"{quoted}"\nneg{separator}bad\n')
    assert "".join(example.symbols) == 'he;she,theysaid"so"andleft'
    with pytest.raises(Refused, match="line 1: expected a header with the columns label and text, got a b,c,d$"):
        read("sentiment", "a.csv", f'"a\nb"{separator}c{separator}d\n1{separator}2{separator}3\n')
    with pytest.raises(Refused, match="a.csv, line 5: expected 2 columns, got 3"):
        read("sentiment", "a.csv", f'label{separator}text\npos{separator}"{quoted}"\nneg{separator}{separator}\n')


@pytest.mark.parametrize(
    "content, expected",
    [
        ("date;load\n1;1,5\n2;20\n3;-0,125\n", [1.5, 20, -0.125]),
        ('date,load\n1,"1,5"\n2,"2,25"\n3,3\n', [1.5, 2.25, 3]),
        ("date\tload\n1\t1.5e3\n2\t.5\n3\t4.\n", [1500, 0.5, 4]),
        ("date;load\n1;1,234\n2;5,678\n", "line 2: expected a decimal point, or a comma that .* got '1,234'"),
        ("date;load\n1;1,5\n2;1.234,5\n", "line 3: expected a number with a decimal comma in column load"),
        ("date;load\n1;1,5\n2;1.5\n", "line 3: expected a number with a decimal comma in column load"),
        ("date,load\n", "line 2: expected a row below the header, got the end of the file"),
        ("date,load\n1,1,5\n2,2,5\n", "line 2: expected 2 columns, got 3"),
        ("date,load\n1,1_000\n", "line 2: expected a number in column load, got '1_000'"),
    ],
)
def test_decimal_commas_are_read_or_refused(read, content, expected):
    if isinstance(expected, str):
        with pytest.raises(Refused, match=expected):
            read("forecast", "a.csv", content)
    else:
        series, said = read("forecast", "a.csv", content)
        assert series.values[:, 0].tolist() == expected
        assert ("commas are read as decimal ones" in said) == (",5" in content)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(read, encoding):
    text = PAIRS.replace("food", "café 味道")
    examples, said = read("sentiment", "a.tsv", text.encode(encoding))
    assert examples == read("sentiment", "plain.tsv", text)[0]
    told = f"a.tsv: read as {encoding.upper()}, which its byte order mark says\n"
    assert said == ("" if encoding == "utf-8-sig" else told)


@pytest.mark.parametrize(
    "content, message",
    [
        (PAIRS.encode() + b"caf\xe9\tpos\n", "line 5: expected UTF-8, got the byte 0xe9"),
        (PAIRS.encode("utf-16-le"), "line 1: expected UTF-8, got the byte 0x00"),
        (PAIRS.encode("utf-16")[:-1], "line 4: expected UTF-16, got the byte"),
    ],
)
def test_other_bytes_are_refused(read, content, message):
    with pytest.raises(Refused, match=f"a.tsv, {message}"):
        read("sentiment", "a.tsv", content)


# Lines in, lines out


@pytest.mark.parametrize("task, data", [("sentiment", PAIRS), ("translate", PAIRS * 3), ("tagging", "a b\tX Y\n" * 3)])
def test_a_line_in_is_a_line_out(run, task, data):
    Path("data.tsv").write_text(data)
    assert run("train", task, "--data", "data.tsv", *SMALL, "--output", "out")[0] == 0
    known = data.split("\t")[0].encode()
    lines = [known, b"", b"\xe9 " + known, "\ufeff味".encode(), known + b"\0", known + b"\r"]
    code, out, errors = run("predict", "out", stdin=b"\xef\xbb\xbf" + b"\n".join(lines))
    answer, *others, last = out.splitlines()
    assert code == 1 and answer == last and others == [""] * 4 and len(out.splitlines()) == len(lines)
    expected = ["text, got nothing", "UTF-8, got the byte 0xe9", "known of '味'", "UTF-8, got the byte 0x00"]
    for number, (message, error) in enumerate(zip(expected, errors.splitlines(), strict=True), 2):
        assert error.startswith(f"python -m fastrnn predict: line {number}: ") and error.endswith(message)
    assert run("predict", "out", known.decode()) == (0, f"{answer}\n", "")
    utf16 = known.decode().encode("utf-16")
    assert run("predict", "out", stdin=utf16)[:2] == (0, f"{answer}\n")
    assert run("predict", "out", stdin=utf16[:-1])[::2] == (
        1,
        "input: read as UTF-16, which its byte order mark says\n"
        "python -m fastrnn predict: input: expected UTF-16, got truncated data\n",
    )
    code, out, errors = run("predict", "out", "caf\udce9", f"{known.decode()}\n")
    assert (code, out) == (1, f"\n{answer}\n")
    assert errors == "python -m fastrnn predict: text 1: expected UTF-8, got the byte 0xe9\n"


# Sentences

WORDS = ["They", "do", "n't", "buy", "10\u00a0000", "New York"]
TAGS = ["PRON", "AUX", "PART", "VERB", "NUM", "PROPN"]
TAGGED = list(zip(WORDS, TAGS, strict=True))


def columns(*rows):
    return "".join("\t".join(row) + "\n" for row in rows) + "\n"


def universal(tagged):
    rows = [(str(i), w, "_", t, "XX", "_", "0", "dep", "_", "_") for i, (w, t) in enumerate(tagged, 1)]
    rows.insert(1, ("2-3", "don't", *"_" * 8))
    rows.insert(4, ("3.1", "would", "_", "AUX", *"_" * 6))
    return "# sent_id = 1\n# text = They don't\n" + columns(*rows)


SENTENCES = {
    "U": universal(TAGGED),
    "two": columns(*TAGGED),
    "numbered": columns(*[(str(n), *pair) for n, pair in enumerate(TAGGED, 1)]),
    "last": "# a comment\n" + columns(*[(word, "_", tag) for word, tag in TAGGED]),
}


@pytest.mark.parametrize("form", SENTENCES)
def test_words_in_columns(read, form):
    sentences, said = read("tagging", "a.conllu", SENTENCES[form] * 2 + "\n")
    assert sentences == [(WORDS, TAGS)] * 2
    assert "a.conllu: read as columns, words in column" in said
    assert ("not in the text: 4" in said) == (form == "U")


def test_another_column_and_spaces_between_columns(read):
    assert read("tagging", "a", SENTENCES["U"], column=5)[0][0].tags == ["XX"] * len(WORDS)
    with pytest.raises(Refused, match="--column: expected one of the 10 of a beside 2, that of the words, got 11"):
        read("tagging", "a", SENTENCES["U"], column=11)
    spaced = "EU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
    assert read("tagging", "a", spaced)[0] == [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            SENTENCES["U"].strip() + "\n" + SENTENCES["U"],
            "line 13: expected word 7 of a sentence or a blank line, got '1'",
        ),
        (SENTENCES["two"] + "word\n", "line 8: expected 2 columns, as before, got 1"),
        (SENTENCES["two"] + "word\t\n", "line 8: expected a word and its tag in columns 1 and 2, got 'word' and ''"),
        (universal([("a", "_")]), "line 3: expected a word and its tag in columns 2 and 4, got 'a' and '_'"),
        ("words without tags\n", "line 1: expected words TAB tags"),
    ],
)
def test_columns_that_are_broken(read, content, message):
    with pytest.raises(Refused, match=message):
        read("tagging", "a", content)


def test_an_unknown_tag_has_the_line_of_its_word():
    Path("a").write_text(SENTENCES["two"])
    task = TASKS["tagging"](TASKS["tagging"].Settings(), {"tags": ["-", *TAGS[:4]]})
    with pytest.raises(Refused, match="a, line 5: expected tags among PRON, AUX, PART, VERB, got 'NUM'"):
        task.read(Path("a"))


@pytest.mark.parametrize("task, tags", [("tagging", "DET NOUN"), ("translate", "un\u00a0chien rouge")])
def test_a_no_break_space_is_part_of_a_word(read, task, tags):
    ((words, others),), _ = read(task, "a.tsv", f"a\u00a0red dog\t{tags}\n")
    assert words == ["a\u00a0red", "dog"] and len(others) == 2


# Series

DAYS = [date(2024, 1, 1) + timedelta(days) for days in range(40)]


def series(dates, name="load"):
    """The value of a row is its date's place among DAYS, so that order and interpolation can be seen."""
    places = {day: place for place, day in enumerate(DAYS)}
    return f"date,{name}\n" + "".join(f"{day},{places.get(day, 0)}\n" for day in dates)


SWAPPED = [*DAYS[:5], DAYS[6], DAYS[5], *DAYS[7:]]
REPEATED = [*DAYS[:5], *DAYS[4:]]
HOLED = [*DAYS[:5], *DAYS[7:20], *DAYS[21:]]


@pytest.mark.parametrize(
    "dates, options, said",
    [
        (SWAPPED, {"sort": True}, "a.csv: sorted by date; rows that came after a later one: 1"),
        (DAYS[::-1], {"sort": True}, "a.csv: sorted by date; rows that came after a later one: 39"),
        (REPEATED, {"sort": True}, "a.csv: rows left out that repeat the date and the values of another: 1"),
        (HOLED, {"fill": True}, "a.csv, line 7: interpolated: 3 missing in 2 places, with a row every 1 day"),
        (HOLED[::-1], {"sort": True, "fill": True}, "interpolated: 3 missing in 2 places"),
    ],
)
def test_rows_are_put_in_order_and_filled(read, dates, options, said):
    found, heard = read("forecast", "a.csv", series(dates), **options)
    torch.testing.assert_close(found.values[:, 0], torch.arange(40, dtype=torch.float64))
    assert said in heard


@pytest.mark.parametrize(
    "content, message",
    [
        (series(SWAPPED), "line 8: expected a date after '2024-01-07' of line 7, got '2024-01-06'; train --sort sorts"),
        (series(REPEATED), "line 7: expected a date after '2024-01-05' of line 6, got '2024-01-05'; train --sort"),
        (series(HOLED), "line 7: expected a row every 1 day, got '2024-01-08'; 3 missing in 2 places; train --fill"),
        (series(DAYS) + "2024-02-10 07:00,1\n", "line 42: expected a row every 1 day, .*; 1.29 days after the row"),
        (series(DAYS) + "soon,1\n", "line 42: expected a date written as '2024-01-01' is, got 'soon'"),
    ],
)
def test_other_rows_are_refused_before_anything_is_trained(read, content, message):
    with pytest.raises(Refused, match=message):
        read("forecast", "a.csv", content)


def test_repeated_dates_with_other_values_cannot_be_sorted(read):
    with pytest.raises(Refused, match="line 42: expected a date other than that of line 2, or the same values"):
        read("forecast", "a.csv", series(DAYS) + f"{DAYS[0]},7\n", sort=True)


@pytest.mark.parametrize("dates, options", [(SWAPPED, {"sort": False}), (HOLED, {"fill": False})])
def test_rows_may_stay_as_they_stand(read, dates, options):
    found, said = read("forecast", "a.csv", series(dates), **options)
    assert found.values[:, 0].tolist() == [(day - DAYS[0]).days for day in dates] and said == ""


@pytest.mark.parametrize(
    "dates",
    [
        [day for day in DAYS if day.weekday() < 5],  # weekends are no gaps
        [f"{1 + month % 12:02}/01/{2000 + month // 12}" for month in range(40)],
        [f"{day:%d.%m.%Y} 00:00" for day in DAYS],
        [f"{datetime(2024, 3, 30) + timedelta(hours=hour)}" for hour in range(40)],
        range(1700, 1740),
        [f"{1749 + month / 12:.3f}" for month in range(40)],
    ],
)
def test_even_steps_in_any_notation(read, dates):
    found, _ = read("forecast", "a.csv", "date,x\n" + "".join(f"{when},{n}\n" for n, when in enumerate(dates)))
    assert found.values[:, 0].tolist() == list(range(len(dates)))


def test_how_dates_are_taken_is_said_where_there_is_a_choice(capsys):
    for number, taken in (7, "07 January 2000"), (14, "01 February 2001"):
        months = [(n + 1, f"{1 + n % 12:02}/01/{2000 + n // 12}") for n in range(number)]
        times = read_times("a.csv", months)
        assert f"{datetime.fromtimestamp(float(times.values[-1]), timezone.utc):%d %B %Y}" == taken
        line, text = months[-1]
        assert capsys.readouterr().err == f"a.csv, line {line}: {text!r} in the first column is taken as {taken}\n"
    assert read_times("a.csv", [(1, "a"), (2, "b")]) is None


def test_a_column_without_change_is_said(run):
    rows = [f"{day},{max(n - 30, 0)},{n % 3 if n < 32 else 1}\n" for n, day in enumerate(DAYS)]
    Path("a.csv").write_text("date,late,load\n" + "".join(rows))
    options = ["--data", "a.csv", "--columns", "all", "--output", "out"]
    code, _, errors = run("train", "forecast", *SMALL, *options)
    assert code == 0 and errors == (
        "a.csv: column 'load' is 1 in the last part, which the figures are of\n"
        "a.csv: column 'late' is 0 in the 28 rows to learn from\n"
    )
