"""The models: the same with torch.nn's layers and fastrnn's, blind to padding, able to learn."""

import io
import math
from typing import Any

import pytest
import torch
from comparison import assert_same, inputs
from model_cases import (
    CASES,
    CHARACTERS,
    LENGTHS,
    NAMES,
    SERIES,
    START,
    TARGET,
    TOKENS,
    TORCH_NAMES,
    B,
    T,
    V,
    every_case,
    every_class,
    run,
    seeded,
    seq2seq,
)
from torch import Tensor, nn
from torch.nn.functional import pad

import fastrnn
from fastrnn.models import (
    Forecaster,
    Seq2Seq,
    SequenceClassifier,
    SequenceTagger,
    pinball_loss,
    tag_scores,
    teacher_forcing_ratio,
)

pytestmark = pytest.mark.usefixtures("single_thread")


@every_case
@pytest.mark.parametrize("name", TORCH_NAMES)
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


@pytest.mark.parametrize(
    "rnn",
    [getattr(nn, name) for name in TORCH_NAMES] + [getattr(fastrnn, name) for name in NAMES],
    ids=[f"torch.nn-{name}" for name in TORCH_NAMES] + NAMES,
)
@pytest.mark.parametrize("case", ["classifier-max", "classifier-last", "classifier-mean", "tagger", "tagger-words"])
def test_a_batch_may_be_empty(case, rnn):
    model = CASES[case].build(rnn=rnn)
    nothing = [x[:0] for x in CASES[case].arguments]
    assert model(*nothing).shape == (0, *CASES[case].shape[1:])


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


@pytest.mark.parametrize("rows", [7, 100, 1000])
@pytest.mark.parametrize("value", [0.0, 0.1, 3.3])
def test_a_constant_feature_is_not_scaled(value, rows):
    model = Forecaster(1, 1)
    model.fit_normalisation(torch.full((rows, 1), value))
    assert model.deviation.tolist() == [1]


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
        (lambda: model("language").stream(TOKENS[0], 3, temperature=math.nan), "temperature: .* finite, got nan"),
        (lambda: model("language").stream(TOKENS[0], 3, temperature=math.inf), "temperature: .* finite, got inf"),
        (lambda: model("generator").generate(torch.eye(B), START, 3, top_k=-1), "top_k: expected at least 1"),
        (lambda: Forecaster(2, 3, targets=3), "targets: expected 1 to 2"),
        (lambda: Forecaster(2, 0), "horizon: expected at least 1, got 0"),
        (lambda: model("forecaster-recursive")(SERIES, horizon=0), "horizon: expected at least 1, got 0"),
        (lambda: model("forecaster-recursive")(SERIES, horizon=-5), "horizon: expected at least 1, got -5"),
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
