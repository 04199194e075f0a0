"""``python -m fastrnn bench``: what it prints and draws, and what it refuses."""

import pytest

SMALL = ["--batch", 2, "--steps", 3, "--input", 4, "--hidden", 8, "--seconds", 0.001]


def test_it_prints_a_table_and_draws(run, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "mine.svg"
    code, out, err = run("bench", *SMALL, "--cell", "lstm", "cifg", "--ragged", "--output", picture)
    assert code == 0 and err == ""
    for cell in ("LSTM", "CIFG"):
        for mode in ("inference", "training"):
            lines = [line for line in out.splitlines() if line.startswith(f"{cell} B2-T3-I4-H8-ragged  {mode}")]
            assert [line.split()[3] for line in lines] == ["fastrnn", "torch.nn"]
            assert float(lines[1].split()[-2]) > 0
    assert "<svg" in picture.read_text()


def test_all_sizes_are_combined_and_engines_take_part(run, tmp_path):
    pytest.importorskip("onnxruntime")
    sizes = ["--batch", 1, 2, "--steps", 3, "--input", 4, "--hidden", 8, "--seconds", 0.001]
    code, out, _ = run("bench", *sizes, "--mode", "inference", "--output", tmp_path / "mine.png")
    assert code == 0
    assert all(f"LSTM B{batch}-T3-I4-H8  inference  ONNX Runtime" in out for batch in (1, 2))


def test_a_wrong_result_is_not_timed(run, monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("output: error 1.0, allowed 0.1")

    monkeypatch.setattr("fastrnn.bench.measured.check_fastrnn", refuse)
    code, out, err = run("bench", *SMALL, "--output", tmp_path / "mine.png")
    assert (
        code == 1 and "ratio  quartiles" not in out and "not timed, for the results are wrong: output: error 1.0" in err
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--hidden", "0"], "expected a positive integer, got '0'"),
        (["--dtype", "float64", "--as-bf16"], "--as-bf16: expected --dtype float32, got float64"),
        (["--seconds", "nan"], "expected a number above 0, got 'nan'"),
        (["--output", "mine.jpg"], "expected a file with one of the endings .png, .pdf, .svg, got 'mine.jpg'"),
    ],
    ids=["size", "type", "seconds", "picture"],
)
def test_arguments_are_checked(run, arguments, reason):
    code, _, err = run("bench", *arguments)
    assert code and reason in err
