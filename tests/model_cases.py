"""Small models of every kind, with an input and a loss each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from comparison import inputs
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastrnn
from fastrnn.models import (
    Forecaster,
    LanguageModel,
    Seq2Seq,
    SequenceClassifier,
    SequenceGenerator,
    SequenceTagger,
)
from fastrnn.testing import IN_TORCH, LAYERS

NAMES = list(dict.fromkeys(kind.class_name for kind in LAYERS.values()))
every_class = pytest.mark.parametrize("rnn", [getattr(fastrnn, name) for name in NAMES], ids=NAMES)
TORCH_NAMES = list(dict.fromkeys(LAYERS[cell].class_name for cell in IN_TORCH))

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
    "tagger-words": Case(
        lambda **more: SequenceTagger(V, 4, **SIZES, **more),
        (TOKENS, LENGTHS),
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
