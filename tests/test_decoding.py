"""From scores to tokens: text, translations, beams, and what a decoder attends to."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import tensors
from model_cases import (
    CASES,
    LENGTHS,
    SIZES,
    START,
    STOP,
    TARGET,
    TOKENS,
    B,
    T,
    V,
    every_class,
    padded,
    seeded,
    seq2seq,
    tokens,
)
from torch import Tensor

from fastrnn.models import LanguageModel, Seq2Seq, detach, teacher_forcing_ratio
from fastrnn.models.decoding import rollout

pytestmark = pytest.mark.usefixtures("single_thread")


@every_class
def test_greedy_text_is_that_of_reading_everything_again(rnn):
    model = seeded(CASES["language"].build, rnn=rnn)
    text = tokens(4)
    for _ in range(8):
        text = torch.cat([text, model(text[None])[0][0, -1].argmax(keepdim=True)])
    assert model.generate(text[:4], 8, temperature=0).tolist() == text[4:].tolist()


@every_class
def test_the_state_carries_a_text_on_and_can_be_cut_off(rnn):
    model = seeded(CASES["language"].build, rnn=rnn)
    whole, _ = model(tokens(B, T))
    first, state = model(tokens(B, T)[:, :2])
    cut = detach(state)
    rest, _ = model(tokens(B, T)[:, 2:], cut)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    assert all(part.requires_grad for part in tensors(state)) and not any(part.requires_grad for part in tensors(cut))
    assert detach(None) is None


def generators() -> dict[str, Callable[..., list[Any]]]:
    language, generator = (seeded(CASES[name].build) for name in ("language", "generator"))
    vector = torch.eye(B, dtype=torch.float64)
    return {
        "language": lambda length, **more: [language.generate(tokens(4), length, **more).tolist()],
        "generator": lambda length, **more: generator.generate(vector, START, length, **more),
    }


@pytest.mark.parametrize("name", ["language", "generator"])
def test_sampling(name):
    generate = generators()[name]
    before = torch.get_rng_state()
    sampled = generate(30, seed=5)
    assert sampled == generate(30, seed=5) != generate(30, seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    greedy = generate(30, temperature=0)
    assert greedy == generate(30, top_k=1) != sampled
    assert all(greedy == generate(30, temperature=small, seed=1) for small in (1e-9, 1e-50, 5e-324))
    assert generate(30, seed=5, top_k=V) == sampled

    stop = sampled[0][10]
    expected = [row[: row.index(stop)] if stop in row else row for row in sampled]
    assert generate(30, seed=5, stop=stop) == expected


@pytest.mark.parametrize(
    "options,expected",
    [
        ({"top_k": 1}, 1),
        ({"top_k": 2}, 2),
        ({}, 4),
        ({"temperature": 1e300}, 4),
        ({"temperature": 1e-50, "top_k": 2}, 2),
    ],
)
def test_how_many_of_equal_scores_are_drawn(options, expected):
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.9, -torch.inf]])
    drawn = rollout(lambda *_: (scores, None), TOKENS[:1], None, 200, **{"temperature": 1.0, "seed": 0} | options)
    assert len({int(token) for token in drawn}) == expected


def test_the_stream_is_the_text_token_by_token():
    model = LanguageModel(V, dropout=0.5, **SIZES).train()
    model.embedding.eval()
    stream = model.stream(tokens(4), 30, seed=5)
    first = next(stream)
    assert model.training and not model.embedding.training  # between tokens too
    assert torch.is_grad_enabled()
    assert [first, *stream] == model.generate(tokens(4), 30, seed=5).tolist()


def test_a_generator_starts_from_its_vector():
    model = seeded(CASES["generator"].build)
    vector = torch.eye(B, dtype=torch.float64)
    text = torch.full((B, 1), START)
    for _ in range(5):
        text = torch.cat([text, model(vector, text)[:, -1:].argmax(2)], 1)
    assert model.generate(vector, START, 5, temperature=0) == text[:, 1:].tolist()
    assert len({tuple(row) for row in model(vector, TARGET[:1].expand(B, -1))[:, 0].tolist()}) == B


@every_class
@pytest.mark.parametrize("attention", [None, "dot", "additive"])
def test_full_teacher_forcing_is_one_call_and_equal_to_steps(attention, rnn):
    model = seeded(seq2seq(attention=attention, layers=2), rnn=rnn)
    calls = []
    model.decoder.register_forward_hook(lambda *_: calls.append(None))
    at_once = model(TOKENS, LENGTHS, TARGET)
    assert len(calls) == 1
    torch.testing.assert_close(model(TOKENS, LENGTHS, TARGET, teacher_forcing=1 - 1e-12), at_once)
    assert len(calls) == 6


def vivid(**options: Any) -> Seq2Seq:
    """A model with large weights, whose answers differ from row to row."""
    model = seeded(lambda **more: Seq2Seq(V, 4, embedding=8, hidden=16, **more), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        model.scores.bias.zero_()
    return model


@every_class
@pytest.mark.parametrize("attention", [None, "dot", "additive"])
def test_greedy_translation_is_what_the_model_says_without_a_teacher(attention, rnn):
    model = vivid(attention=attention, rnn=rnn)
    source, lengths = padded(tokens(8, T), tokens(8, low=1).clamp(max=T)), tokens(8, low=1).clamp(max=T)
    target = torch.full((8, 6), START)
    said = model(source, lengths, target, teacher_forcing=0.0).argmax(2).tolist()
    expected = [row[: row.index(STOP)] if STOP in row else row for row in said]
    assert model.greedy(source, lengths, 5) == expected
    assert model.beam(source, lengths, 5, width=1) == expected
    assert len({tuple(row) for row in expected}) > 1


def log_probability(model: Seq2Seq, source: Tensor, answer: tuple[int, ...], longest: int) -> tuple[float, int]:
    """That of an answer, with stop if there is room for it, and its length."""
    whole = (*answer, STOP)[:longest]
    target = torch.tensor([[START, *whole]])
    found = model(source, None, target).log_softmax(2)[0]
    return float(sum(found[i, token] for i, token in enumerate(whole)).detach()), len(whole)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("attention", [None, "dot"])
def test_a_beam_that_holds_everything_finds_the_best(attention, penalty):
    model = vivid(attention=attention)
    longest = 4
    without_stop = [token for token in range(4) if token != STOP]
    answers = [answer for n in range(longest + 1) for answer in itertools.product(without_stop, repeat=n)]
    source = tokens(8, T)

    def rank(row: int, answer: tuple[int, ...]) -> float:
        value, length = log_probability(model, source[row : row + 1], answer, longest)
        return value / ((5 + length) / 6) ** penalty

    best = [list(max(answers, key=lambda answer, row=row: rank(row, answer))) for row in range(8)]
    assert model.beam(source, None, longest, width=4**longest, length_penalty=penalty) == best


def test_a_beam_is_at_least_as_good_as_greed():
    model = vivid(attention="additive")
    source = tokens(16, T)
    greedy, beam = model.greedy(source, None, 6), model.beam(source, None, 6, width=4, length_penalty=0.0)
    gains = [
        log_probability(model, row[None], tuple(b), 6)[0] - log_probability(model, row[None], tuple(g), 6)[0]
        for row, g, b in zip(source, greedy, beam, strict=True)
    ]
    assert min(gains) > -1e-9 and max(gains) > 0.01


@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_attention_gives_padding_no_weight_at_all(attention):
    model = vivid(attention=attention)
    state, memory = model.encode(TOKENS, LENGTHS)
    y, _ = model.decoder(model.target_embedding(TARGET.clamp(max=3)), state)
    _, weights = model.attention(y, memory)
    real = (torch.arange(T) < LENGTHS[:, None])[:, None].expand_as(weights)
    assert (weights[~real] == 0).all() and (weights[real] > 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(B, 6).double())


@pytest.mark.parametrize(
    "schedule,start,middle,end",
    [("linear", 1, 0.5, 0), ("exponential", 1, 0.1, 0.01), ("inverse_sigmoid", 0.99, 0.5, 0.01)],
)
def test_schedules_of_teacher_forcing_fall(schedule, start, middle, end):
    ratios = [teacher_forcing_ratio(step, 10, schedule) for step in range(21)]
    assert [ratios[0], ratios[5], ratios[10], ratios[20]] == pytest.approx([start, middle, end, end])
    assert all(a > b for a, b in itertools.pairwise(ratios[:11]))
