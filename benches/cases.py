"""The cases, as data: each is named after a program that runs a recurrent layer of this shape."""

from __future__ import annotations

from fastrnn.bench.case import MODES, Case

__all__ = ["CASES", "MODES", "Case"]


def _cases(name: str, cells: str, *sizes: int, **options: int | bool | str) -> list[Case]:
    return [Case(name, cell, *sizes, **options) for cell in cells.split()]


_ALL = "lstm gru rnn_tanh"

CASES: tuple[Case, ...] = (
    # One dense layer; sizes are batch, steps, input, hidden.
    *_cases("keyword-spotting", _ALL, 1, 100, 64, 64),
    *_cases("sentence-encoder", _ALL, 1, 100, 256, 256),
    *_cases("ocr-line", _ALL, 1, 255, 512, 256),
    *_cases("speaker-id", _ALL, 4, 160, 40, 256),
    *_cases("music-tagger", _ALL, 8, 100, 128, 128),
    *_cases("recurrent-policy", _ALL, 16, 128, 64, 256),
    *_cases("activity", _ALL, 32, 100, 64, 64),
    *_cases("char-lm", f"{_ALL} cifg", 32, 100, 128, 128),
    *_cases("text-classifier", f"{_ALL} cifg", 32, 100, 256, 256, batch_first=True),
    *_cases("forecaster", _ALL, 32, 24, 1, 128, batch_first=True),
    *_cases("hospital-vitals", _ALL, 64, 48, 24, 40, batch_first=True),
    *_cases("word-lm", _ALL, 64, 100, 128, 512),
    *_cases("translation", _ALL, 64, 50, 1024, 1024),
    *_cases("telemetry", _ALL, 128, 50, 16, 64),
    *_cases("noise-suppressor", "gru", 1, 100, 42, 24),
    *_cases("pixel-rows", "rnn_relu", 64, 28, 28, 64, batch_first=True),
    # A single step.
    *_cases("streaming-step", f"{_ALL} cifg", 1, 1, 128, 128),
    *_cases("policy-step", _ALL, 16, 1, 64, 256),
    *_cases("beam-step", "lstm gru", 8, 1, 512, 512, layers=2),
    # Stacked, bidirectional, projected.
    *_cases("speech-separation", "lstm gru", 64, 100, 64, 128, bidirectional=True, batch_first=True),
    *_cases("line-reader", "lstm gru rnn_tanh", 8, 128, 256, 256, layers=2, bidirectional=True),
    *_cases("speech-recognizer", "lstm gru", 8, 200, 80, 256, layers=3, bidirectional=True, batch_first=True),
    *_cases("speech-transducer", "lstm", 8, 100, 80, 512, proj_size=128),
    # Ragged.
    *_cases("tagger", f"{_ALL} cifg", 32, 60, 100, 128, bidirectional=True, ragged=True),
    *_cases("reviews", _ALL, 32, 200, 128, 128, ragged=True),
    *_cases("utterances", "lstm gru", 16, 300, 80, 256, ragged=True),
    # Other precisions.
    *_cases("plant-model", "lstm gru", 32, 100, 64, 64, dtype="float64"),
    *_cases("plant-step", "lstm", 1, 1, 16, 64, dtype="float64"),
    *_cases("sentence-encoder", "lstm", 1, 100, 256, 256, dtype="bfloat16"),
    *_cases("sleep-stages", "lstm gru", 16, 120, 64, 128, dtype="bfloat16"),
    *_cases("recurrent-policy", "lstm gru", 16, 128, 64, 256, dtype="bfloat16"),
    *_cases("captioner", "lstm gru", 16, 20, 512, 512, dtype="bfloat16"),
    *_cases("char-lm", "lstm gru", 32, 100, 128, 128, dtype="bfloat16"),
    *_cases("text-classifier", "lstm gru", 32, 100, 256, 256, batch_first=True, dtype="bfloat16"),
    *_cases("query-encoder", "lstm gru", 32, 30, 300, 512, dtype="bfloat16"),
    *_cases("speech-separation", "lstm gru", 64, 100, 64, 128, bidirectional=True, batch_first=True, dtype="bfloat16"),
    *_cases("clickstream", "lstm gru", 64, 50, 128, 256, dtype="bfloat16"),
    *_cases("word-lm", "lstm gru", 64, 100, 128, 512, dtype="bfloat16"),
    *_cases("text-classifier", "lstm gru", 32, 100, 256, 256, batch_first=True, fp32_precision="bf16"),
    *_cases("query-encoder", "lstm gru", 32, 30, 300, 512, fp32_precision="bf16"),
    *_cases("clickstream", "lstm gru", 64, 50, 128, 256, fp32_precision="bf16"),
    *_cases("word-lm", "lstm gru", 64, 100, 128, 512, fp32_precision="bf16"),
)
