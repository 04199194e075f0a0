"""The models: the same with torch.nn's layers and fastrnn's, blind to padding, able to learn, right in decoding."""

import io
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from comparison import assert_same, inputs, tensors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import fastrnn
from fastrnn.models import (
    Forecaster,
    LanguageModel,
    Seq2Seq,
    SequenceClassifier,
    SequenceGenerator,
    SequenceTagger,
    detach,
    pinball_loss,
    tag_scores,
    teacher_forcing_ratio,
)

pytestmark = pytest.mark.usefixtures("single_thread")

NAMES = ["LSTM", "GRU", "RNN"]
every_class = pytest.mark.parametrize("rnn", [getattr(fastrnn, name) for name in NAMES], ids=NAMES)

V, B, T = 9, 3, 6
LENGTHS = torch.tensor([6, 1, 4])
SIZES = {"embedding": 5, "hidden": 6}
START, STOP = 1, 2


def tokens(*shape: int, low: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(low, V, shape, generator=torch.Generator().manual_seed(seed))


def padded(x: Tensor, lengths: Tensor = LENGTHS) -> Tensor:
    return torch.where(torch.arange(x.size(1)) < lengths[:, None], x, 0)


TOKENS = padded(tokens(B, T))
CHARACTERS = torch.where(torch.arange(4) < tokens(B, T, low=0).clamp(max=4)[:, :, None], tokens(B, T, 4, seed=2), 0)
TARGET = torch.cat([torch.full((B, 1), START), tokens(B, 4, seed=3), torch.full((B, 1), STOP)], 1)
SERIES = inputs(B, T, 4)


def next_token_loss(scores: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(scores.flatten(0, 1), target.flatten())


class Case(NamedTuple):
    build: Callable[..., nn.Module]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    loss: Callable[[nn.Module, Tensor], Tensor]


def seq2seq(**options: Any) -> Callable[..., nn.Module]:
    return lambda **more: Seq2Seq(V, V, **SIZES, **options, **more)


def translation(**options: Any) -> Case:
    return Case(
        seq2seq(**options), (TOKENS, LENGTHS, TARGET), (B, 5, V), lambda _, y: next_token_loss(y, TARGET[:, 1:])
    )


def classification(**options: Any) -> Case:
    return Case(
        lambda **more: SequenceClassifier(V, 4, bidirectional=True, layers=2, **SIZES, **options, **more),
        (TOKENS, LENGTHS),
        (B, 4),
        lambda _, y: cross_entropy(y, torch.tensor([0, 2, 3])),
    )


def forecast(shape: tuple[int, ...], **options: Any) -> Case:
    return Case(
        lambda **more: Forecaster(4, 3, targets=2, hidden=8, **options, **more),
        (SERIES,),
        shape,
        lambda model, y: model.loss(y, SERIES.to(y)[:, :3, :2]),
    )


CASES = {
    "classifier-max": classification(pooling="max"),
    "classifier-last": classification(pooling="last"),
    "classifier-mean": classification(pooling="mean"),
    "tagger": Case(
        lambda **more: SequenceTagger(V, 4, characters=V, character_embedding=3, character_hidden=2, **SIZES, **more),
        (TOKENS, LENGTHS, CHARACTERS),
        (B, T, 4),
        lambda model, y: model.loss(y, TOKENS % 4, LENGTHS),
    ),
    "language": Case(
        lambda **more: LanguageModel(V, **SIZES, **more),
        (tokens(B, T),),
        (B, T, V),
        lambda _, y: next_token_loss(y, tokens(B, T).roll(-1, 1)),
    ),
    "language-tied": Case(
        lambda **more: LanguageModel(V, tied=True, **SIZES, **more),
        (tokens(B, T),),
        (B, T, V),
        lambda _, y: next_token_loss(y, tokens(B, T).roll(-1, 1)),
    ),
    "generator": Case(
        lambda **more: SequenceGenerator(B, V, layers=2, **SIZES, **more),
        (torch.eye(B, dtype=torch.float64), TARGET[:, :-1]),
        (B, 5, V),
        lambda _, y: next_token_loss(y, TARGET[:, 1:]),
    ),
    "forecaster": forecast((B, 3, 2), layers=2),
    "forecaster-recursive": forecast((B, 3, 2), recursive=True),
    "forecaster-quantiles": forecast((B, 3, 2, 2), quantiles=(0.1, 0.5)),
    "seq2seq": translation(layers=2),
    "seq2seq-dot": translation(attention="dot"),
    "seq2seq-additive": translation(attention="additive", bidirectional=False),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def seeded(build: Callable[..., nn.Module], dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(**options).to(dtype).eval()


def run(case: Case, model: nn.Module) -> Tensor:
    output = model(*case.arguments)
    return output if isinstance(output, Tensor) else output[0]


@every_case
@pytest.mark.parametrize("name", NAMES)
def test_torch_nn_and_fastrnn_give_the_same_from_the_same_weights(case, name):
    found = []
    theirs, ours = (case.build(rnn=getattr(namespace, name)).double() for namespace in (nn, fastrnn))
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        y = run(case, model)
        assert y.shape == case.shape
        case.loss(model, y).backward()
        found.append({"y": y.detach(), **{n: p.grad for n, p in model.named_parameters()}})
    assert_same(found[1], found[0])
    assert all(gradient.any() for gradient in found[0].values())


@every_case
def test_learns_a_batch_by_heart_and_survives_saving(case):
    model = seeded(case.build)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss = case.loss(model, run(case, model))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = case.build().double().eval()
    other.load_state_dict(torch.load(file))
    assert torch.equal(run(case, other), run(case, model))


def widened(x: Tensor) -> Tensor:
    """Five more positions of padding, and two more in words of characters."""
    return pad(x, (0, 5) if x.dim() == 2 else (0, 2, 0, 5))


@every_class
@pytest.mark.parametrize("name", ["classifier-max", "classifier-last", "classifier-mean", "tagger"])
def test_a_row_has_the_same_scores_alone_and_in_any_batch(name, rnn):
    case = CASES[name]
    model = seeded(case.build, torch.float32, rnn=rnn)
    x, lengths, *characters = case.arguments
    expected = model(x, lengths, *characters)
    wide = model(widened(x), lengths, *map(widened, characters))
    for row, n in enumerate(lengths.tolist()):
        alone = model(x[row : row + 1, :n], None, *(c[row : row + 1, :n] for c in characters))[0]
        real = slice(n) if name == "tagger" else slice(None)
        for other in (alone, wide[row]):
            torch.testing.assert_close(other[real], expected[row, real], rtol=0, atol=1e-6)


@every_class
@pytest.mark.parametrize("attention", [None, "dot", "additive"])
def test_a_translation_does_not_depend_on_padding(attention, rnn):
    model = seeded(seq2seq(attention=attention), torch.float32, rnn=rnn)
    expected = model(TOKENS, LENGTHS, TARGET)
    others = [model(widened(TOKENS), LENGTHS, TARGET)]
    rows = range(B)
    others.append(torch.cat([model(TOKENS[r : r + 1, : LENGTHS[r]], None, TARGET[r : r + 1]) for r in rows]))
    for other in others:
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-6)


def test_padding_never_wins_against_negative_activations():
    model = seeded(CASES["classifier-max"].build)
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            if name.startswith("bias"):
                parameter[12:18] = -9.0  # g of i, f, g, o: the cell falls, and every output is negative
    seen = []
    model.scores.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(TOKENS, LENGTHS)
    assert (seen[0] < 0).all()


def test_a_mask_is_as_good_as_lengths():
    model = seeded(CASES["classifier-max"].build)
    mask = torch.arange(T) < LENGTHS[:, None]
    assert torch.equal(model(TOKENS, mask=mask), model(TOKENS, LENGTHS))


def test_last_pooling_joins_the_final_states_of_both_directions():
    model = seeded(CASES["classifier-last"].build)
    y, _ = model.rnn(model.embedding(TOKENS[2:, :4]))
    joined = torch.cat([y[:, -1, :6], y[:, 0, 6:]], 1)
    torch.testing.assert_close(model(TOKENS[2:], LENGTHS[2:]), model.scores(joined))


def test_tagger_loss_and_scores_leave_padding_out():
    model = seeded(CASES["tagger"].build)
    scores, tags = torch.full((2, 3, 4), -9.0), torch.tensor([[0, 1, 3], [1, 3, 3]])
    lengths = torch.tensor([2, 1])
    scores[0, 0, 0] = scores[0, 1, 2] = scores[1, 0, 1] = 9.0  # right, wrong, right
    assert model.loss(scores, tags, lengths) == pytest.approx(18.0 / 3, abs=1e-3)

    found = tag_scores(scores.argmax(2), tags, 4, lengths)
    assert found.precision.tolist() == [1, 1, 0, 0]
    assert found.recall.tolist() == [1, 0.5, 0, 0]
    assert found.f1.tolist() == pytest.approx([1, 2 / 3, 0, 0])


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
    assert greedy == generate(30, top_k=1) == generate(30, temperature=1e-9, seed=1) != sampled
    assert generate(30, seed=5, top_k=V) == sampled

    stop = sampled[0][10]
    expected = [row[: row.index(stop)] if stop in row else row for row in sampled]
    assert generate(30, seed=5, stop=stop) == expected


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


@pytest.mark.parametrize("options", [{}, {"recursive": True}, {"quantiles": (0.1, 0.5)}], ids=["direct", "steps", "q"])
def test_a_forecast_is_in_the_units_of_the_series(options):
    scale, shift = torch.tensor([100.0, 3.0, 1.0, 0.0]).double(), torch.tensor([7.0, 0.0, 0.0, 5.0]).double()
    found = []
    for x in (SERIES * torch.tensor([1.0, 1.0, 1.0, 0.0]), SERIES * scale + shift):
        model = seeded(lambda **more: Forecaster(4, 3, targets=2, **more), **options)
        model.fit_normalisation(x)
        found.append((model(x), model.loss(model(x), x[:, :3, :2])))
    (plain, loss), (scaled, same_loss) = found
    trailing = (2, 1) if "quantiles" in options else (2,)
    torch.testing.assert_close(scaled, plain * scale[:2].view(trailing) + shift[:2].view(trailing))
    torch.testing.assert_close(loss, same_loss)


@every_class
def test_a_recursive_forecast_is_that_of_reading_everything_again(rnn):
    model = seeded(lambda **more: Forecaster(4, 1, targets=4, recursive=True, **more), rnn=rnn)
    model.fit_normalisation(SERIES)
    series = SERIES
    for _ in range(5):
        series = torch.cat([series, model(series)], 1)
    torch.testing.assert_close(model(SERIES, horizon=5), series[:, T:])


@every_class
@pytest.mark.parametrize("recursive", [False, True])
def test_a_forecast_goes_on_from_a_state(recursive, rnn):
    model = seeded(lambda **more: Forecaster(4, 3, **more), rnn=rnn, recursive=recursive)
    _, state = model.read(SERIES[:, :2])
    torch.testing.assert_close(model(SERIES[:, 2:], state), model(SERIES))


def test_pinball_loss_is_least_at_the_quantile():
    sample = inputs(1001).sort().values
    for q in (0.1, 0.5, 0.9):
        losses = torch.stack([pinball_loss(guess.expand(1001, 1), sample, (q,)) for guess in sample])
        assert sample[losses.argmin()] == sample.quantile(q)


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


def model(name: str) -> Any:
    return CASES[name].build()


GAP = torch.tensor([[True, False, True]])


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: SequenceClassifier(V, 2, pooling="min"), "pooling: expected one of max, last, mean, got 'min'"),
        (lambda: model("classifier-max")(TOKENS, torch.tensor([2, 0, 1])), "1 to 6 in every row, got 0 in row 1"),
        (lambda: model("tagger")(TOKENS, torch.tensor([2, 1, 7]), CHARACTERS), "1 to 6 in every row, got 7 in row 2"),
        (lambda: model("seq2seq")(TOKENS, torch.tensor([0, 1, 1]), TARGET), "source_lengths: .* got 0 in row 0"),
        (lambda: model("classifier-max")(TOKENS[0]), r"tokens: expected \[B, T\], got \(6,\)"),
        (lambda: model("classifier-max")(TOKENS, torch.tensor([2, 1])), "lengths: expected 3 integers"),
        (lambda: model("classifier-max")(TOKENS, mask=TOKENS == 0), "mask: expected padding on the right only"),
        (lambda: model("classifier-max")(TOKENS, mask=GAP), r"mask: expected bool of shape \(3, 6\)"),
        (lambda: model("classifier-max")(TOKENS, LENGTHS, TOKENS > 0), "expected lengths or mask, got both"),
        (lambda: model("tagger")(TOKENS, LENGTHS), "characters: expected .*B, T, C.*, got none"),
        (lambda: SequenceTagger(V, 4)(TOKENS, LENGTHS, CHARACTERS), "characters: expected none"),
        (lambda: model("tagger")(TOKENS, LENGTHS, CHARACTERS[:, 1:]), r"characters: expected \(3, 6, 'C'\)"),
        (lambda: model("tagger")(TOKENS, LENGTHS, CHARACTERS.flip(2)), "characters: expected padding on the right"),
        (lambda: tag_scores(TOKENS, TARGET[:, 1:], 4), r"predicted: expected \(3, 5\) as tags, got \(3, 6\)"),
        (lambda: model("language").stream(TOKENS, 3), r"prefix: expected \[T\]"),
        (lambda: model("language").generate(TOKENS[0, :0], 3), "at least one token"),
        (lambda: model("language").stream(TOKENS[0], 0), "length of at least 1, got 0"),
        (lambda: model("language").stream(TOKENS[0], 3, temperature=-1), "temperature: expected at least 0"),
        (lambda: model("generator").generate(torch.eye(B), START, 3, top_k=-1), "top_k: expected at least 1"),
        (lambda: Forecaster(2, 3, targets=3), "targets: expected 1 to 2"),
        (lambda: Forecaster(2, 3, quantiles=(0.5, 0.1)), "quantiles: expected numbers that rise"),
        (lambda: Forecaster(2, 3, quantiles=(0.0, 0.5)), "quantiles: expected numbers that rise"),
        (lambda: Forecaster(2, 3, quantiles=(0.5,), recursive=True), "expected none of a recursive"),
        (lambda: Forecaster(2, 3)(torch.zeros(1, 2, 2), horizon=4), "horizon: expected 3, .* got 4"),
        (lambda: Forecaster(2, 3).loss(torch.zeros(1, 3, 1), torch.zeros(1, 3)), r"target: expected \(1, 3, 1\)"),
        (lambda: Seq2Seq(V, V, attention="general"), "attention: expected None or one of dot, additive"),
        (lambda: model("seq2seq")(TOKENS, LENGTHS, TOKENS), "target: expected .* begins with start"),
        (lambda: model("seq2seq")(TOKENS, LENGTHS, TARGET, 1.5), "teacher_forcing: expected a probability"),
        (lambda: model("seq2seq").greedy(TOKENS, LENGTHS, 0), "length of at least 1"),
        (lambda: model("seq2seq").beam(TOKENS, LENGTHS, 3, 0), "width: expected at least 1"),
        (lambda: teacher_forcing_ratio(1, 2, "cosine"), "schedule: expected one of linear"),
        (lambda: teacher_forcing_ratio(-1, 2), "step of at least 0"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
